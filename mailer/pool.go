package mailer

import (
	"context"
	"sync"
	"time"
)

// Pool keeps the connections of one mailbox. Its zero value is ready to use
// and applies the defaults named below. The exported fields must not change
// once it is in use. It may be used concurrently, and has no goroutine of its
// own: somebody must call [Pool.Sweep] now and then, and [Pool.Close] at the
// end. A closed pool still serves; it just keeps nothing.
type Pool struct {
	// Max is the number of connections at once, idle ones included: 2.
	Max int
	// MaxAge is how long a connection is used: 15 min.
	MaxAge time.Duration
	// MaxIdle is how long a connection is kept unused: 60 s.
	MaxIdle time.Duration
	// MaxMessages is the number of transactions on a connection: 100.
	MaxMessages int

	now  func() time.Time
	once sync.Once

	mu   sync.Mutex
	idle []*Conn // the one used last stands last
	lent int     // connections that are lent or dialed; at most Max
	// waiters are the messages for which none is left, in the order in which they
	// came.
	waiters []*waiter
	closed  bool
	era     int // grows when connections from before are not to be kept
}

// doubtAfter is how long an idle connection is trusted to be there still.
const doubtAfter = 5 * time.Second

func (p *Pool) init() {
	p.once.Do(func() {
		p.Max = orDefault(p.Max, 2)
		p.MaxAge = orDefault(p.MaxAge, 15*time.Minute)
		p.MaxIdle = orDefault(p.MaxIdle, time.Minute)
		p.MaxMessages = orDefault(p.MaxMessages, 100)
		if p.now == nil {
			p.now = time.Now
		}
	})
}

func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

// get lends a connection for a message: an idle one, or one that dial makes. It
// waits while Max connections are lent, no longer than ctx lasts. The caller
// gives the connection back by put, once. The error is an [*Error] or the one of
// dial.
//
// With fresh set it lends no idle connection, but closes them: when one turned
// out dead, the others hardly live.
func (p *Pool) get(ctx context.Context, m *outgoing, dial func(context.Context) (*Conn, error), fresh bool) (*Conn, error) {
	p.init()
	for {
		c, e := p.lend(ctx, m)
		if e != nil {
			return nil, e
		}
		if c == nil {
			break
		}
		if c.ahead == nil && fresh {
			for _, idle := range append(p.takeIdle(func() {}), c) {
				idle.close()
			}
			break // in its place, lest others be served first again and again
		}
		if c.ahead == nil && !p.alive(c) {
			p.discard(c)
			continue
		}
		c.reused = true
		return c, nil
	}
	dialed := false
	defer func() {
		if !dialed {
			p.free()
		}
	}()
	era := p.eraNow()
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	dialed = true
	c.pool, c.era, c.created = p, era, p.now()
	return c, nil
}

// warm has an idle connection ready, if none is in use.
func (p *Pool) warm(ctx context.Context, dial func(context.Context) (*Conn, error)) error {
	p.init()
	p.mu.Lock()
	cold := len(p.idle) == 0 && p.lent == 0 && !p.closed
	p.mu.Unlock()
	if !cold {
		return nil
	}
	c, err := p.get(ctx, nil, dial, false)
	if err != nil {
		return err
	}
	p.put(c)
	return nil
}

func (p *Pool) eraNow() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.era
}

// alive reports whether an idle connection can be lent. Where it was idle for
// long its first transaction finds out, before any content.
func (p *Pool) alive(c *Conn) bool {
	now := p.now()
	if p.expired(c, now) {
		return false
	}
	if now.Sub(c.used) > doubtAfter || !c.quiet() {
		c.doubtful = true // until a transaction finds out
	}
	return !c.broken
}

// expired reports whether an idle connection is of no more use.
func (p *Pool) expired(c *Conn, now time.Time) bool {
	return p.old(c, now) || now.Sub(c.used) >= p.MaxIdle
}

func (p *Pool) old(c *Conn, now time.Time) bool { return now.Sub(c.created) >= p.MaxAge }

// discard closes a connection that was lent.
func (p *Pool) discard(c *Conn) {
	c.ahead = nil
	c.close()
	p.free()
}

// put gives a connection back, once. One that is broken, old or used up is
// closed.
func (p *Pool) put(c *Conn) {
	if w := c.next; w != nil {
		c.next = nil
		if c.broken || c.leaving { // no fault of the message that comes next: it may dial
			c.ahead = nil
			c.close()
			if !p.pass(nil, w) {
				p.free()
			}
			return
		}
		if p.pass(c, w) {
			return
		}
	}
	if c.ahead != nil { // it has words of a message that nobody brings
		c.broken = true
	}
	c.used = p.now()
	c.rest()
	if c.r.Buffered() > 0 { // see errOutOfTurn
		c.broken = true
	}
	if c.broken || c.leaving || c.sent >= p.MaxMessages || p.old(c, c.used) || !p.keep(c) {
		p.discard(c)
	}
}

// Sweep closes the connections that at the time now are idle too long or too
// old.
func (p *Pool) Sweep(now time.Time) {
	p.init()
	p.mu.Lock()
	var keep, old []*Conn
	for _, c := range p.idle {
		if p.expired(c, now) {
			old = append(old, c)
		} else {
			keep = append(keep, c)
		}
	}
	p.idle = keep
	p.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

// Connections returns how many connections are used at the moment, or made, and how
// many are idle.
func (p *Pool) Connections() (used, idle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lent, len(p.idle)
}

// Drain closes the idle connections, and those that are lent when they come
// back: they were signed in with what no longer holds.
func (p *Pool) Drain() {
	for _, c := range p.takeIdle(func() { p.era++ }) {
		c.close()
	}
}

// Close closes the idle connections; those that are lent are closed when they
// come back. It never fails; its error is there for [io.Closer].
func (p *Pool) Close() error {
	for _, c := range p.takeIdle(func() { p.closed = true }) {
		c.close()
	}
	return nil
}

// takeIdle takes the idle connections out, and makes a change along with it.
func (p *Pool) takeIdle(change func()) []*Conn {
	p.init()
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.idle
	p.idle = nil
	change()
	return old
}
