package listener

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// errTooMuch is the end of content that is so far over the limit that nobody waits
// for its end.
var errTooMuch = errors.New("far too large")

// dotReader reads content up to the line with a dot (RFC 5321, section 4.5.2). Only
// CRLF ends a line: another end may hide a transaction from one of the servers that
// the message passes.
type dotReader struct {
	in   *bufio.Reader
	rest []byte // of what lies in the buffer of in
	// begin is set where a line begins, and cr behind a CR.
	begin, cr bool
	left      int64 // octets until it is far too large
	err       error // io.EOF behind the dot
}

func (d *dotReader) Read(p []byte) (n int, err error) {
	if len(d.rest) == 0 && !d.fill() {
		return 0, d.err
	}
	n = copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// fill takes what has come, up to the next line that begins with a dot.
func (d *dotReader) fill() bool {
	part := d.peek(1)
	if d.err == nil && d.begin && part[0] == '.' {
		d.dot()
		d.peek(1)
	}
	if d.err != nil {
		return false
	}
	part = d.peek(d.in.Buffered())
	n := len(part)
	if d.cr && n > 1 && part[0] == '\n' && part[1] == '.' {
		n = 1
	} else if i := bytes.Index(part, crlfDot); i >= 0 {
		n = i + len("\r\n")
	}
	last := part[n-1]
	d.begin = last == '\n' && (n > 1 && part[n-2] == '\r' || n == 1 && d.cr)
	d.cr = last == '\r'
	d.rest = part[:n]
	return d.take(n)
}

var crlfDot = []byte("\r\n.")

// dot takes the dot that a line begins with: it hides another one, or ends the content.
func (d *dotReader) dot() {
	if d.peek(2); d.err != nil {
		return
	}
	n := len(".")
	if next := d.peek(2); next[1] == '\r' {
		if next = d.peek(3); d.err == nil && next[2] == '\n' {
			n = len(".\r\n")
		}
	}
	if d.err == nil && d.take(n) && n > 1 {
		d.err = io.EOF
	}
	d.begin = false
}

// peek waits for so many octets and returns them.
func (d *dotReader) peek(n int) []byte {
	if d.err != nil {
		return nil
	}
	part, err := d.in.Peek(n)
	if d.err = err; errors.Is(err, io.EOF) {
		d.err = io.ErrUnexpectedEOF
	}
	return part
}

// take counts octets that were peeked at. They stay valid until the next peek.
func (d *dotReader) take(n int) bool {
	if d.left -= int64(n); d.left < 0 {
		d.rest, d.err = nil, errTooMuch
		return false
	}
	_, _ = d.in.Discard(n)
	return true
}

// Data takes the content of a message. It does not read from go-smtp's reader, which
// yields an empty content then: see feed.
func (t *session) Data(io.Reader) error {
	m := t.mail
	if m == nil || len(m.env.To) == 0 { // go-smtp sees to that, too
		t.contentEnd = true
		return reply(503, 5, 5, 1, "MAIL and RCPT come first")
	}
	t.id = mailer.NewID()
	received, err, broken := t.receive(m)
	if broken != nil {
		if received != nil {
			_ = received.Close()
		}
		t.hangUp("content")
		r := reply(421, 4, 4, 2, "The content of the message broke off: nothing was sent")
		switch {
		case errors.Is(broken, errTooMuch):
			r = tooLarge(t.config.Intake.MaxSize)
		case errors.Is(broken, os.ErrDeadlineExceeded):
			r.Message = "The content of the message came too slowly: nothing was sent"
		}
		t.cause = broken
		return r
	}
	t.contentEnd = true
	if err != nil {
		t.cause = err
		return refusal(err, t.config.Intake.MaxSize)
	}
	defer received.Close()
	return t.send(m, received)
}

// receive reads the content. Broken is why its end was not seen.
func (t *session) receive(m *transaction) (received *mailer.Received, err, broken error) {
	c := t.config
	now := time.Now()
	t.pace(&pace{begin: now, end: now.Add(c.Limits.Content), rate: max(1, c.Limits.MinRate)})
	defer t.pace(nil)

	t.enlarge()
	defer t.shrink()

	intake := c.Intake
	intake.From, intake.DefaultFrom, intake.Trace = m.identity.From, m.identity.DefaultFrom, t.trace(m, now)
	d := &dotReader{in: t.in, begin: true, left: 2*c.Intake.MaxSize + maxLine}
	received, err = intake.Read(d, t.id)
	if d.err == nil { // it has seen enough
		_, _ = io.Copy(io.Discard, d)
	}
	if !errors.Is(d.err, io.EOF) || errors.Is(d.err, io.ErrUnexpectedEOF) {
		broken = d.err
	}
	return received, err, broken
}

// send hands the message over.
func (t *session) send(m *transaction, received *mailer.Received) error {
	c := t.config
	ctx, cancel := context.WithTimeout(t.ctx, c.Limits.Send)
	defer cancel()
	receipt, err := c.Send(ctx, mailer.Submission{
		ID: t.id, MessageID: received.MessageID, Tenant: m.identity.Tenant,
		Caller:   mailer.Caller{Kind: m.identity.Kind, Name: m.identity.Name, Addr: t.client.Addr.Addr(), Request: t.client.Session},
		From:     received.From,
		Envelope: m.env, Content: received.Content, Options: m.options,
	})
	if err != nil {
		t.cause = err
		return refusal(err, c.Intake.MaxSize)
	}
	t.messages++
	t.chatter, t.id = 0, ""
	if c.Hooks.Accepted != nil {
		c.Hooks.Accepted(t.client, m.identity, Accepted{
			Receipt: receipt, Envelope: m.env, From: received.From, Size: received.Content.Size(), Repaired: received.Repaired,
		})
	}
	return taken(receipt)
}

// taken is the reply to a message that was accepted.
func taken(r mailer.Receipt) *smtp.SMTPError {
	if r.Status != mailer.StatusSent {
		return reply(250, 2, 0, 0, "Ok: queued as "+r.ID)
	}
	text := "Ok: sent as " + r.ID
	if r.Reply.Text != "" {
		text += " (" + printable(r.Reply.Text, maxWords) + ")"
	}
	return reply(250, 2, 0, 0, text)
}
