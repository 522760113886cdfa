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

	now func() time.Time

	once  sync.Once
	slots chan struct{} // one element per connection that is lent or dialed

	mu     sync.Mutex
	idle   []*Conn // the one used last stands last
	closed bool
	era    int // grows when connections from before are not to be kept
}

// probeAfter is how long an idle connection is trusted without asking.
const probeAfter = 5 * time.Second

func (p *Pool) init() {
	p.once.Do(func() {
		p.slots = make(chan struct{}, orDefault(p.Max, 2))
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

// get lends a connection: an idle one, or one that dial makes. It waits while
// Max connections are lent, no longer than ctx lasts. The caller gives the
// connection back by put, once. The error is an [*Error] or the one of dial.
//
// With fresh set it lends no idle connection, but closes them: when one turned
// out dead, the others hardly live.
func (p *Pool) get(ctx context.Context, dial func(context.Context) (*Conn, error), fresh bool) (*Conn, error) {
	p.init()
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, &Error{Stage: StageLimit, Kind: KindThrottled, Err: context.Cause(ctx)}
	}
	lent := false
	defer func() {
		if !lent {
			<-p.slots
		}
	}()
	for {
		c := p.pop()
		if c == nil {
			break
		}
		if fresh || !p.alive(ctx, c) {
			c.close()
			continue
		}
		lent, c.reused = true, true
		return c, nil
	}
	era := p.eraNow()
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	lent, c.era, c.created = true, era, p.now()
	return c, nil
}

func (p *Pool) eraNow() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.era
}

func (p *Pool) pop() *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c
}

// alive reports whether an idle connection can be lent, and asks the server
// where it was idle for long.
func (p *Pool) alive(ctx context.Context, c *Conn) bool {
	now := p.now()
	if p.expired(c, now) {
		return false
	}
	return now.Sub(c.used) <= probeAfter || c.reset(ctx) == nil
}

func (p *Pool) expired(c *Conn, now time.Time) bool {
	return now.Sub(c.created) >= p.MaxAge || now.Sub(c.used) >= p.MaxIdle
}

// put gives a connection back, once. One that is broken, old or used up is
// closed.
func (p *Pool) put(c *Conn) {
	c.used = p.now()
	if c.r.Buffered() > 0 { // see errOutOfTurn
		c.broken = true
	}
	if c.broken || c.sent >= p.MaxMessages || p.expired(c, c.used) || !p.push(c) {
		c.close()
	}
	<-p.slots
}

// push makes c idle. From then on it is somebody else's.
func (p *Pool) push(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || c.era != p.era {
		return false
	}
	p.idle = append(p.idle, c)
	return true
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

// Drain closes the idle connections, and those that are lent when they come
// back: they were signed in with what no longer holds.
func (p *Pool) Drain() {
	p.init()
	p.mu.Lock()
	old := p.idle
	p.idle = nil
	p.era++
	p.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

// Close closes the idle connections; those that are lent are closed when they
// come back. It never fails; its error is there for [io.Closer].
func (p *Pool) Close() error {
	p.init()
	p.mu.Lock()
	old := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range old {
		c.close()
	}
	return nil
}
