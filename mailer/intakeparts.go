package mailer

import (
	"bytes"
	"mime"
	"slices"
	"strings"
)

const (
	maxDepth     = 64       // of multiparts in one another
	maxPartField = 16 << 10 // of a field that tells about a part
	// maxEncodedLine is the length of a line in either encoding (RFC 2045,
	// sections 6.7 and 6.8).
	maxEncodedLine = 76
)

// partWalk follows the structure of MIME (RFC 2046) line by line, just as far as
// it takes to know how the line at hand is encoded. What it does not understand
// is text.
type partWalk struct {
	boundaries []string // of the multiparts that are open, outermost first
	inHeader   bool     // of a part, or of an attached message
	field      []byte   // the field of it that is being read
	// contentType and encoding are the values of those fields in it.
	contentType, encoding string
	base64, quoted        bool // the encoding of the current part
}

// enter goes from a header into its body.
func (w *partWalk) enter(contentType, encoding string) {
	encoding = asciiLower(trimWSP(encoding))
	w.inHeader, w.contentType, w.encoding = false, "", ""
	w.base64, w.quoted = encoding == "base64", encoding == "quoted-printable"
	t, params, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
	case strings.HasPrefix(t, "multipart/"):
		w.base64, w.quoted = false, false // they may not be encoded
		if b := params["boundary"]; b != "" && len(w.boundaries) < maxDepth {
			w.boundaries = append(w.boundaries, b)
		}
	case (t == "message/rfc822" || t == "message/global") && !w.base64 && !w.quoted:
		w.inHeader = true
	}
}

// line takes a line, or the first piece of a longer one.
func (w *partWalk) line(b []byte, end bool) {
	if len(b) > 2 && b[0] == '-' && b[1] == '-' && end && w.delimiter(b[2:]) {
		return
	}
	if !w.inHeader {
		return
	}
	if len(b) > 0 && isBlank(b[:1]) {
		w.field = append(w.field, b[:min(len(b), max(0, maxPartField-len(w.field)))]...)
		return
	}
	w.endField()
	if _, _, ok := cutFieldName(b); ok {
		w.field = append(w.field, b[:min(len(b), maxPartField)]...)
		return
	}
	w.enter(w.contentType, w.encoding) // at the empty line, or what stands in for it
}

// delimiter looks whether a line that starts with two hyphens, cut off, is the
// delimiter of an open multipart. That of an outer one closes all within.
func (w *partWalk) delimiter(b []byte) bool {
	for i, boundary := range slices.Backward(w.boundaries) {
		rest, ok := bytes.CutPrefix(b, []byte(boundary))
		if !ok {
			continue
		}
		last := bytes.HasPrefix(rest, []byte("--"))
		if !isBlank(bytes.TrimPrefix(rest, []byte("--"))) {
			continue
		}
		w.field = w.field[:0]
		w.contentType, w.encoding = "", ""
		w.base64, w.quoted = false, false
		w.boundaries = w.boundaries[:i+1]
		w.inHeader = !last
		if last {
			w.boundaries = w.boundaries[:i]
		}
		return true
	}
	return false
}

// endField looks at a field of a part that is whole.
func (w *partWalk) endField() {
	name, value, _ := bytes.Cut(w.field, []byte(":"))
	switch asciiLower(string(bytes.TrimRight(name, " \t"))) {
	case "content-type":
		w.contentType = string(value)
	case "content-transfer-encoding":
		w.encoding = string(value)
	}
	w.field = w.field[:0]
}

// mostLine is how long the lines may be into which a long one is broken.
func (w *partWalk) mostLine() int {
	if !w.inHeader && (w.base64 || w.quoted) {
		return maxEncodedLine
	}
	return maxLine
}

// cut is a place in a line where it is broken: at octets, with something added
// before the break and after it.
type cut struct {
	at            int
	before, after string
}

// cut finds where a line is to be broken that has more than mostLine octets.
func (w *partWalk) cut(line []byte) (cut, error) {
	switch {
	case w.inHeader:
		n := foldPlace(line)
		if n == 0 {
			return cut{}, errNoFold()
		}
		return cut{at: n}, nil
	case w.base64:
		return cut{at: maxEncodedLine}, nil
	case w.quoted:
		return cut{at: quotedPlace(line), before: "="}, nil
	}
	return cutText(line), nil
}

// quotedPlace is where a soft line break can go in quoted-printable: not within
// the three characters of an octet, and if possible not where what follows would
// start like the delimiter of a part.
func quotedPlace(line []byte) int {
	const most = maxEncodedLine - 1 // with the "="
	place := 0
	for n := most; n > most/2; n-- {
		if line[n-1] == '=' || line[n-2] == '=' {
			continue
		}
		if line[n] != '-' {
			return n
		}
		place = max(place, n)
	}
	if place == 0 { // it is not quoted-printable
		place = most
	}
	return place
}
