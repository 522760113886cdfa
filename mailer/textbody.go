package mailer

import (
	"io"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"
)

// endLines ends each line of a text in CRLF, however it ended before.
func endLines(text string) string {
	n := strings.Count(text, "\r") + strings.Count(text, "\n") // or less
	if n == 0 || 2*strings.Count(text, "\r\n") == n {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + n)
	for {
		i := strings.IndexAny(text, "\r\n")
		if i < 0 {
			b.WriteString(text)
			return b.String()
		}
		b.WriteString(text[:i])
		b.WriteString("\r\n")
		if strings.HasPrefix(text[i:], "\r\n") {
			i++
		}
		text = text[i+1:]
	}
}

// text writes a text part in the encoding that is the smallest, but as it is
// where that is possible.
func (c *composer) text(p *part) {
	text := endLines(*p.text)
	c.buf = append(c.buf, "Content-Type: text/"+p.subtype+"; charset=utf-8\r\nContent-Transfer-Encoding: "...)
	if isPlain(text) {
		c.buf = append(append(c.buf, "7bit\r\n\r\n"...), text...)
		return
	}
	var counter countingWriter
	writeQuotedPrintable(&counter, text)
	if counter.n > base64Size(int64(len(text))) {
		c.buf = append(c.buf, "base64\r\n\r\n"...)
		c.buf = appendBase64(c.buf, []byte(text), true)
		return
	}
	c.buf = append(c.buf, "quoted-printable\r\n\r\n"...)
	writeQuotedPrintable(c, text)
}

// Write makes the composer the target of encoders. It never fails.
func (c *composer) Write(p []byte) (int, error) {
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// writeQuotedPrintable writes text to w, which must not fail.
func writeQuotedPrintable(w io.Writer, text string) {
	q := quotedprintable.NewWriter(w)
	_, _ = io.WriteString(q, text)
	_ = q.Close()
}

// isPlain reports whether text, whose lines end in CRLF, can go in 7 bits.
func isPlain(text string) bool {
	line := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\n':
			line = 0
		case c == '\r':
		case c >= utf8.RuneSelf, c == 0x7f, c < ' ' && c != '\t':
			return false
		default:
			if line++; line > maxLine {
				return false
			}
		}
	}
	return true
}

type countingWriter struct {
	w io.Writer // nil to count only
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	if c.w == nil {
		c.n += int64(len(p))
		return len(p), nil
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
