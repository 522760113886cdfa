package mailer

import (
	"io"
	"unicode/utf8"
)

// body is the body of a message that is being read.
type body struct {
	out    *spooled
	mended *repairs
	parts  partWalk

	eightBit bool // an octet above 127
	isUTF8   bool // all lines are valid UTF-8

	inLine bool   // pieces of a line were taken
	long   []byte // what is left of a line over 998 octets
}

// readBody reads up to the end of the message. First is the body's first line, if
// it was read with the header.
func readBody(l *lineReader, h *header, first []byte, spool *Spool) (*body, error) {
	b := &body{out: &spooled{spool: spool}, mended: &l.mended, isUTF8: true}
	contentType, _ := h.get("content-type")
	encoding, _ := h.get("content-transfer-encoding")
	b.parts.enter(contentType, encoding)
	err := b.read(l, first)
	if err == nil {
		err = b.out.done()
	}
	if err != nil {
		_ = b.out.Close()
		return nil, err
	}
	return b, nil
}

func (b *body) read(l *lineReader, first []byte) error {
	if len(first) > 0 {
		if err := b.take(first, true); err != nil {
			return err
		}
	}
	for {
		if !b.inLine && !b.parts.inHeader {
			if _, err := b.out.Write(l.run()); err != nil {
				return err
			}
		}
		line, end, err := l.next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = b.take(line, end)
		}
		if err != nil {
			return err
		}
	}
}

// take takes a line without its end, or a piece of one.
func (b *body) take(piece []byte, end bool) error {
	if !b.inLine {
		b.parts.line(piece, end)
		if end && len(piece) <= maxLine {
			return b.write(piece, "")
		}
		b.mended.note("line over 998 octets in the body")
	}
	b.inLine = !end
	b.long = append(b.long, piece...)
	rest := b.long
	for most := b.parts.mostLine(); len(rest) > most; {
		if !end && len(rest) < 2*maxLine {
			break // it is not known yet whether more follows
		}
		c, err := b.parts.cut(rest)
		if err != nil {
			return err
		}
		if err := b.write(rest[:c.at], c.before); err != nil {
			return err
		}
		rest = rest[c.at-len(c.after):]
		copy(rest, c.after)
	}
	b.long = append(b.long[:0], rest...)
	if !end {
		return nil
	}
	rest, b.long = b.long, b.long[:0]
	if b.parts.inHeader && isBlank(rest) {
		return nil // a line of white space in a header ends it for some
	}
	return b.write(rest, "")
}

// write writes a line, with more at its end.
func (b *body) write(line []byte, more string) error {
	if hasSuspect(line) { // above 127: CR and NUL were refused
		b.eightBit = true
		b.isUTF8 = b.isUTF8 && utf8.Valid(line)
	}
	for _, p := range [][]byte{line, []byte(more), crlf} {
		if _, err := b.out.Write(p); err != nil {
			return err
		}
	}
	return nil
}
