package mailer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// gatherSize is how much is gathered for one write: four records of TLS.
const gatherSize = 64 << 10

// gather collects what is to be said, so that commands and content travel in as
// few writes as possible. Its buffer is lent while there is something in it.
type gather struct {
	w   io.Writer
	buf *[]byte
	err error // of the first write that failed; nothing is written behind it
}

var gatherBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, gatherSize)
	return &b
}}

// room returns the buffer, with room for n octets of at most gatherSize.
func (g *gather) room(n int) *[]byte {
	if g.buf == nil {
		g.buf = gatherBuffers.Get().(*[]byte)
	}
	if len(*g.buf)+n > cap(*g.buf) {
		_ = g.write()
	}
	return g.buf
}

// Write implements [io.Writer].
func (g *gather) Write(p []byte) (int, error) {
	for left := p; len(left) > 0; {
		if g.err != nil {
			return 0, g.err
		}
		b := g.room(min(len(left), 1))
		n := min(len(left), cap(*b)-len(*b))
		*b = append(*b, left[:n]...)
		left = left[n:]
	}
	return len(p), nil
}

func (g *gather) string(s string) {
	for s != "" {
		b := g.room(1)
		n := min(len(s), cap(*b)-len(*b))
		*b = append(*b, s[:n]...)
		s = s[n:]
	}
}

func (g *gather) number(n int64) {
	var digits [20]byte
	_, _ = g.Write(strconv.AppendInt(digits[:0], n, 10))
}

func (g *gather) write() error {
	if g.err == nil && len(*g.buf) > 0 {
		_, g.err = g.w.Write(*g.buf)
	}
	*g.buf = (*g.buf)[:0]
	return g.err
}

// flush writes what is left, and gives the buffer back.
func (g *gather) flush() error {
	if g.buf == nil {
		return g.err
	}
	_ = g.write()
	g.drop()
	return g.err
}

// drop forgets what is left.
func (g *gather) drop() {
	if g.buf != nil {
		*g.buf = (*g.buf)[:0]
		gatherBuffers.Put(g.buf)
		g.buf = nil
	}
}

// deadline is when waiting ends, by [uptime].
type deadline time.Duration

// moves sets it to be a time after now, and reports whether that makes a difference: one
// that is a little early is left as it is.
func (d *deadline) moves(now, within time.Duration) bool {
	at := deadline(now + within)
	if late := time.Duration(at - *d); *d != 0 && late >= 0 && late < min(time.Second, within/64) {
		return false
	}
	*d = at
	return true
}

// began is when the clock of uptime was set.
var began = time.Now()

// uptime is the time by the monotonic clock alone, which costs less to read.
func uptime() time.Duration { return time.Since(began) }

// patientWriter gives each write its deadline, and all of them one that grows
// with the size of what is written.
type patientWriter struct {
	c    *Conn
	last time.Duration // by uptime
}

// slowest is the rate in octets a second below which a peer that takes content
// is given up, beyond what one block may take.
const slowest = 4 << 10

// patience renews the deadlines for something of size octets.
func (c *Conn) patience(size int64) {
	c.writer = patientWriter{c, uptime() + c.timeouts.Block + time.Duration(size/slowest)*time.Second}
	c.out.w, c.out.err = &c.writer, nil
}

// record is the most that one record of TLS holds (RFC 8446, section 5.1).
const record = 16 << 10

func (w *patientWriter) Write(p []byte) (int, error) {
	c := w.c
	now := uptime()
	within := min(c.timeouts.Block, w.last-now)
	if c.sayBy.moves(now, within) {
		if err := c.nc.SetWriteDeadline(time.Now().Add(within)); err != nil {
			return 0, err
		}
		if c.hushed.Load() { // that may have been set later than the deadline of hush
			return 0, os.ErrDeadlineExceeded
		}
	}
	if c.cork == nil || len(p) <= record {
		return c.nc.Write(p)
	}
	c.cork.in = true
	n, err := c.nc.Write(p)
	if pulled := c.cork.pull(); err == nil {
		err = pulled
	}
	return n, err
}

// cork holds the records of TLS back while it is in, so that all that one write
// makes travel together.
type cork struct {
	net.Conn
	in  bool
	buf *[]byte // lent for a transaction
}

var corkBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, gatherSize+gatherSize/16)
	return &b
}}

// corked is the connection for TLS to write to.
func (c *Conn) corked() net.Conn {
	c.cork = &cork{Conn: c.raw}
	return c.cork
}

// Write implements [io.Writer].
func (k *cork) Write(p []byte) (int, error) {
	if !k.in {
		return k.Conn.Write(p)
	}
	if k.buf == nil {
		k.buf = corkBuffers.Get().(*[]byte)
	}
	*k.buf = append(*k.buf, p...)
	return len(p), nil
}

// pull writes what was held back.
func (k *cork) pull() error {
	k.in = false
	if k.buf == nil || len(*k.buf) == 0 {
		return nil
	}
	_, err := k.Conn.Write(*k.buf)
	*k.buf = (*k.buf)[:0]
	return err
}

// rest gives back what buffers there are, between transactions.
func (c *Conn) rest() {
	c.r.rest()
	c.out.drop()
	if k := c.cork; k != nil && k.buf != nil {
		*k.buf = (*k.buf)[:0]
		corkBuffers.Put(k.buf)
		k.buf = nil
	}
}

// guard has the connection closed when ctx ends, until release is called with what it
// returns.
func (c *Conn) guard(ctx context.Context) (stop func() bool) {
	if b, ok := ctx.(*brief); ok {
		if from, at, untimed := b.untimed(); untimed {
			c.endAt(at)
			ctx = from
		}
	}
	if ctx.Done() == nil {
		return nil
	}
	return context.AfterFunc(ctx, c.hangUp)
}

// hush has nothing more said when ctx ends, until stop is called; what was said before
// is answered all the same. Where stop returns false the connection is not to be used
// any more.
func (c *Conn) hush(ctx context.Context) (stop func() bool) {
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() {
		c.hushed.Store(true)
		_ = c.nc.SetWriteDeadline(began)
	})
}

// endAt has the connection closed at a time, by a timer that serves again and again.
func (c *Conn) endAt(at time.Time) {
	if c.end == nil {
		c.end = time.AfterFunc(time.Until(at), c.hangUp)
	} else {
		c.end.Reset(time.Until(at))
	}
	c.ending = true
}

func (c *Conn) release(stop func() bool) {
	if stop != nil && !stop() {
		c.broken = true
	}
	if c.ending && !c.end.Stop() {
		c.broken = true
	}
	c.ending = false
}

// hear reads one reply, as [readReplyTo] does.
func (c *Conn) hear(ctx context.Context, stage Stage, within time.Duration) (Reply, *Error) {
	if c.broken {
		return Reply{}, c.lost(stage, lostCause(ctx, net.ErrClosed))
	}
	var err error
	if !c.heard() && c.hearBy.moves(uptime(), within) {
		err = c.nc.SetReadDeadline(time.Now().Add(within))
	}
	var reply Reply
	if err == nil {
		reply, err = readReplyTo(stage, c.r.reader())
	}
	if err != nil {
		return Reply{}, c.lost(stage, lostCause(ctx, err))
	}
	return reply, nil
}

// heard reports whether a reply of one line is there already, in whole.
func (c *Conn) heard() bool {
	there := c.r.there(c.r.Buffered())
	return len(there) > len("250 ") && there[3] == ' ' && bytes.IndexByte(there, '\n') >= 0
}

// speaks reports whether the server says something within a time, or hangs up.
func (c *Conn) speaks(within time.Duration) bool {
	c.hearBy = 0
	if c.nc.SetReadDeadline(time.Now().Add(within)) != nil {
		return true
	}
	_, err := c.r.reader().Peek(1)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// lostCause is why a connection was lost: it is closed when ctx ends.
func lostCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
