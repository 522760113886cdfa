package mailer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lastWords is how long to listen for the reason after a server stopped taking
// content.
const lastWords = 2 * time.Second

// followPatience is how long a message waits for the verdict on the one that it
// follows, before it takes another connection.
const followPatience = 5 * time.Second

// transact runs the transaction of a message, in as few round trips as the
// server allows:
//
//	CHUNKING and PIPELINING   MAIL RCPT… BDAT content │ replies
//	PIPELINING                MAIL RCPT… DATA │ replies, content │ reply
//	neither                   MAIL │ RCPT │ … │ DATA │ content │ reply
//
// Until the content begins, the end of ctx breaks it off; from there on it runs
// to its outcome. c is ready for the next one, or broken, when it returns.
func (c *Conn) transact(ctx context.Context, m *outgoing) (Receipt, *Error) {
	t := c.ahead
	c.ahead = nil
	if t == nil {
		var e *Error
		if t, e = c.plan(m); e != nil {
			return Receipt{}, e
		}
	}
	c.sent++
	c.begun = false
	reply, e := t.run(ctx)
	c.rest()
	if e != nil {
		e.Recipients = t.rcpts
		return Receipt{}, e
	}
	return Receipt{
		Status:     StatusSent,
		Recipients: t.rcpts,
		Reply:      reply,
		QueueID:    queueID(reply),
		Server:     c.addr,
	}, nil
}

func (t *transaction) run(ctx context.Context) (Reply, *Error) {
	c := t.c
	if ctx.Err() != nil {
		return Reply{}, c.lost(StageMail, context.Cause(ctx))
	}
	if t.said == 0 {
		if e := c.outOfTurn(StageMail); e != nil {
			return Reply{}, e
		}
	}
	c.patience(t.content.Size())
	if t.single {
		return t.runSingle(ctx)
	}
	stop := c.guard(ctx)
	e := t.envelope(ctx)
	if e == nil {
		e = t.ready(ctx)
	}
	c.release(stop)
	if e == nil && c.broken { // ctx ended just now
		e = c.lost(StageData, context.Cause(ctx))
	}
	if e == nil {
		e = c.outOfTurn(StageData)
	}
	if e != nil {
		return Reply{}, e
	}
	// Who goes away now cannot want half a message sent.
	ctx = context.Background()
	c.begun = true
	if e = t.say(ctx); e != nil {
		return Reply{}, e
	}
	return t.verdict(ctx)
}

// runSingle says all at once. When the replies are lost then, nobody knows what
// has become of the message.
func (t *transaction) runSingle(ctx context.Context) (Reply, *Error) {
	c := t.c
	stop := func() bool { return true }
	if !t.goesAtOnce() {
		stop = c.hush(ctx)
	}
	t.announce()
	e := t.say(ctx)
	if !stop() {
		defer func() { c.broken = true }()
	}
	if e != nil {
		return Reply{}, e
	}
	c.begun = true
	// Who goes away now comes too late: the server has all of it.
	ctx = context.Background()
	e = t.envelope(ctx)
	switch {
	case e == nil:
		return t.verdict(ctx)
	case e.Reply.Code >= 400: // refused, or the session ends
		c.begun = false
	default:
		e.Stage, e.Kind = StageFinal, KindUnknown
	}
	return Reply{}, e
}

// goesAtOnce reports whether the system takes a single flight without any wait that
// somebody could want to break off: what came before has been answered, so that there is
// room. Only of the system's own connections is that known.
func (t *transaction) goesAtOnce() bool {
	const (
		room    = 8 << 10
		command = 1 << 10
	)
	_, systems := t.c.raw.(syscall.Conn)
	return systems && t.content.Size()+int64(t.commands())*command <= room
}

// ready returns nil when the server waits for the content.
func (t *transaction) ready(ctx context.Context) *Error {
	c := t.c
	refusal := t.refusal()
	if t.chunking {
		return refusal
	}
	said := t.data && t.said == t.commands()
	if !said {
		if refusal != nil {
			return refusal
		}
		if e := c.outOfTurn(StageData); e != nil {
			return e
		}
		c.patience(0)
		c.out.string("DATA\r\n")
		if err := c.out.flush(); err != nil {
			return t.lost(c.lost(StageData, lostCause(ctx, err)))
		}
	}
	reply, e := c.hear(ctx, StageData, c.timeouts.Command)
	switch {
	case e != nil && refusal != nil:
		return refusal
	case e != nil:
		return t.lost(e)
	case reply.Code >= 400:
		c.dirty = true // RSET shows whether replies are still to what was asked
		if e = c.refused(StageData, reply); refusal != nil {
			e = refusal
		}
		return e
	case reply.Code/100 != 3:
		e = c.lost(StageData, errUnexpected)
		e.Reply = reply
		return e
	case refusal == nil:
		return nil
	}
	// The server waits for content that nobody is to receive (RFC 2920, section
	// 3.1).
	c.out.string(".\r\n")
	if c.out.flush() != nil {
		c.broken = true
	} else if reply, e = c.hear(ctx, StageData, c.timeouts.Command); e == nil {
		c.dirty = false
		_ = c.refused(StageData, reply) // it may say good-bye
	}
	return refusal
}

// say says the content, and behind it the envelope of the next message, where
// one waits. Without an error the server has all of it.
func (t *transaction) say(ctx context.Context) *Error {
	c := t.c
	size := t.content.Size()
	c.patience(size)
	t.text = contentWriter{out: &c.out, size: size, eightBit: t.content.EightBit(), lines: !t.chunking}
	w := &t.text
	if t.chunking { // RFC 3030
		c.out.string("BDAT ")
		c.out.number(size)
		c.out.string(" LAST\r\n")
	}
	_, err := t.content.WriteTo(w)
	if err == nil {
		err = w.end()
	}
	if err == nil {
		w.close()
		c.dirty = false // that ends the transaction, well or not
		if !t.single {
			c.follow() // behind a single flight, an incomplete one could have the whole chunk
		}
		err = c.out.flush()
	}
	switch {
	case err == nil:
		return nil
	case w.bad != nil:
		e := c.abort(w.bad)
		e.Kind, e.Code = KindInvalid, "not_canonical"
		return e
	case c.out.err != nil:
		return t.cut(ctx, c.out.err, w.ended)
	}
	e := c.abort(fmt.Errorf("reading the content: %w", err))
	if cause, ok := errors.AsType[*Error](err); ok { // the content knows better what this means
		e.Kind, e.Code, e.Field = cause.Kind, cause.Code, cause.Field
	}
	return e
}

// follow has the next message that waits for the connection announce itself.
func (c *Conn) follow() {
	if c.pool == nil || c.ahead != nil {
		return
	}
	w := c.pool.first(c)
	if w == nil || w.msg == nil {
		return
	}
	t, e := c.plan(w.msg) // what keeps it from being sent, it will find out for itself
	if e == nil && t.group && !t.single && c.pool.bind(w, c) {
		c.ahead = t
		t.announce()
	}
}

// abort cuts the connection inside the content, so that the server throws away
// what it has.
func (c *Conn) abort(err error) *Error {
	c.begun = true
	c.raw.Close()
	return c.lost(StageData, err)
}

// cut finds out why the server stopped taking what was said: it may have said so
// before it hung up. Unless the last octets were on their way, the message was
// not sent.
func (t *transaction) cut(ctx context.Context, err error, ended bool) *Error {
	c := t.c
	defer c.raw.Close()
	stage := StageData
	switch {
	case t.single:
		stage = StageMail // an incomplete chunk is as good as none
	case ended:
		stage = StageFinal
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		reply, e := c.hear(ctx, stage, min(c.timeouts.Final, lastWords))
		if e == nil && reply.Code >= 400 {
			e = c.refused(stage, reply)
			c.broken = true
			return e
		}
	}
	e := c.lost(stage, lostCause(ctx, err))
	if ended && !t.single {
		e.Kind = KindUnknown
	}
	return e
}

// verdict hears the reply to the content. A server that says nothing, or nothing
// sensible, may have taken the message nonetheless.
func (t *transaction) verdict(ctx context.Context) (Reply, *Error) {
	c := t.c
	refusal := t.refusal()
	within := c.timeouts.Final
	if patience := min(followPatience, within/2); c.next != nil && !c.speaks(patience) {
		c.pool.unbind(c)
		within -= patience
	}
	reply, e := c.hear(ctx, StageFinal, within)
	if e == nil && t.single && t.shifted(ctx, reply) {
		e = c.lost(StageFinal, errOutOfTurn)
		e.Kind = KindUnknown
		return Reply{}, e
	}
	switch {
	case refusal != nil: // there was nobody to take it for
		c.begun, c.dirty = false, true
		if e == nil && reply.Code < 400 {
			c.broken = true
		} else if e == nil {
			_ = c.refused(StageFinal, reply) // it may say good-bye
		}
		return Reply{}, refusal
	case e != nil && t.single && t.left(): // it went before the content's turn came
		c.begun = false
		return Reply{}, t.bye
	case e != nil:
		e.Kind = KindUnknown
		return Reply{}, e
	case reply.Code >= 400:
		e = c.refused(StageFinal, reply)
		c.broken = true // one that choked on content may take the rest of it for commands
		return Reply{}, e
	case reply.Code/100 != 2:
		e = c.lost(StageFinal, errUnexpected)
		e.Kind, e.Reply = KindUnknown, reply
		return Reply{}, e
	}
	c.dirty = false
	return reply, nil
}

// shifted reports whether the server has said more than it was asked, so that
// nobody knows which reply is whose. It may always say good-bye (RFC 5321,
// section 3.8).
func (t *transaction) shifted(ctx context.Context, last Reply) bool {
	c := t.c
	if t.refusal() != nil && last.Code < 400 && c.r.Buffered() == 0 {
		// Taken, although there was nobody to take it for: is that the reply to
		// something else?
		_, e := c.hear(ctx, StageFinal, min(c.timeouts.Final, lastWords))
		return e == nil
	}
	code := c.r.there(len("421"))
	return len(code) > 0 && string(code) != "421"
}
