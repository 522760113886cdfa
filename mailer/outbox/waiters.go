package outbox

import (
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// waiters are those who want to hear what becomes of their messages.
type waiters struct {
	mu sync.Mutex
	of map[string]*waiter // by the id of the message
	// stopped is set when nothing is sent any more.
	stopped bool
}

// waiter waits for one message.
type waiter struct {
	tenant string
	until  time.Time
	// trying is set while the message is tried: then its lane does not matter.
	trying bool
	done   chan answer // has room for the one answer
}

// soonEnough is how much of the wait must be left when a message is tried again: a try
// takes a while, and may fail once more.
const soonEnough = 5 * time.Second

// awaits reports whether a try at a time is worth waiting for.
func (w *waiter) awaits(due time.Time) bool { return due.Add(soonEnough).Before(w.until) }

// answer is what a sender hears.
type answer struct {
	receipt mailer.Receipt
	err     *mailer.Error
}

// maxWaiters is how many senders wait at a time. Each takes memory, and one mail server
// that does not answer would have all of its senders wait.
const maxWaiters = 1000

// add has somebody wait for a message; nil: too many do.
func (w *waiters) add(id, tenant string, until time.Time) *waiter {
	one := &waiter{tenant: tenant, until: until, done: make(chan answer, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.of) >= maxWaiters {
		return nil
	}
	if w.of == nil {
		w.of = make(map[string]*waiter)
	}
	w.of[id] = one
	return one
}

func (w *waiters) remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of, id)
}

// has reports whether somebody waits for a message.
func (w *waiters) has(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[id] != nil
}

// trying notes that a message is tried now.
func (w *waiters) trying(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one := w.of[id]; one != nil {
		one.trying = true
	}
}

// tell answers who waits for a message. What is tried again soon enough is waited
// for: due is when, and zero means not at all.
func (w *waiters) tell(id string, due time.Time, with func() answer) {
	w.mu.Lock()
	one := w.of[id]
	if one == nil {
		w.mu.Unlock()
		return
	}
	one.trying = false
	if !due.IsZero() && one.awaits(due) {
		w.mu.Unlock()
		return
	}
	delete(w.of, id)
	w.mu.Unlock()
	one.done <- with()
}

// release answers all whose messages are not tried now, of a tenant or, with none
// named, of all.
func (w *waiters) release(tenant string, with func(id string) answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, one := range w.of {
		if !one.trying && (tenant == "" || one.tenant == tenant) {
			delete(w.of, id)
			one.done <- with(id)
		}
	}
}

func (w *waiters) stop(stopped bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = stopped
}

func (w *waiters) isStopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}
