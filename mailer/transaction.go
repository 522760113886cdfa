package mailer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// slowest is the rate in octets a second below which a peer that takes content
// is given up, beyond what one block may take.
const slowest = 4 << 10

// lastWords is how long to listen for the reason after a server stopped taking
// content.
const lastWords = 2 * time.Second

// transact runs one mail transaction (RFC 5321, section 3.3). Until the
// content begins, the end of ctx breaks it off; from there on it runs to its
// outcome. c is reset, or broken, when it returns.
func (c *Conn) transact(ctx context.Context, env Envelope, content Content, o Options) (Receipt, *Error) {
	c.sent++
	c.begun = false
	params, e := c.mailParams(env, content)
	if e != nil {
		return Receipt{}, e
	}
	_, e = c.expect(ctx, StageMail, 2, "MAIL FROM:<"+mailPath(env.From)+">"+params)
	if e != nil {
		return Receipt{}, e
	}
	rcpts, e := c.recipients(ctx, env.To, o.AllRecipients)
	if e == nil {
		_, e = c.expect(ctx, StageData, 3, "DATA")
	}
	if e != nil {
		_ = c.reset(ctx)
		e.Recipients = rcpts
		return Receipt{}, e
	}
	reply, e := c.content(ctx, content)
	if e != nil {
		// A server that choked on content may take the rest of it for commands.
		c.broken = true
		e.Recipients = rcpts
		return Receipt{}, e
	}
	return Receipt{
		Status:     StatusSent,
		Recipients: rcpts,
		Reply:      reply,
		QueueID:    queueID(reply),
		Server:     c.server.addr(),
	}, nil
}

func mailPath(a Address) string {
	if a.IsZero() {
		return ""
	}
	return a.Mailbox()
}

// mailParams checks a message against what the server offers and returns the
// parameters of MAIL.
func (c *Conn) mailParams(env Envelope, content Content) (string, *Error) {
	fail := func(kind Kind, code, field, format string, args ...any) *Error {
		return &Error{Stage: StageMail, Kind: kind, Code: code, Field: field, Server: c.server.addr(), Err: fmt.Errorf(format, args...)}
	}
	var b strings.Builder
	if c.offers("SIZE") { // RFC 1870
		if most := c.maxSize(); most > 0 && content.Size() > most {
			return "", fail(KindRejected, "over_upstream_size", "", "message of %d octets is over the server's limit of %d", content.Size(), most)
		}
		fmt.Fprintf(&b, " SIZE=%d", content.Size())
	}
	field := ""
	for i, a := range append([]Address{env.From}, env.To...) {
		where := "from"
		if i > 0 {
			where = "to"
		}
		if field == "" && a.NeedsSMTPUTF8() {
			field = where
		}
	}
	if field == "" && content.UTF8Header() {
		field = "headers"
	}
	if field != "" { // RFC 6531
		if !c.offers("SMTPUTF8") {
			return "", fail(KindInvalid, "smtputf8_required", field, "address needs SMTPUTF8, which the server does not offer")
		}
		b.WriteString(" SMTPUTF8")
	}
	if content.EightBit() { // RFC 6152
		if !c.offers("8BITMIME") {
			return "", fail(KindInvalid, "8bitmime_required", "", "message has octets above 127 and the server does not offer 8BITMIME")
		}
		b.WriteString(" BODY=8BITMIME")
	}
	return b.String(), nil
}

// recipients says RCPT for each address and keeps what the server answered. It
// fails when nobody is left to send to, or one is missing where all must be.
func (c *Conn) recipients(ctx context.Context, to []Address, all bool) ([]RecipientOutcome, *Error) {
	out := make([]RecipientOutcome, 0, len(to))
	var first *Error
	refused := 0
	for _, a := range to {
		raw, e := c.expect(ctx, StageRcpt, 2, "RCPT TO:<"+mailPath(a)+">")
		if e == nil {
			out = append(out, RecipientOutcome{Address: a, Reply: raw.reply()})
			continue
		}
		if c.broken {
			return out, e
		}
		out = append(out, RecipientOutcome{Address: a, Kind: e.Kind, Reply: e.Reply})
		refused++
		if first == nil {
			first = e
		}
	}
	if first == nil || (refused < len(to) && !all) {
		return out, nil
	}
	first.Kind = softest(out)
	if all {
		for _, o := range out { // one that is refused for good keeps all from going
			if o.Kind == KindRejected {
				first.Kind = KindRejected
			}
		}
	}
	return out, first
}

// content writes the message after 354 and reads the verdict. It no longer
// hears when ctx ends: who went away cannot want half a message sent.
func (c *Conn) content(ctx context.Context, content Content) (Reply, *Error) {
	if c.broken { // ctx ended as 354 came in
		return Reply{}, c.lost(StageData, contextCause(ctx))
	}
	ctx = context.WithoutCancel(ctx)
	c.begun = true
	d := &dotWriter{w: c.blocks(content.Size()), eightBit: content.EightBit()}
	_, err := content.WriteTo(d)
	if err == nil {
		err = d.end()
	}
	if err == nil && d.n != content.Size() {
		err = d.refuse(fmt.Sprintf("%d octets where %d were announced", d.n, content.Size()))
	}
	if err == nil {
		err = d.close()
	}
	switch {
	case err == nil:
	case d.bad != nil:
		e := c.abort(d.bad)
		e.Kind, e.Code = KindInvalid, "not_canonical"
		return Reply{}, e
	case d.failed != nil:
		return c.refusedContent(ctx, d)
	default:
		e := c.abort(fmt.Errorf("reading the content: %w", err))
		if cause, ok := errors.AsType[*Error](err); ok { // the content knows better what this means
			e.Kind, e.Code, e.Field = cause.Kind, cause.Code, cause.Field
		}
		return Reply{}, e
	}
	reply, e := c.final(ctx, c.timeouts.Final)
	return reply, e
}

func contextCause(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.New("connection closed")
}

// abort cuts the connection inside the content, so that the server throws away
// what it has.
func (c *Conn) abort(err error) *Error {
	c.raw.Close()
	return c.lost(StageData, err)
}

// final reads the reply to the content. A server that says nothing, or nothing
// sensible, may have taken the message nonetheless.
func (c *Conn) final(ctx context.Context, d time.Duration) (Reply, *Error) {
	var raw rawReply
	e := c.do(ctx, StageFinal, d, func() (err error) {
		raw, err = readReply(c.r)
		return err
	})
	switch {
	case e != nil:
		e.Kind = KindUnknown
		return Reply{}, e
	case raw.code >= 400:
		return Reply{}, c.refused(StageFinal, raw.reply())
	case raw.code/100 != 2:
		e = c.lost(StageFinal, errUnexpected)
		e.Kind, e.Reply = KindUnknown, raw.reply()
		return Reply{}, e
	}
	return raw.reply(), nil
}

// refusedContent finds out why the server stopped taking content: it may have
// said so before it hung up. Unless the final dot was on its way, the message
// was not sent.
func (c *Conn) refusedContent(ctx context.Context, d *dotWriter) (Reply, *Error) {
	defer c.raw.Close()
	stage := StageData
	if d.ended {
		stage = StageFinal
	}
	if !errors.Is(d.failed, os.ErrDeadlineExceeded) {
		reply, e := c.final(ctx, min(c.timeouts.Final, lastWords))
		switch {
		case e == nil && d.ended:
			return reply, nil
		case e != nil && e.Reply.Code >= 400:
			e.Stage = stage
			return Reply{}, e
		}
	}
	e := c.lost(stage, d.failed)
	if d.ended {
		e.Kind = KindUnknown
	}
	return Reply{}, e
}

// blockWriter gives each write of content its deadline, and all of them one
// that grows with the size of the message.
type blockWriter struct {
	c    *Conn
	last time.Time
}

func (c *Conn) blocks(size int64) blockWriter {
	whole := c.timeouts.Block + time.Duration(size/slowest)*time.Second
	return blockWriter{c, time.Now().Add(whole)}
}

func (w blockWriter) Write(p []byte) (int, error) {
	at := time.Now().Add(w.c.timeouts.Block)
	if at.After(w.last) {
		at = w.last
	}
	if err := w.c.nc.SetDeadline(at); err != nil {
		return 0, err
	}
	return w.c.nc.Write(p)
}
