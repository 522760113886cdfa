package caddymodule

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
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
	r.from, r.buf, r.pos, r.end, r.err = from, r.buf[:cap(r.buf)], 0, 0, nil
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
	if r.err != nil && r.err != io.EOF {
		return unreadable(r.err)
	}
	return r.fatal("is cut or broken")
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

// enter begins an object or a list.
func (r *jsonReader) enter(bracket byte) error {
	if !r.take(bracket) {
		if r.peek() == 0 {
			return r.broken()
		}
		if bracket == '{' {
			return r.wrong("must be an object")
		}
		return r.wrong("must be a list")
	}
	if r.depth++; r.depth > maxDepth {
		return r.fatal("is nested too deep")
	}
	r.path = append(r.path, nowhere)
	return nil
}

// exit ends an object or a list.
func (r *jsonReader) exit() {
	r.depth--
	r.path = r.path[:len(r.path)-1]
}

// leave reads on behind an error of a value, up to where the brackets are closed that
// were opened within a depth.
func (r *jsonReader) leave(depth int) error {
	if r.inString {
		if err := r.skipString(); err != nil {
			return err
		}
	}
	for r.depth > depth {
		switch c := r.peek(); c {
		case 0:
			return r.broken()
		case '"':
			r.pos++
			if err := r.skipString(); err != nil {
				return err
			}
			continue
		case '{', '[':
			r.depth++
		case '}', ']':
			r.depth--
		}
		r.pos++
	}
	return nil
}

// names are the members that an object may have, by their index: 64 at most.
type names []string

func (n names) find(name []byte) int {
	for i, s := range n {
		if string(name) == s {
			return i
		}
	}
	return -1
}

// memberWalk walks through an object.
type memberWalk struct {
	count int
	seen  uint64              // of those that are known
	other map[string]struct{} // of the others, in lower case
}

// next goes to the value of the next member, and returns its index in known, or -1 and
// its name. More is false behind the last one, where the object is left. What is null
// is passed over: it is as good as absent.
func (r *jsonReader) next(m *memberWalk, known names) (i int, name string, more bool, err error) {
	for {
		if r.take('}') {
			r.exit()
			return 0, "", false, nil
		}
		at := &r.path[len(r.path)-1]
		*at = nowhere
		if m.count > 0 && !r.take(',') || !r.take('"') {
			return 0, "", false, r.broken()
		}
		raw, err := r.short()
		if err != nil {
			return 0, "", false, err
		}
		if m.count++; m.count > maxMembers || len(raw) > maxName {
			return 0, "", false, r.wrong(fmt.Sprintf("has more than %d members, or one with a name of over %d octets", maxMembers, maxName))
		}
		if i = known.find(raw); i >= 0 {
			at.name = known[i]
		} else {
			at.name = string(raw)
		}
		if !m.add(i, at.name) {
			return 0, "", false, r.wrong("comes twice")
		}
		if i < 0 {
			if k := known.find([]byte(strings.ToLower(at.name))); k >= 0 {
				return 0, "", false, r.wrong("must be written " + known[k])
			}
		}
		if !r.take(':') {
			return 0, "", false, r.broken()
		}
		if r.peek() == 'n' {
			if err := r.literal("null"); err != nil {
				return 0, "", false, err
			}
			continue
		}
		return i, at.name, true, nil
	}
}

// add notes a member, and reports whether it is new.
func (m *memberWalk) add(i int, name string) bool {
	if i >= 0 {
		old := m.seen
		m.seen |= 1 << i
		return m.seen != old
	}
	folded := strings.ToLower(name)
	if _, ok := m.other[folded]; ok {
		return false
	}
	if m.other == nil {
		m.other = make(map[string]struct{})
	}
	m.other[folded] = struct{}{}
	return true
}

// item goes to the next item of a list, of which there were n before. More is false
// behind the last one, where the list is left.
func (r *jsonReader) item(n int) (more bool, err error) {
	r.path[len(r.path)-1] = nowhere
	if r.take(']') {
		r.exit()
		return false, nil
	}
	if n > 0 && !r.take(',') || r.peek() == 0 || n > 0 && r.peek() == ']' {
		return false, r.broken()
	}
	r.path[len(r.path)-1].index = n
	return true, nil
}

// literal takes true, false or null.
func (r *jsonReader) literal(word string) error {
	if !r.need(len(word)) || string(r.buf[r.pos:r.pos+len(word)]) != word {
		return r.broken()
	}
	r.pos += len(word)
	return nil
}

// boolean reads true or false.
func (r *jsonReader) boolean() (bool, error) {
	switch r.peek() {
	case 't':
		return true, r.literal("true")
	case 'f':
		return false, r.literal("false")
	case 0:
		return false, r.broken()
	}
	return false, r.wrong("must be true or false")
}

// number reads a number as it is written.
func (r *jsonReader) number() (string, error) {
	r.peek()
	r.text = r.text[:0]
	digits := func() bool {
		n := 0
		for r.need(1) && '0' <= r.buf[r.pos] && r.buf[r.pos] <= '9' {
			r.keep(r.buf[r.pos])
			n++
		}
		return n > 0
	}
	one := func(any string) bool {
		if r.need(1) && strings.IndexByte(any, r.buf[r.pos]) >= 0 {
			r.keep(r.buf[r.pos])
			return true
		}
		return false
	}
	one("-")
	ok := one("0") || digits()
	if ok && one(".") {
		ok = digits()
	}
	if ok && one("eE") {
		one("+-")
		ok = digits()
	}
	if !ok {
		return "", r.broken()
	}
	return string(r.text), nil
}

// keep takes an octet of a number. Of one that is absurdly long the rest is dropped.
func (r *jsonReader) keep(c byte) {
	r.pos++
	if len(r.text) < maxShort {
		r.text = append(r.text, c)
	}
}

// skip reads any value and keeps nothing of it.
func (r *jsonReader) skip() error {
	switch c := r.peek(); c {
	case '"':
		r.pos++
		return r.skipString()
	case '{':
		return r.skipObject()
	case '[':
		if err := r.enter('['); err != nil {
			return err
		}
		for n := 0; ; n++ {
			more, err := r.item(n)
			if err != nil || !more {
				return err
			}
			if err := r.skip(); err != nil {
				return err
			}
		}
	case 't':
		return r.literal("true")
	case 'f':
		return r.literal("false")
	case 'n':
		return r.literal("null")
	default:
		_, err := r.number()
		return err
	}
}

func (r *jsonReader) skipObject() error {
	if err := r.enter('{'); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if r.take('}') {
			r.exit()
			return nil
		}
		if n > 0 && !r.take(',') || !r.take('"') {
			return r.broken()
		}
		if err := r.skipString(); err != nil {
			return err
		}
		if !r.take(':') {
			return r.broken()
		}
		if err := r.skip(); err != nil {
			return err
		}
	}
}

// skipString reads the rest of a string.
func (r *jsonReader) skipString() error {
	for {
		_, end, err := r.piece()
		if err != nil || end {
			return err
		}
	}
}

// short reads the rest of a string of up to 64 KiB. It is valid until the next one is
// read.
func (r *jsonReader) short() ([]byte, error) {
	piece, end, err := r.piece()
	if err != nil || end {
		return piece, err
	}
	r.text = append(r.text[:0], piece...)
	for {
		piece, end, err := r.piece()
		if err != nil {
			return nil, err
		}
		if len(r.text)+len(piece) > maxShort {
			return nil, invalid(r.place(), "too_long", "it has over %d KiB", maxShort>>10)
		}
		r.text = append(r.text, piece...)
		if end {
			return r.text, nil
		}
	}
}

// string reads a string of up to 64 KiB.
func (r *jsonReader) string() (string, error) {
	if !r.take('"') {
		return "", r.noString("must be a string")
	}
	b, err := r.short()
	return string(b), err
}

func (r *jsonReader) noString(what string) error {
	if r.peek() == 0 {
		return r.broken()
	}
	return r.wrong(what)
}

// piece reads some of a string, unescaped, behind its opening quote. End is set behind
// the closing one. It is valid until anything else is read.
func (r *jsonReader) piece() (text []byte, end bool, err error) {
	r.inString = true
	if r.pos == r.end && !r.fill() {
		return nil, false, r.broken()
	}
	rest := r.buf[r.pos:r.end]
	n := plainRun(rest)
	if n == len(rest) {
		n -= cutRune(rest)
		if n == 0 { // a part of a character
			if !r.need(r.end - r.pos + 1) {
				return nil, false, r.broken()
			}
			return r.piece()
		}
	}
	if n > 0 {
		r.pos += n
		if !utf8.Valid(rest[:n]) {
			return nil, false, r.fatal("is not in UTF-8")
		}
		if r.pos < r.end && r.buf[r.pos] == '"' {
			r.pos++
			r.inString = false
			return rest[:n], true, nil
		}
		return rest[:n], false, nil
	}
	switch rest[0] {
	case '"':
		r.pos++
		r.inString = false
		return nil, true, nil
	case '\\':
		text, err = r.escape()
		return text, false, err
	}
	return nil, false, r.broken() // a control character
}

// plainRun counts the octets before the first quote, backslash or control character.
func plainRun(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		v := binary.LittleEndian.Uint64(b[n:])
		quote, slash := v^'"'*ones, v^'\\'*ones
		found := ((quote-ones)&^quote | (slash-ones)&^slash | (v-' '*ones)&^v) & highs
		if found != 0 {
			return n + bits.TrailingZeros64(found)/8
		}
	}
	for ; n < len(b); n++ {
		if c := b[n]; c == '"' || c == '\\' || c < ' ' {
			break
		}
	}
	return n
}

// cutRune counts the octets at the end of b that may be the beginning of a character.
func cutRune(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			break
		}
	}
	return 0
}

// escape reads an escape sequence, or two that are one character.
func (r *jsonReader) escape() ([]byte, error) {
	if !r.need(2) {
		return nil, r.broken()
	}
	c := r.buf[r.pos+1]
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		r.pos += 2
		return escaped[i : i+1], nil
	}
	first, ok := r.unit(0)
	if !ok {
		return nil, r.broken()
	}
	r.pos += 6
	if utf16.IsSurrogate(first) {
		second, ok := r.unit(0)
		if first = utf16.DecodeRune(first, second); !ok || first == utf8.RuneError {
			return nil, r.fatal("has half of a surrogate pair")
		}
		r.pos += 6
	}
	return utf8.AppendRune(r.char[:0], first), nil
}

var escaped = []byte("\"\\/\b\f\n\r\t")

// unit reads \uXXXX without taking it.
func (r *jsonReader) unit(at int) (rune, bool) {
	if !r.need(at + 6) {
		return 0, false
	}
	b := r.buf[r.pos+at : r.pos+at+6]
	if !bytes.HasPrefix(b, []byte(`\u`)) {
		return 0, false
	}
	var v rune
	for _, c := range b[2:] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		v = v<<4 | rune(c)
	}
	return v, true
}
