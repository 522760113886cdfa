package contest

import (
	"bytes"
	"io"
	"strings"
)

// Content is a message in memory. It is a mailer.Content.
type Content []byte

// WriteTo writes all of it.
func (c Content) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c)
	return int64(n), err
}

// Size is its length in octets.
func (c Content) Size() int64 { return int64(len(c)) }

// EightBit is false.
func (c Content) EightBit() bool { return false }

// UTF8Header is false.
func (c Content) UTF8Header() bool { return false }

// NewContent makes a message of a size. It has lines like base64's, and here and there a dot in front.
func NewContent(size int) Content {
	var b bytes.Buffer
	b.WriteString("From: <a@example.com>\r\nTo: <b@example.net>\r\nSubject: benchmark\r\nMessage-ID: <1@example.com>\r\n\r\n")
	line := strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 3)[:76]
	for i := 0; b.Len() < size-80; i++ {
		if i%25 == 0 {
			b.WriteByte('.')
		}
		b.WriteString(line + "\r\n")
	}
	b.WriteString(strings.Repeat("x", size-b.Len()-2) + "\r\n")
	return b.Bytes()
}
