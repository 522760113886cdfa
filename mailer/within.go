package mailer

import (
	"context"
	"sync"
	"time"
)

// Within is [context.WithTimeout] for what seldom waits, as sending does over a
// connection that is there: it sets no timer before somebody waits for the end.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	b := &brief{Context: ctx, at: time.Now().Add(d)}
	return b, b.cancel
}

// brief is a context with an end. It may be used concurrently.
type brief struct {
	context.Context // which it is derived from
	at              time.Time

	mu sync.Mutex
	// timed is what somebody waits for, and stop ends it; nil as long as nobody does.
	timed context.Context
	stop  context.CancelFunc
	ended bool
}

// wait returns the context to wait for.
func (b *brief) wait() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.timed != nil:
	case b.ended: // it was not late then
		b.timed, b.stop = context.WithCancel(b.Context)
		b.stop()
	default:
		b.timed, b.stop = context.WithDeadline(b.Context, b.at)
	}
	return b.timed
}

func (b *brief) cancel() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.stop != nil {
		b.stop()
	}
}

// Deadline is when it ends at the latest.
func (b *brief) Deadline() (time.Time, bool) {
	if at, ok := b.Context.Deadline(); ok && at.Before(b.at) {
		return at, true
	}
	return b.at, true
}

// Done is closed when it ends.
func (b *brief) Done() <-chan struct{} { return b.wait().Done() }

// Err is why it has ended.
func (b *brief) Err() error {
	b.mu.Lock()
	timed, ended := b.timed, b.ended
	b.mu.Unlock()
	switch {
	case timed == nil && !ended && time.Now().Before(b.at):
		return b.Context.Err()
	case timed == nil:
		timed = b.wait()
	}
	return timed.Err()
}

// Value is that of what it is derived from. Package context finds what ends it here.
func (b *brief) Value(key any) any {
	b.mu.Lock()
	from := b.Context
	if b.timed != nil {
		from = b.timed
	}
	b.mu.Unlock()
	return from.Value(key)
}

// untimed returns what it is derived from and when it ends, as long as nobody waits.
func (b *brief) untimed() (from context.Context, at time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Context, b.at, b.timed == nil && !b.ended
}
