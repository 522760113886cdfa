package mailer

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"time"
)

// rawField is a header field as it came, or nearly.
type rawField struct {
	name string // in lower case
	raw  []byte // all its lines, with their ends
}

// value is the text behind the colon, unfolded, without white space around it.
func (f rawField) value() string {
	v := bytes.Trim(f.raw[bytes.IndexByte(f.raw, ':')+1:], " \t\r\n") // a CR is a part of CRLF
	if !bytes.Contains(v, crlf) {
		return string(v)
	}
	return trimWSP(string(bytes.ReplaceAll(v, crlf, nil)))
}

// header is the header of a message that is being read.
type header struct {
	fields []rawField
	lines  []byte // has those of the fields one after the other, as long as there is room
	hops   int    // fields Received
	mended *repairs
}

// usualFields and usualLines are what most headers have less of.
const (
	usualFields = 16
	usualLines  = 1 << 10
)

// readHeader reads up to the body. If the body's first line had to be read to
// find its start, that is returned, too; it is valid until the next is read.
func readHeader(l *lineReader) (h *header, first []byte, err error) {
	h = &header{fields: make([]rawField, 0, usualFields), lines: make([]byte, 0, usualLines), mended: &l.mended}
	for {
		line, err := readHeaderLine(l)
		switch {
		case err == io.EOF:
			h.mended.note("no empty line after the header")
			return h, nil, nil
		case err != nil:
			return nil, nil, err
		case len(line) == 0:
			return h, nil, nil
		}
		ok, err := h.add(line)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case ok:
		case len(h.fields) == 0 && bytes.HasPrefix(line, []byte("From ")) && bytes.IndexByte(line, ':') > 0: // with a time
			h.mended.note("first line was that of an mbox")
		default:
			h.mended.note("no empty line after the header")
			return h, line, nil
		}
	}
}

// readHeaderLine reads a line of any length that a header may have. It is valid
// until the next call.
func readHeaderLine(l *lineReader) ([]byte, error) {
	var whole []byte
	for {
		piece, end, err := l.next()
		if err != nil {
			return nil, err
		}
		if l.n > maxReceivedHeader {
			return nil, invalidf("headers", codeLongHeader, "header has over %d octets", maxReceivedHeader)
		}
		if end && whole == nil {
			return piece, nil
		}
		whole = append(whole, piece...)
		if end {
			return whole, nil
		}
	}
}

// add takes a line that is not empty. It is not ok if that is no part of a
// header.
func (h *header) add(line []byte) (ok bool, err error) {
	if isBlank(line[:1]) {
		switch {
		case len(h.fields) == 0:
			return false, nil
		case isBlank(line):
			h.mended.note("line of white space in the header")
			return true, nil
		}
		f := &h.fields[len(h.fields)-1]
		f.raw, err = h.fold(f.raw, line)
		return true, err
	}
	name, rest, ok := cutFieldName(line)
	if !ok {
		return false, nil
	}
	f := rawField{name: fieldName(name)}
	switch {
	case len(h.fields) >= maxReceivedFields:
		return false, invalidf("headers", codeLongHeader, "header has over %d fields", maxReceivedFields)
	case f.name == "received":
		if h.hops++; h.hops > maxHops {
			return false, invalidf("headers", CodeLoop, "message has been through over %d servers: it goes in a circle", maxHops)
		}
	}
	if len(name)+len(rest) < len(line) {
		h.mended.note("white space before the colon of a field")
		line = append(bytes.Clone(name), rest...)
	}
	begin := len(h.lines)
	h.lines, err = h.fold(h.lines, line)
	f.raw = h.lines[min(begin, len(h.lines)):len(h.lines):len(h.lines)] // what is appended to it goes elsewhere
	h.fields = append(h.fields, f)
	return true, err
}

// fold appends a line of a header to b, in several ones if it is too long.
func (h *header) fold(b, line []byte) ([]byte, error) {
	if len(line) > maxLine {
		h.mended.note("line over 998 octets in the header")
	}
	for len(line) > maxLine {
		n := foldPlace(line)
		if n == 0 {
			return nil, errNoFold()
		}
		b = append(append(b, line[:n]...), "\r\n"...)
		line = line[n:]
		if isBlank(line) {
			return b, nil
		}
	}
	return append(append(b, line...), "\r\n"...), nil
}

// foldPlace is the last place in a long line of a header where it can be folded:
// in front of white space, with a line before that is not blank. 0: there is none.
func foldPlace(line []byte) int {
	for n := maxLine; n > 0; n-- {
		if isBlank(line[n:n+1]) && !isBlank(line[:n]) {
			return n
		}
	}
	return 0
}

func errNoFold() error {
	return invalidf("headers", codeTooLong, "a header line has a word that is too long for a line of %d octets", maxLine)
}

func isBlank(b []byte) bool { return len(bytes.Trim(b, " \t")) == 0 }

// cutFieldName finds the name of a field (RFC 5322, section 2.2), with what the
// obsolete syntax has between it and the colon cut away. The rest starts with the
// colon.
func cutFieldName(line []byte) (name, rest []byte, ok bool) {
	i := bytes.IndexByte(line, ':')
	if i < 0 {
		return nil, nil, false
	}
	name = bytes.TrimRight(line[:i], " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return nil, nil, false
		}
	}
	return name, line[i:], len(name) > 0
}

// fieldNames are those of usual fields. Each is its own value.
var fieldNames = func() map[string]string {
	all := make(map[string]string)
	for name := range strings.FieldsSeq("from sender reply-to to cc bcc date subject message-id in-reply-to references received return-path " +
		"dkim-signature mime-version content-type content-transfer-encoding content-disposition user-agent x-mailer x-priority auto-submitted") {
		all[name] = name
	}
	return all
}()

// fieldName returns the name of a field in lower case.
func fieldName(name []byte) string {
	var room [32]byte
	lower := append(room[:0], name[:min(len(name), len(room))]...)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] += 'a' - 'A'
		}
	}
	if usual, ok := fieldNames[string(lower)]; ok && len(name) <= len(room) {
		return usual
	}
	return asciiLower(string(name))
}

// get returns the value of the first field of that name that is not empty, and
// whether there is one.
func (h *header) get(name string) (string, bool) {
	for _, f := range h.fields {
		if f.name == name {
			if v := f.value(); v != "" {
				return v, true
			}
		}
	}
	return "", false
}

// remove takes out all fields of that name.
func (h *header) remove(name string) (any bool) {
	n := len(h.fields)
	h.fields = slices.DeleteFunc(h.fields, func(f rawField) bool { return f.name == name })
	return len(h.fields) < n
}

// set puts a field in the place of the first one of that name, or at the end.
// The others go.
func (h *header) set(f rawField) {
	i := slices.IndexFunc(h.fields, func(o rawField) bool { return o.name == f.name })
	if i < 0 {
		i = len(h.fields)
	}
	h.remove(f.name)
	h.fields = slices.Insert(h.fields, i, f)
}

// setLine is set for a value that fits on a line.
func (h *header) setLine(name, value string) {
	h.set(rawField{asciiLower(name), []byte(name + ": " + value + "\r\n")})
}

func addressField(name string, list ...Address) rawField {
	w := startField(nil, name)
	w.addresses(list)
	b, _ := w.end() // an address is no longer than a line
	return rawField{asciiLower(name), b}
}

// mend removes what must not go on, and adds what is missing but for the fields
// of MIME.
func (h *header) mend(id string, from Address, now time.Time) (messageID string) {
	for _, name := range []string{"Bcc", "Resent-Bcc", "Return-Path"} {
		if h.remove(asciiLower(name)) {
			h.mended.note(name + " was removed")
		}
	}
	if _, ok := h.get("date"); !ok {
		h.mended.note("Date was missing")
		h.setLine("Date", now.Format(time.RFC1123Z))
	}
	value, ok := h.get("message-id")
	if end := strings.IndexByte(value, '>'); isReference(value[:end+1]) {
		return value[:end+1]
	}
	if ok {
		h.mended.note("Message-ID was malformed")
	} else {
		h.mended.note("Message-ID was missing")
	}
	messageID = NewMessageID(id, from)
	h.setLine("Message-ID", messageID)
	return messageID
}

// mendMIME adds what a reader needs to understand the body (RFC 2045, sections 4
// and 6). Text of which nothing is said is UTF-8 if it can be.
func (h *header) mendMIME(eightBit, isUTF8 bool) {
	add := func(name, value string) {
		if _, ok := h.get(asciiLower(name)); !ok {
			h.mended.note(name + " was missing")
			h.setLine(name, value)
		}
	}
	if eightBit {
		charset := "utf-8"
		if !isUTF8 {
			charset = "unknown-8bit" // RFC 1428, section 3
		}
		add("Content-Type", "text/plain; charset="+charset)
		add("Content-Transfer-Encoding", "8bit")
	}
	if slices.ContainsFunc(h.fields, func(f rawField) bool { return strings.HasPrefix(f.name, "content-") }) {
		add("MIME-Version", "1.0")
	}
}

// octets is the header with a field before it and the empty line after it.
func (h *header) octets(trace string) []byte {
	n := len(trace) + 2
	for _, f := range h.fields {
		n += len(f.raw)
	}
	b := append(make([]byte, 0, n), trace...)
	for _, f := range h.fields {
		b = append(b, f.raw...)
	}
	return append(b, "\r\n"...)
}
