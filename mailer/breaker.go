package mailer

import (
	"sync"
	"time"
)

// Breaker remembers that a tenant cannot send, so that not every message has
// to find out. While the tenant is down, one message tries it now and then:
// after 10 s, and after twice as long each time, up to 5 min. The zero value is
// ready to use. It may be used concurrently and has no goroutine.
type Breaker struct {
	mu sync.Mutex
	// cause is why the tenant cannot send; nil while it can.
	cause  *Error
	wait   time.Duration
	until  time.Time // the next try
	trying bool
}

const (
	firstSkip = 10 * time.Second
	lastSkip  = 5 * time.Minute
)

// Down returns why the tenant cannot send, and when a message tries it again.
// Nil: it can, as far as is known.
func (b *Breaker) Down() (cause *Error, next time.Time) {
	if b == nil {
		return nil, time.Time{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil {
		return nil, time.Time{}
	}
	return b.cause, b.until
}

// open returns why not to try the tenant. Nil: try it, and tell the outcome by
// one of the methods below. Probe says whether that decides if it is down still;
// what was under way when it went down proves nothing.
func (b *Breaker) open() (cause *Error, probe bool) {
	if b == nil {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil {
		return nil, false
	}
	if b.trying || time.Now().Before(b.until) {
		return b.cause, false
	}
	b.trying = true
	return nil, true
}

// down notes that the tenant cannot send, and reports whether that is new.
func (b *Breaker) down(cause *Error, probe bool) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	isNew := b.cause == nil
	if !isNew && !probe {
		return false
	}
	b.cause, b.trying = cause, false
	b.wait = min(lastSkip, max(firstSkip, 2*b.wait))
	b.until = time.Now().Add(b.wait)
	return isNew
}

// up notes that the tenant can send, and reports whether that is new.
func (b *Breaker) up(probe bool) bool {
	if b == nil || !probe {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cause, b.wait, b.trying = nil, 0, false
	return true
}

// unsure notes that a try told nothing.
func (b *Breaker) unsure(probe bool) {
	if b == nil || !probe {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
}
