package mailer

import (
	"context"
	"slices"
)

// waiter is a message that waits for a connection.
type waiter struct {
	msg *outgoing // nil for who has none
	// ready gets what the message waited for: a connection, or nil where it may
	// dial one. It has room for it, as nobody waits for who waits no longer.
	ready chan *Conn
	gone  bool // waits no longer; the pool's mu guards it
}

// lend lends what is there, or leave to dial: nil.
func (p *Pool) lend(ctx context.Context, m *outgoing) (*Conn, *Error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.lent++
		p.mu.Unlock()
		return c, nil
	}
	if p.lent < p.Max {
		p.lent++
		p.mu.Unlock()
		return nil, nil
	}
	w := &waiter{msg: m, ready: make(chan *Conn, 1)}
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()
	select {
	case c := <-w.ready:
		return c, nil
	case <-ctx.Done():
		p.leave(w)
		return nil, &Error{Stage: StageLimit, Kind: KindThrottled, Code: codeBusy, Err: context.Cause(ctx)}
	}
}

// leave gives up waiting, and gives back what came just now.
func (p *Pool) leave(w *waiter) {
	p.mu.Lock()
	w.gone = true
	if i := slices.Index(p.waiters, w); i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
	}
	p.mu.Unlock()
	select {
	case c := <-w.ready:
		if c == nil {
			p.free()
			return
		}
		p.put(c)
	default:
	}
}

// first returns the message that has waited longest, if it may have c next.
func (p *Pool) first(c *Conn) *waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) == 0 || p.closed || c.era != p.era || c.sent >= p.MaxMessages || p.old(c, p.now()) {
		return nil
	}
	return p.waiters[0]
}

// bind promises c to a message that waits, if it still does.
func (p *Pool) bind(w *waiter, c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) == 0 || p.waiters[0] != w {
		return false
	}
	p.waiters = slices.Delete(p.waiters, 0, 1)
	c.next = w
	return true
}

// unbind lets the message that c was promised to have another connection. Its
// words remain: c is not used again.
func (p *Pool) unbind(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := c.next
	c.next = nil
	if w.gone {
		return
	}
	if n := len(p.idle); n > 0 {
		w.ready <- p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.lent++
		return
	}
	if p.lent < p.Max {
		p.lent++
		w.ready <- nil
		return
	}
	p.waiters = slices.Insert(p.waiters, 0, w)
}

// pass hands c, or leave to dial, to the message that it was promised to, unless
// that is gone.
func (p *Pool) pass(c *Conn, w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.gone {
		return false
	}
	w.ready <- c
	return true
}

// keep hands c to who waits longest, or makes it idle. From then on it is
// somebody else's.
func (p *Pool) keep(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || c.era != p.era {
		return false
	}
	if len(p.waiters) > 0 {
		p.waiters[0].ready <- c
		p.waiters = slices.Delete(p.waiters, 0, 1)
		return true
	}
	p.lent--
	p.idle = append(p.idle, c)
	return true
}

// free gives leave to dial to who waits longest.
func (p *Pool) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) > 0 {
		p.waiters[0].ready <- nil
		p.waiters = slices.Delete(p.waiters, 0, 1)
		return
	}
	p.lent--
}
