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

// open returns why not to try the tenant. Nil: try it, and tell the outcome by
// one of the methods below.
func (b *Breaker) open() *Error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil {
		return nil
	}
	if b.trying || time.Now().Before(b.until) {
		return b.cause
	}
	b.trying = true
	return nil
}

// down notes that the tenant cannot send, and reports whether that is new.
func (b *Breaker) down(cause *Error) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	isNew := b.cause == nil
	if !isNew && !b.trying {
		return false // it was under way when the tenant went down
	}
	b.cause, b.trying = cause, false
	b.wait = min(lastSkip, max(firstSkip, 2*b.wait))
	b.until = time.Now().Add(b.wait)
	return isNew
}

// up notes that the tenant can send, and reports whether that is new. Messages
// that were under way when it went down prove nothing: they had a connection.
func (b *Breaker) up() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil || !b.trying {
		return false
	}
	b.cause, b.wait, b.trying = nil, 0, false
	return true
}

// unsure notes that a try told nothing.
func (b *Breaker) unsure() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
}
