package caddymodule

import (
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

const (
	// maxName is the most octets of a member's name.
	maxName = 1 << 10
	// maxDepth is how deep a value may be nested that is not known.
	maxDepth = 64
	// maxShort is the most octets of a string that is no text of a mail.
	maxShort = 64 << 10

	jsonBuffer = 16 << 10
)

// jsonReader reads JSON (RFC 8259) as it arrives, and keeps no more of it than is
// asked for. It is strict: a member that comes twice, or in another case, is an error.
// encoding/json lets the last one win, so that what one program checked is not what
// another sends; and it replaces in silence what is no UTF-8.
//
// All errors are [*problem]s that name the place in the document. An error of a value,
// and not of the document, leaves the reader within that value or behind it: see
// leave.
type jsonReader struct {
	from     io.Reader
	buf      []byte
	pos, end int
	before   int64 // octets before those in buf
	err      error // why there is no more
	dead     bool  // nothing more can be read
	inString bool  // the last string was not read to its end

	path  []step
	root  int // steps that are not told
	depth int // of the brackets that are open
	text  []byte
	char  [utf8.UTFMax]byte
}

// step is a place in an object or a list.
type step struct {
	name  string
	index int // with no name; below zero: in neither
}

var nowhere = step{index: -1}

func (r *jsonReader) reset(from io.Reader) {
	if cap(r.buf) < jsonBuffer {
		r.buf = make([]byte, jsonBuffer)
	}
	r.from, r.buf, r.pos, r.end, r.before, r.err = from, r.buf[:cap(r.buf)], 0, 0, 0, nil
	r.dead, r.inString = false, false
	r.path, r.root, r.depth, r.text = r.path[:0], 0, 0, r.text[:0]
}

// place is where the reader is, such as attachments[2].content.
func (r *jsonReader) place() string {
	where := ""
	for _, s := range r.path[r.root:] {
		switch {
		case s.name != "":
			where = join(where, s.name)
		case s.index >= 0:
			where += "[" + strconv.Itoa(s.index) + "]"
		}
	}
	return where
}

// wrong is an error of the value at the current place.
func (r *jsonReader) wrong(what string) error { return badJSON(r.place(), what) }

// broken is an error of the document, behind which nothing can be read.
func (r *jsonReader) broken() error {
	more := r.need(1)
	if r.err != nil && r.err != io.EOF {
		return unreadable(r.err)
	}
	if !more {
		if r.depth == 0 && !r.inString {
			return r.fatal("is empty")
		}
		return r.fatal("ends too early: it was cut, or a quote or a bracket is not closed")
	}
	c := r.buf[r.pos]
	at := fmt.Sprintf("is no JSON: octet %d ", r.before+int64(r.pos)+1)
	switch {
	case r.inString && c < ' ':
		return r.fatal(at + "is a line break or another control character, which is escaped in a string")
	case c <= ' ' || c > '~' || c == '`':
		return r.fatal(at + fmt.Sprintf("(0x%02x) cannot stand there", c))
	}
	return r.fatal(at + fmt.Sprintf("(`%c`) cannot stand there", c))
}

// fatal is an error behind which nothing can be read.
func (r *jsonReader) fatal(what string) error {
	r.dead = true
	return r.wrong(what)
}

// fill reads more, behind what is not taken yet.
func (r *jsonReader) fill() bool {
	if r.err != nil {
		return false
	}
	r.before += int64(r.pos)
	r.end = copy(r.buf, r.buf[r.pos:r.end])
	r.pos = 0
	for range 100 {
		n, err := r.from.Read(r.buf[r.end:])
		r.end += n
		if r.err = err; n > 0 {
			return true
		}
		if err != nil {
			return false
		}
	}
	r.err = io.ErrNoProgress
	return false
}

// need sees to it that n octets can be looked at.
func (r *jsonReader) need(n int) bool {
	for r.end-r.pos < n {
		if !r.fill() {
			return false
		}
	}
	return true
}

// peek returns the first octet of what comes next, which is not white space; 0 at the
// end.
func (r *jsonReader) peek() byte {
	for {
		for r.pos < r.end {
			switch c := r.buf[r.pos]; c {
			case ' ', '\t', '\n', '\r':
				r.pos++
			default:
				return c
			}
		}
		if !r.fill() {
			return 0
		}
	}
}

// take takes an octet if it comes next.
func (r *jsonReader) take(c byte) bool {
	if r.peek() != c || c == 0 {
		return false
	}
	r.pos++
	return true
}

// finish reads the end of the document.
func (r *jsonReader) finish() error {
	if r.peek() != 0 || r.pos < r.end {
		return r.wrong("is followed by something else")
	}
	if r.err != io.EOF {
		return r.broken()
	}
	return nil
}
