package mailer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
)

const codeUnreadable = "attachment_unreadable"

// segment is a stretch of a composed message.
type segment interface {
	size() int64
	writeTo(w io.Writer) error
}

// literal is a stretch that is ready in memory.
type literal []byte

func (l literal) size() int64 { return int64(len(l)) }

func (l literal) writeTo(w io.Writer) error {
	_, err := w.Write(l)
	return err
}

// base64Line is how many octets make one line of 76 characters (RFC 2045,
// section 6.8).
const base64Line = 57

// base64Size is the size of n octets in base64, in lines without a break after
// the last one.
func base64Size(n int64) int64 {
	if n == 0 {
		return 0
	}
	chars := (n + 2) / 3 * 4
	return chars + (chars-1)/76*2
}

// appendBase64 appends src in base64. A line break goes before each line except
// the very first, which follows dst's beginning when first is set.
func appendBase64(dst, src []byte, first bool) []byte {
	for len(src) > 0 {
		n := min(base64Line, len(src))
		if !first {
			dst = append(dst, "\r\n"...)
		}
		first = false
		dst = base64.StdEncoding.AppendEncode(dst, src[:n])
		src = src[n:]
	}
	return dst
}

// encoded is an attachment in base64, or as it is.
type encoded struct{ *attachment }

func (e encoded) size() int64 {
	if e.raw {
		return e.octets
	}
	return base64Size(e.octets)
}

// chunk is a whole number of base64 lines.
const chunk = 192 * base64Line

func (e encoded) writeTo(w io.Writer) error {
	if f, ok := e.source.(*File); ok && !e.raw { // it is as it should be already
		_, err := f.Encoded(w)
		return err
	}
	r, err := e.source.Open()
	if err != nil {
		return e.unreadable(err)
	}
	defer r.Close() //nolint:errcheck // nothing was written

	in := make([]byte, chunk)
	out := make([]byte, 0, base64Size(chunk)+2)
	var canon canonical
	left := e.octets
	for first := true; left > 0; first = false {
		n, err := io.ReadFull(r, in[:min(left, chunk)])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return e.changed("is shorter than announced")
		}
		if err != nil {
			return e.unreadable(err)
		}
		left -= int64(n)
		if !e.raw {
			out = appendBase64(out[:0], in[:n], first)
		} else if out = append(out[:0], in[:n]...); !canon.takes(out, left == 0) {
			return e.changed("is not what it was when the message was composed")
		}
		if _, err = w.Write(out); err != nil {
			return err
		}
	}
	switch _, err = io.ReadFull(r, in[:1]); {
	case err == nil:
		return e.changed("is longer than announced")
	case !errors.Is(err, io.EOF):
		return e.unreadable(err)
	}
	return nil
}

func (e encoded) unreadable(err error) error {
	return &Error{Stage: StageData, Kind: KindTemporary, Field: e.field, Code: codeUnreadable, Err: fmt.Errorf("reading attachment: %w", err)}
}

func (e encoded) changed(how string) error {
	return &Error{Stage: StageData, Kind: KindInvalid, Field: e.field, Code: "attachment_changed", Err: errors.New("content of attachment " + how)}
}

// canonical is a writer that only looks: whether what is written to it can
// stand in a message unencoded (RFC 2045, section 2.7).
type canonical struct {
	bad  bool
	cr   bool // the last octet was a CR
	line int
}

func (c *canonical) Write(p []byte) (int, error) {
	for _, b := range p {
		switch {
		case c.cr != (b == '\n'), b == 0, b > 0x7f:
			c.bad = true
		case b == '\n':
			c.line = 0
		case b != '\r':
			if c.line++; c.line > maxLine {
				c.bad = true
			}
		}
		c.cr = b == '\r'
	}
	return len(p), nil
}

// whole reports whether the text may end here.
func (c *canonical) whole() bool { return !c.bad && !c.cr }

// takes reports whether the text is good up to and including p.
func (c *canonical) takes(p []byte, last bool) bool {
	_, _ = c.Write(p)
	return !c.bad && (!last || !c.cr)
}

// isCanonical reads src and reports whether it can stand in a message as it is.
func isCanonical(src Source) (bool, error) {
	r, err := src.Open()
	if err != nil {
		return false, err
	}
	defer r.Close() //nolint:errcheck // nothing was written
	var c canonical
	if _, err = io.Copy(&c, r); err != nil {
		return false, err
	}
	return c.whole(), nil
}
