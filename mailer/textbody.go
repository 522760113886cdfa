package mailer

import (
	"io"
	"mime/quotedprintable"
	"strings"
)

// endLines ends each line of a text in CRLF, however it ended before.
func endLines(text string) string {
	n := strings.Count(text, "\r") + strings.Count(text, "\n") // or less
	if n == 0 || 2*strings.Count(text, "\r\n") == n {
		return text
	}
	return string(appendLines(make([]byte, 0, len(text)+n), text))
}

// appendLines does the same behind b.
func appendLines(b []byte, text string) []byte {
	for {
		line, rest, more := strings.Cut(text, "\n")
		if more {
			line = strings.TrimSuffix(line, "\r")
		}
		for cr := true; cr; { // alone it ends a line, too
			var before string
			before, line, cr = strings.Cut(line, "\r")
			if b = append(b, before...); cr {
				b = append(b, "\r\n"...)
			}
		}
		if !more {
			return b
		}
		b, text = append(b, "\r\n"...), rest
	}
}

// text writes a text part in the encoding that is the smallest, but as it is
// where that is possible.
func (c *composer) text(p *part) {
	c.buf = append(append(c.buf, "Content-Type: text/"...), p.subtype...)
	c.buf = append(c.buf, "; charset=utf-8"...)
	if p.method != "" {
		c.buf = append(c.buf, "; method="+p.method...)
	}
	c.buf = append(c.buf, "\r\nContent-Transfer-Encoding: "...)
	if isPlain(p.text) {
		c.buf = appendLines(append(c.buf, "7bit\r\n\r\n"...), p.text)
		return
	}
	text := endLines(p.text)
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

// isPlain reports whether text, however its lines end, can go in 7 bits.
func isPlain(text string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if len(line) <= maxLine && isPrintable(strings.TrimSuffix(line, "\r")) { // as most are
			continue
		}
		for part := range strings.SplitSeq(line, "\r") { // alone it ends a line, too
			if len(part) > maxLine || !isPrintable(strings.ReplaceAll(part, "\t", " ")) {
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
