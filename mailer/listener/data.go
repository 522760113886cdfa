package listener

import (
	"bufio"
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
	rest []byte // of a line
	// begin is set where a line begins, and cr behind a CR.
	begin, cr bool
	left      int64 // octets until it is far too large
	err       error // io.EOF behind the dot
}

func (d *dotReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(d.rest) == 0 && !d.fill() {
			break
		}
		k := copy(p[n:], d.rest)
		n, d.rest = n+k, d.rest[k:]
	}
	if n > 0 {
		return n, nil
	}
	return 0, d.err
}

// fill gets the next line, or a part of one that is long.
func (d *dotReader) fill() bool {
	for d.err == nil {
		part, err := d.in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			d.err = io.ErrUnexpectedEOF
			return false
		case err != nil:
			d.err = err
			return false
		}
		if d.left -= int64(len(part)); d.left < 0 {
			d.err = errTooMuch
			return false
		}
		begin := d.begin
		n := len(part)
		lf := part[n-1] == '\n'
		d.begin = lf && (n > 1 && part[n-2] == '\r' || n == 1 && d.cr)
		d.cr = part[n-1] == '\r'
		if begin && part[0] == '.' {
			if string(part) == ".\r\n" {
				d.err = io.EOF
				return false
			}
			part = part[1:]
		}
		if d.rest = part; len(part) > 0 {
			return true
		}
	}
	return false
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
