package mailer

import (
	"context"
	"fmt"
)

// outgoing is a message on its way to a server.
type outgoing struct {
	env     Envelope
	content Content
	opts    Options
}

// groupMost is how many commands travel without a reply to any of them. More,
// and the replies could fill the way back while nobody reads them (RFC 2920,
// section 3.1).
const groupMost = 100

// singleMost is the size of a content, in octets, up to which it travels along
// with its envelope. A larger one waits until somebody is there to receive it.
const singleMost = 256 << 10

// transaction is one mail transaction on a connection (RFC 5321, section 3.3).
type transaction struct {
	c *Conn
	*outgoing
	notify string // of RCPT

	// group has commands travel together (RFC 2920), and chunking the content by
	// BDAT (RFC 3030). With single all of it travels at once.
	group, chunking, single bool
	// reset has RSET go first, as there may be another transaction open. Where
	// doubtful is set the server may long be gone, too.
	reset, doubtful bool
	// data has DATA travel with the envelope.
	data bool

	said  int // commands of the envelope that were said
	heard int // replies to them
	rcpts []RecipientOutcome
	taken int    // recipients that were taken
	first *Error // the first refusal
	bye   *Error // the refusal with which the server said good-bye
	last  int    // the command that it was said to

	text contentWriter
}

// plan makes a transaction of a message. It says nothing yet.
func (c *Conn) plan(m *outgoing) (*transaction, *Error) {
	o := c.offered.all()
	if e := c.mailFault(m, &o); e != nil {
		return nil, e
	}
	t := &transaction{
		c: c, outgoing: m, group: o.pipelining, chunking: o.chunking,
		reset: c.dirty || c.doubtful, doubtful: c.doubtful,
	}
	if o.dsn {
		t.notify = m.opts.DSN.param()
	}
	few := len(m.env.To)+2 <= groupMost
	t.single = t.group && t.chunking && few && !t.reset && !m.opts.AllRecipients && m.content.Size() <= singleMost
	t.data = t.group && !t.chunking && !m.opts.AllRecipients
	return t, nil
}

// path says an address, which was checked before; nothing for the null sender.
func (g *gather) path(a Address) {
	if a.IsZero() {
		return
	}
	g.string(quoteLocal(a.Local))
	g.string("@")
	g.string(a.Domain)
}

// commands is the number of commands of the envelope.
func (t *transaction) commands() int {
	n := 1 + len(t.env.To)
	if t.reset {
		n++
	}
	if t.data {
		n++
	}
	return n
}

// step is the stage of a command of the envelope, and whose it is: -1 for none.
func (t *transaction) step(i int) (stage Stage, rcpt int) {
	if t.reset {
		i--
	}
	switch {
	case i < 0:
		return StageMail, -1 // RSET
	case i == 0:
		return StageMail, -1
	case i <= len(t.env.To):
		return StageRcpt, i - 1
	}
	return StageData, -1
}

// announce says what may be said of the envelope without a reply. The caller
// flushes it.
func (t *transaction) announce() {
	most := 1
	if t.group {
		most = groupMost
	}
	out := &t.c.out
	for end := min(t.commands(), t.said+most); t.said < end; t.said++ {
		stage, rcpt := t.step(t.said)
		switch {
		case stage == StageData:
			out.string("DATA\r\n")
		case stage == StageRcpt:
			out.string("RCPT TO:<")
			out.path(t.env.To[rcpt])
			out.string(">")
			out.string(t.notify)
			out.string("\r\n")
		case t.reset && t.said == 0:
			out.string("RSET\r\n")
		default:
			out.string("MAIL FROM:<")
			out.path(t.env.From)
			out.string(">")
			o := t.c.offered.all()
			out.mailParams(t.outgoing, &o)
			out.string("\r\n")
		}
	}
}

// envelope says what is left of the envelope and hears the replies, DATA's
// excepted. An error means that the connection is lost; refusals are kept in t.
func (t *transaction) envelope(ctx context.Context) *Error {
	c := t.c
	end := t.commands()
	if t.data {
		end--
	}
	t.rcpts = make([]RecipientOutcome, 0, len(t.env.To))
	for ; t.heard < end; t.heard++ {
		stage, rcpt := t.step(t.heard)
		if t.heard == t.said {
			if t.first != nil && t.first.Stage == StageMail {
				return nil
			}
			if e := c.outOfTurn(stage); e != nil {
				return e
			}
			c.patience(0)
			t.announce()
			if err := c.out.flush(); err != nil {
				return t.lost(c.lost(stage, lostCause(ctx, err)))
			}
		}
		if t.reset && t.heard == 0 {
			if e := t.hearReset(ctx); e != nil {
				return e
			}
			continue
		}
		reply, e := c.hear(ctx, stage, c.timeouts.Command)
		if e == nil {
			e = t.take(stage, rcpt, reply)
		}
		if e != nil {
			return t.lost(e)
		}
	}
	return nil
}

// lost returns why the connection was lost before the verdict: where the server
// has told beforehand, that is it.
func (t *transaction) lost(e *Error) *Error {
	switch {
	case t.first != nil && t.first.Stage == StageMail:
		return t.first // servers lose patience with what travels behind it
	case t.left():
		return t.bye
	}
	return e
}

// left reports whether the server's good-bye is the last that was heard. In a
// single flight one that went on may have come to the content.
func (t *transaction) left() bool {
	return t.bye != nil && (!t.single || t.heard == t.last+1)
}

// hearReset hears the reply to RSET. A connection on which that does not work is
// as good as dead.
func (t *transaction) hearReset(ctx context.Context) *Error {
	c := t.c
	within := c.timeouts.Command
	if t.doubtful {
		within = min(within, probeTimeout)
	}
	reply, e := c.hear(ctx, StageMail, within)
	if e == nil && reply.Code/100 != 2 {
		if e = c.refused(StageMail, reply); e.Kind != KindThrottled { // that is about no message
			e = c.lost(StageMail, fmt.Errorf("server refuses RSET: %s", reply))
		}
		c.broken = true
	}
	if e == nil {
		c.dirty, c.doubtful = false, false
	}
	return e
}

// take keeps the reply to MAIL or RCPT. An error means that the session ends.
func (t *transaction) take(stage Stage, rcpt int, reply Reply) *Error {
	var e *Error
	switch {
	case reply.Code >= 400:
		e = t.c.refused(stage, reply)
	case reply.Code/100 != 2:
		e = t.c.lost(stage, errUnexpected)
		e.Reply = reply
	}
	if stage == StageRcpt && (t.first == nil || t.first.Stage == StageRcpt) {
		o := RecipientOutcome{Address: t.env.To[rcpt], Reply: reply}
		if e == nil {
			t.taken++
		} else {
			o.Kind = e.Kind
		}
		t.rcpts = append(t.rcpts, o)
	}
	if e == nil {
		if stage == StageMail {
			t.c.dirty = true // there is a transaction to be ended
		}
		return nil
	}
	if t.first == nil {
		t.first = e
	}
	if t.c.leaving && t.bye == nil {
		t.bye, t.last = e, t.heard // a server that goes on all the same may take the message yet
	}
	if t.c.broken {
		return e
	}
	return nil
}

// refusal is why the message cannot go to anybody, or not to all where that is
// wanted; nil where it can.
func (t *transaction) refusal() *Error {
	switch {
	case t.first == nil || t.first.Stage == StageMail:
		return t.first
	case t.taken > 0 && !t.opts.AllRecipients:
		return nil
	}
	e := t.first
	e.Kind = softest(t.rcpts)
	if t.opts.AllRecipients {
		for _, o := range t.rcpts { // one that is refused for good keeps all from going
			if o.Kind == KindRejected {
				e.Kind = KindRejected
			}
		}
	}
	return e
}
