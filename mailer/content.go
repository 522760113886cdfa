package mailer

import (
	"bytes"
	"io"
)

// Content is a complete message in canonical form: header and body, lines
// that end in CRLF, no bare CR, no bare LF, no NUL, no line over 998 octets.
// It is not dot-stuffed.
//
// A Content can be written any number of times, also by several goroutines at
// once, and yields the same octets each time: a retry needs nothing from the
// caller.
type Content interface {
	// WriteTo writes the whole message.
	io.WriterTo
	// Size is the number of octets that WriteTo writes.
	Size() int64
	// EightBit reports whether the message has octets above 127, so that the
	// server must offer 8BITMIME (RFC 6152).
	EightBit() bool
	// UTF8Header reports whether a header field has octets above 127, so that
	// the server must offer SMTPUTF8 (RFC 6532).
	UTF8Header() bool
}

// Octets returns all of a content. Where it lies in memory in one piece these are its own
// octets, which nobody may change.
func Octets(c Content) ([]byte, error) {
	if composed, ok := c.(*composed); ok && len(composed.segments) == 1 {
		if l, ok := composed.segments[0].(literal); ok {
			return l, nil
		}
	}
	var b bytes.Buffer
	b.Grow(int(c.Size()))
	_, err := c.WriteTo(&b)
	return b.Bytes(), err
}

// Source is data of known size that can be read again and again, such as an
// attachment in memory or in a spool file. Open may be called concurrently.
type Source interface {
	Open() (io.ReadCloser, error)
	// Size is the number of octets that a reader from Open yields.
	Size() int64
}

// Bytes is a [Source] in memory. Its octets must not change while it is in use.
type Bytes []byte

// Open returns a reader over b. It never fails.
func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }

// Size returns the length of b in octets.
func (b Bytes) Size() int64 { return int64(len(b)) }
