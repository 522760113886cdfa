package mailer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// maxTextLine is the length of a line without its CRLF (RFC 5321, section
// 4.5.3.1.6; RFC 5322, section 2.1.1).
const maxTextLine = 998

// errNotCanonical is the cause when content breaks the promise of [Content].
var errNotCanonical = errors.New("content is not canonical")

// contentWriter writes content as DATA or BDAT wants it. What is not canonical
// never passes, nor does anything behind it: a server that takes other line ends
// than ours for the end of the data would read the rest as commands. A CR waits
// for its LF.
type contentWriter struct {
	out  *gather
	size int64 // octets that were announced
	// lines doubles a dot in front of a line (RFC 5321, section 4.5.2), for DATA.
	lines    bool
	eightBit bool // octets above 127 are allowed

	line  int   // octets in the current line, CR and LF not counted
	cr    bool  // a CR is held back
	n     int64 // octets of content taken
	ended bool  // the end of the content may be on the wire
	bad   error // content is at fault
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if err := w.err(); err != nil || len(p) == 0 {
		return 0, err
	}
	if int64(len(p)) > w.size-w.n { // the server would read on where BDAT ends
		return 0, w.refuse(fmt.Sprintf("more than the %d octets that were announced", w.size))
	}
	start := 0 // of what is to be written in one piece
	for i := 0; i < len(p); {
		if w.cr {
			if p[i] != '\n' {
				return i, w.refuse("bare CR")
			}
			if i == 0 { // the CR came with an earlier piece
				w.out.string("\r")
			}
			w.cr = false
			w.line = 0
			i++
			continue
		}
		if w.lines && w.line == 0 && p[i] == '.' {
			_, _ = w.out.Write(p[start:i])
			w.out.string(".")
			start = i
		}
		text := p[i:]
		if end := bytes.IndexByte(text, '\n'); end >= 0 {
			text = text[:end]
		}
		end := i + len(text)
		whole := end < len(p) // an LF follows
		if n := len(text); n > 0 && text[n-1] == '\r' {
			w.cr = true
			text = text[:n-1]
		}
		if whole && !w.cr {
			return end, w.refuse("bare LF")
		}
		if what := w.fault(text); what != "" {
			return i, w.refuse(what)
		}
		w.line += len(text)
		i = end
	}
	end := len(p)
	if w.cr {
		end--
	}
	_, _ = w.out.Write(p[start:end])
	if w.out.err != nil {
		return 0, w.out.err
	}
	w.n += int64(len(p))
	return len(p), nil
}

// fault says what is wrong with a piece of a line.
func (w *contentWriter) fault(text []byte) string {
	if hasSuspect(text) {
		for _, b := range text {
			switch {
			case b == '\r':
				return "bare CR"
			case b == 0:
				return "NUL"
			case b > 127 && !w.eightBit:
				return "octet above 127 that was not announced"
			}
		}
	}
	if w.line+len(text) > maxTextLine {
		return "line over 998 octets"
	}
	return ""
}

// hasSuspect reports whether there is a CR, a NUL or an octet above 127 in text.
// It looks at eight octets at a time.
func hasSuspect(text []byte) bool {
	if len(text) < 8 {
		for _, b := range text {
			if b == '\r' || b == 0 || b > 127 {
				return true
			}
		}
		return false
	}
	found := suspects(binary.LittleEndian.Uint64(text[len(text)-8:]))
	for ; len(text) > 8; text = text[8:] {
		found |= suspects(binary.LittleEndian.Uint64(text))
	}
	return found != 0
}

// suspects is zero where none of eight octets is a CR, a NUL or above 127.
func suspects(v uint64) uint64 {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
		crs   = '\r' * ones
	)
	x := v ^ crs
	return (v | (v-ones)&^v | (x-ones)&^x) & highs
}

func (w *contentWriter) refuse(what string) error {
	w.bad = fmt.Errorf("%w: %s", errNotCanonical, what)
	return w.bad
}

func (w *contentWriter) err() error {
	if w.bad != nil {
		return w.bad
	}
	return w.out.err
}

// end checks that the content ended well. It writes nothing.
func (w *contentWriter) end() error {
	switch {
	case w.err() != nil:
		return w.err()
	case w.cr:
		return w.refuse("bare CR")
	case w.line > 0:
		return w.refuse("last line without CRLF")
	case w.n != w.size:
		return w.refuse(fmt.Sprintf("%d octets where %d were announced", w.n, w.size))
	}
	return nil
}

// close writes the final dot, where there is one. The end must have been good.
func (w *contentWriter) close() {
	w.ended = true
	if w.lines {
		w.out.string(".\r\n")
	}
}
