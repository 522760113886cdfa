package mailer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Timeouts bound each step of a session, so that no silent server holds a
// message for ever. A zero field means the default: RFC 5321, section
// 4.5.3.2, with a shorter greeting.
type Timeouts struct {
	Dial     time.Duration // DNS and TCP: 30 s
	Greeting time.Duration // the server's first reply, and the TLS handshake: 60 s
	Command  time.Duration // a command and its reply: 5 min
	Block    time.Duration // one write of content: 3 min
	Final    time.Duration // the reply to the content: 10 min
}

func (t Timeouts) withDefaults() Timeouts {
	for _, f := range []struct {
		d  *time.Duration
		or time.Duration
	}{
		{&t.Dial, 30 * time.Second},
		{&t.Greeting, time.Minute},
		{&t.Command, 5 * time.Minute},
		{&t.Block, 3 * time.Minute},
		{&t.Final, 10 * time.Minute},
	} {
		if *f.d <= 0 {
			*f.d = f.or
		}
	}
	return t
}

// What is not worth waiting for as long as RFC 5321 allows.
const (
	quitTimeout  = 2 * time.Second
	probeTimeout = 10 * time.Second
)

// Conn is a connection to a mail server that is ready for a transaction. It is
// made by [Tenant.Submit] and kept by a [Pool]. It serves one goroutine at a
// time.
type Conn struct {
	server   Server // not the tenant's: that would keep its configuration alive
	addr     string // the server's
	timeouts Timeouts
	raw      net.Conn // closing it breaks off whatever is under way
	nc       net.Conn // raw, or TLS over it
	r        ear
	secure   bool
	offered  offers // by the last EHLO

	probe  *probe
	cork   *cork  // between nc and raw; nil without TLS
	out    gather // what is to be said next
	writer patientWriter
	hangUp func()      // closes raw
	end    *time.Timer // calls hangUp where guard has it do so: ending
	ending bool
	// When reading and writing end, unless another time is set.
	hearBy, sayBy deadline

	broken bool        // not to be used any more
	hushed atomic.Bool // nothing more is said
	// leaving: the server has said good-bye. What it says yet may be heard.
	leaving bool
	begun   bool // the server may have got content of the current transaction
	// dirty: a transaction may be open at the server. Doubtful: nobody knows
	// whether the server is still there.
	dirty, doubtful bool
	// pool is where the connection is lent from. Ahead is the transaction of the
	// message that has it next, where that has been announced already.
	pool    *Pool
	ahead   *transaction
	next    *waiter
	reused  bool
	era     int // of the pool, when it was dialed
	sent    int // transactions begun
	created time.Time
	used    time.Time
}

var errOutOfTurn = errors.New("server spoke out of turn")

// outOfTurn is an error where the server said something that nobody asked for.
// Taken for the reply to what is said next, it would decide about a message it
// does not mean.
func (c *Conn) outOfTurn(stage Stage) *Error {
	if c.r.Buffered() == 0 {
		return nil
	}
	return c.lost(stage, errOutOfTurn)
}

// do runs one step of I/O within d. When ctx ends the connection is closed
// under it, and the error is the reason why ctx ended.
func (c *Conn) do(ctx context.Context, stage Stage, d time.Duration, step func() error) *Error {
	if ctx.Err() != nil {
		return c.lost(stage, context.Cause(ctx))
	}
	if c.broken {
		return c.lost(stage, net.ErrClosed)
	}
	stop := context.AfterFunc(ctx, c.hangUp)
	c.hearBy, c.sayBy = 0, 0
	err := c.nc.SetDeadline(time.Now().Add(d))
	if err == nil {
		err = step()
	}
	if !stop() {
		c.broken = true
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return c.lost(stage, err)
}

// lost makes the error of a connection that is of no more use.
func (c *Conn) lost(stage Stage, err error) *Error {
	c.broken = true
	return &Error{Stage: stage, Kind: KindTemporary, Server: c.addr, Err: err}
}

// command sends one line and reads the reply. Refusals are errors; replies of
// class 2 and 3 are returned, and the caller knows which of them it wants.
func (c *Conn) command(ctx context.Context, stage Stage, line string) (rawReply, *Error) {
	return c.commandWithin(ctx, stage, c.timeouts.Command, line)
}

func (c *Conn) commandWithin(ctx context.Context, stage Stage, d time.Duration, line string) (rawReply, *Error) {
	var raw rawReply
	if e := c.outOfTurn(stage); e != nil {
		return rawReply{}, e
	}
	e := c.do(ctx, stage, d, func() (err error) {
		if _, err = c.nc.Write([]byte(line + "\r\n")); err != nil {
			return err
		}
		raw, err = readReply(c.r.reader())
		return err
	})
	if e != nil {
		return rawReply{}, e
	}
	if raw.code >= 400 {
		return raw, c.refused(stage, raw.reply())
	}
	return raw, nil
}

// expect is command for a single positive class of replies.
func (c *Conn) expect(ctx context.Context, stage Stage, class int, line string) (rawReply, *Error) {
	raw, e := c.command(ctx, stage, line)
	if e == nil && raw.code/100 != class {
		e = c.lost(stage, errUnexpected)
		e.Reply = raw.reply()
	}
	return raw, e
}

func (c *Conn) refused(stage Stage, r Reply) *Error {
	if saysGoodbye(stage, r) {
		c.leaving = true
	}
	kind, after := classify(stage, r)
	return &Error{Stage: stage, Kind: kind, Server: c.addr, Reply: r, RetryAfter: after}
}

// saysGoodbye reports whether a server closes the connection after a reply.
// Gmail and Exchange say 451 4.4.2 to one that was idle for too long. To RCPT it
// is about the recipient.
func saysGoodbye(stage Stage, r Reply) bool {
	return r.Code == 421 || r.Code == 451 && r.Enhanced == EnhancedCode{4, 4, 2} && stage != StageRcpt
}

func (c *Conn) greeting(ctx context.Context) *Error {
	return traced(ctx, StageGreeting, func(f *Facts) *Error {
		var raw rawReply
		e := c.do(ctx, StageGreeting, c.timeouts.Greeting, func() (err error) {
			raw, err = readReply(c.r.reader())
			return err
		})
		f.greeting(raw)
		if e != nil && errors.Is(e.Err, os.ErrDeadlineExceeded) {
			e.Err = fmt.Errorf("server said nothing for %v: %w", c.timeouts.Greeting, e.Err)
		}
		switch {
		case e != nil:
			return e
		case raw.code >= 400:
			return c.refused(StageGreeting, raw.reply())
		case raw.code != 220:
			e = c.lost(StageGreeting, errUnexpected)
			e.Reply = raw.reply()
			return e
		}
		return nil
	})
}

// hello says EHLO and forgets what an earlier EHLO told. There is no falling
// back to HELO: no submission server (RFC 6409) lacks extensions.
func (c *Conn) hello(ctx context.Context) *Error {
	c.offered = offers{}
	return traced(ctx, StageEHLO, func(f *Facts) *Error {
		raw, e := c.expect(ctx, StageEHLO, 2, "EHLO "+c.server.localName())
		if e != nil {
			return e
		}
		c.offered = newOffers(raw.lines[1:])
		f.hello(c, raw)
		return nil
	})
}

func (c *Conn) offers(keyword string) bool { return c.offered.all().has(keyword) }

// mechanisms are the SASL mechanisms offered, without what is no mechanism's
// name (RFC 4422, section 3.1), since errors list them.
func (c *Conn) mechanisms() []string {
	auth, _ := c.offered.all().of("AUTH")
	list := strings.Fields(strings.ToUpper(auth))
	list = slices.DeleteFunc(list, func(s string) bool {
		return len(s) > 20 || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != ""
	})
	return list[:min(len(list), 32)]
}

func (c *Conn) info() ServerInfo {
	return ServerInfo{Host: c.server.Host, Port: c.server.Port, Mechanisms: c.mechanisms()}
}

// reset ends a transaction that did not come to its content.
func (c *Conn) reset(ctx context.Context) *Error {
	if c.broken {
		return nil
	}
	_, e := c.commandWithin(ctx, StageMail, min(c.timeouts.Command, probeTimeout), "RSET")
	if e != nil {
		c.broken = true
	}
	return e
}

// close ends the connection, politely where it is in order. Inside content a
// QUIT would be content, so a broken connection is just cut.
func (c *Conn) close() {
	if !c.broken && !c.leaving {
		_, _ = c.commandWithin(context.Background(), StageFinal, min(c.timeouts.Command, quitTimeout), "QUIT")
		c.broken = true
	}
	c.raw.Close()
}
