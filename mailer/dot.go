package mailer

import (
	"errors"
	"fmt"
	"io"
)

// maxTextLine is the length of a line without its CRLF (RFC 5321, section
// 4.5.3.1.6; RFC 5322, section 2.1.1).
const maxTextLine = 998

// errNotCanonical is the cause when content breaks the promise of [Content].
var errNotCanonical = errors.New("content is not canonical")

// dotWriter writes content as DATA wants it: a dot in front of a line is
// doubled (RFC 5321, section 4.5.2). What is not canonical never passes, nor
// does anything behind it: a server that takes other line ends than ours for
// the end of the data would read the rest as commands. A CR waits for its LF,
// so that no write ends between the two.
type dotWriter struct {
	w        io.Writer
	eightBit bool // octets above 127 are allowed
	buf      []byte
	line     int   // octets in the current line, CR and LF not counted
	cr       bool  // a CR is held back
	n        int64 // octets of content taken
	ended    bool  // the final dot may be on the wire
	bad      error // content is at fault
	failed   error // w is at fault
}

// dotBuffer is large enough to keep writes few, and small enough for the
// deadline of one write.
const dotBuffer = 16 << 10

func (d *dotWriter) Write(p []byte) (int, error) {
	if err := d.err(); err != nil {
		return 0, err
	}
	if d.buf == nil {
		d.buf = make([]byte, 0, dotBuffer)
	}
	for i, b := range p {
		if err := d.octet(b); err != nil {
			return i, err
		}
	}
	d.n += int64(len(p))
	return len(p), nil
}

func (d *dotWriter) octet(b byte) error {
	if d.cr {
		if b != '\n' {
			return d.refuse("bare CR")
		}
		d.cr = false
		d.line = 0
		return d.put('\r', '\n')
	}
	switch {
	case b == '\r':
		d.cr = true
		return nil
	case b == '\n':
		return d.refuse("bare LF")
	case b == 0:
		return d.refuse("NUL")
	case b > 127 && !d.eightBit:
		return d.refuse("octet above 127 that was not announced")
	case d.line == maxTextLine:
		return d.refuse("line over 998 octets")
	}
	first := d.line == 0
	d.line++
	if b == '.' && first {
		return d.put('.', '.')
	}
	return d.put(b)
}

func (d *dotWriter) put(b ...byte) error {
	if len(d.buf)+len(b) > cap(d.buf) {
		if err := d.flush(); err != nil {
			return err
		}
	}
	d.buf = append(d.buf, b...)
	return nil
}

func (d *dotWriter) flush() error {
	_, err := d.w.Write(d.buf)
	d.buf = d.buf[:0]
	d.failed = err
	return err
}

func (d *dotWriter) refuse(what string) error {
	d.bad = fmt.Errorf("%w: %s", errNotCanonical, what)
	return d.bad
}

func (d *dotWriter) err() error {
	if d.bad != nil {
		return d.bad
	}
	return d.failed
}

// end checks that the content ended well. It writes nothing.
func (d *dotWriter) end() error {
	switch {
	case d.err() != nil:
		return d.err()
	case d.cr:
		return d.refuse("bare CR")
	case d.line > 0:
		return d.refuse("last line without CRLF")
	}
	return nil
}

// close writes what is left and the final dot, in one write.
func (d *dotWriter) close() error {
	if err := d.end(); err != nil {
		return err
	}
	if d.buf == nil {
		d.buf = make([]byte, 0, 3)
	}
	if err := d.put('.', '\r', '\n'); err != nil {
		return err
	}
	d.ended = true
	return d.flush()
}
