package mailertest

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// Agreeable is a mail server that says its replies one after the other, whatever it
// hears, and keeps what it heard: what is on the wire shows as it is. It serves one
// session.
type Agreeable struct{ conn agreeableConn }

// NewAgreeable returns one that takes a message for as many recipients. It offers
// 8BITMIME, DSN and SMTPUTF8, and what else is named.
func NewAgreeable(recipients int, offer ...string) *Agreeable {
	replies := []string{"220 hi\r\n", "250-hi\r\n250-8BITMIME\r\n250-DSN\r\n250-" + strings.Join(offer, "\r\n250-") + "\r\n250 SMTPUTF8\r\n", "250 ok\r\n"}
	for range recipients {
		replies = append(replies, "250 ok\r\n")
	}
	if !slices.Contains(offer, "CHUNKING") {
		replies = append(replies, "354 go\r\n")
	}
	return &Agreeable{agreeableConn{replies: append(replies, "250 taken\r\n", "221 bye\r\n")}}
}

// Dial connects to it.
func (a *Agreeable) Dial(context.Context, string, string) (net.Conn, error) { return &a.conn, nil }

// Heard is all that it heard. The session must be over.
func (a *Agreeable) Heard() []byte { return a.conn.heard.Bytes() }

type agreeableConn struct {
	net.Conn
	replies []string
	heard   bytes.Buffer
}

func (c *agreeableConn) Read(p []byte) (int, error) {
	if len(c.replies) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.replies[0])
	c.replies = c.replies[1:]
	return n, nil
}
func (c *agreeableConn) Write(p []byte) (int, error)    { return c.heard.Write(p) }
func (*agreeableConn) Close() error                     { return nil }
func (*agreeableConn) SetDeadline(time.Time) error      { return nil }
func (*agreeableConn) SetReadDeadline(time.Time) error  { return nil }
func (*agreeableConn) SetWriteDeadline(time.Time) error { return nil }
