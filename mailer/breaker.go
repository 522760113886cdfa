package mailer

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Breaker remembers that a tenant cannot send, so that not every message has
// to find out. While the tenant is down, one message tries it now and then:
// after 10 s, and after twice as long each time, up to 5 min. The zero value is
// ready to use. It may be used concurrently and has no goroutine.
type Breaker struct {
	mu sync.Mutex
	// cause is why the tenant cannot send, without what concerns the message that
	// found out; nil while it can.
	cause  *Error
	since  time.Time
	wait   time.Duration
	until  time.Time // the next try
	trying bool
}

const (
	firstSkip = 10 * time.Second
	lastSkip  = 5 * time.Minute
	// leastRetry is the least that a message is told to wait.
	leastRetry = time.Second
)

// Down returns why the tenant cannot send, and when a message tries it again.
// The cause tells nothing of the message that found out: neither its recipients
// nor the text of a reply to it. Nil: it can, as far as is known.
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

// Reset has the next message try the tenant at once, after somebody did what may
// have put it right. It is down until that message is sent.
func (b *Breaker) Reset() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wait, b.until = 0, time.Time{}
}

// refused tells a message why it must not try the tenant; nil: it is not known
// to be down.
func (b *Breaker) refused() *Error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil {
		return nil
	}
	return b.refusalLocked(time.Now())
}

func (b *Breaker) refusalLocked(now time.Time) *Error {
	e := *b.cause
	e.RetryAfter = max(leastRetry, b.until.Sub(now))
	what := fmt.Sprintf("this tenant cannot send since %s, and is tried again at %s",
		b.since.UTC().Format(time.RFC3339), now.Add(e.RetryAfter).UTC().Format(time.RFC3339))
	if e.Err == nil {
		e.Err = errors.New(what)
	} else {
		e.Err = fmt.Errorf("%s: %w", what, e.Err)
	}
	return &e
}

// open returns why not to try the tenant, for this message. Nil: try it, and tell
// the outcome by one of the methods below. Probe says whether that decides if it
// is down still; what was under way when it went down proves nothing.
func (b *Breaker) open() (refusal *Error, probe bool) {
	if b == nil {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause == nil {
		return nil, false
	}
	if now := time.Now(); b.trying || now.Before(b.until) {
		return b.refusalLocked(now), false
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
	now := time.Now()
	if isNew {
		b.since = now
	}
	b.cause, b.trying = cause.WithoutMessage(), false
	b.wait = min(lastSkip, max(firstSkip, 2*b.wait))
	b.until = now.Add(b.wait)
	return isNew
}

// WithoutMessage returns e without what concerns one message: what the server says
// from MAIL on may name its recipients or quote it. Its diagnosis stays the same.
func (e *Error) WithoutMessage() *Error {
	of := *e
	of.DiagnosisID = e.Diagnosis().ID
	of.Recipients, of.RetryAfter = nil, 0
	switch e.Stage {
	case StageMail, StageRcpt, StageData, StageFinal:
		of.Reply.Text = ""
	default:
	}
	return &of
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
