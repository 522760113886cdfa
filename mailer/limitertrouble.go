package mailer

import (
	"math/rand/v2"
	"time"
)

const (
	// firstPause and lastPause are how long nothing is sent after a reply that
	// asks for less mail, where it does not tell.
	firstPause = 5 * time.Second
	lastPause  = 5 * time.Minute
	// mostSlow is what the rate is divided by in the worst case. Each mail that
	// goes well makes up for one half of that part.
	mostSlow = 16
	// easeEvery is how long no further trouble must come before a connection more
	// is used, and before the mailbox is well again.
	easeEvery = time.Minute
)

// PaceChange tells that a mailbox is slowed down, or well again. The zero
// value tells that nothing has changed.
type PaceChange struct {
	// Cause is what the server said to slow the mailbox down; nil otherwise.
	Cause *Error
	// Pause is how long nothing is sent at first, with Cause.
	Pause time.Duration
	// Slow is how long the mailbox was slowed down, now that it is well again.
	Slow time.Duration
}

// trouble is what is left of a mailbox's speed after its server asked for less
// mail. Each time the speed is halved; from each mail that goes well it gains a
// little, as TCP does.
type trouble struct {
	on    bool
	since time.Duration
	// struck is when the last pause began, and until when it ends.
	struck, until time.Duration
	eased         time.Duration
	strikes       int
	// slow divides the rate.
	slow float64
	// connections are those that may be in use, and most those in good times.
	connections, most int
}

// strike slows down after a server's word about a message that was reserved at
// the time at. What was under way when the trouble came is part of it.
func (t *trouble) strike(now, at time.Duration, cause *Error) (change PaceChange) {
	if t.on && (now < t.until || at < t.struck) {
		if cause.RetryAfter > 0 {
			t.until = max(t.until, now+cause.RetryAfter)
		}
		return PaceChange{}
	}
	pause := cause.RetryAfter
	if pause <= 0 {
		pause = min(lastPause, firstPause<<min(t.strikes, 10))
		pause += rand.N(pause / 5) //nolint:gosec // jitter
	}
	if !t.on {
		t.on, t.since, t.slow, t.connections = true, now, 1, t.most
		change = PaceChange{Cause: cause, Pause: pause}
	}
	t.struck, t.until, t.eased = now, now+pause, now+pause
	t.strikes++
	if cause.Reply.Code == 432 { // connections, says Exchange
		t.connections = max(1, t.connections-1)
		return change
	}
	t.connections = max(1, t.connections/2)
	t.slow = min(mostSlow, t.slow*2)
	return change
}

// ease gains speed after a mail that went well.
func (t *trouble) ease(now time.Duration) PaceChange {
	if !t.on || now < t.until {
		return PaceChange{}
	}
	t.slow = 1 / min(1, 1/t.slow+1.0/(2*mostSlow))
	if now-t.eased < easeEvery {
		return PaceChange{}
	}
	t.strikes = 0
	if t.connections < t.most || t.slow > 1 {
		t.connections, t.eased = min(t.most, t.connections+1), now
		return PaceChange{}
	}
	t.on, t.slow = false, 0
	return PaceChange{Slow: now - t.since}
}

// throttle returns the server's word that asks for less mail from the mailbox;
// nil for none.
func throttle(got Receipt, err error) *Error {
	if err != nil {
		e := asError(err)
		if e.Kind == KindThrottled && e.Reply.Code != 0 {
			return e
		}
		return nil
	}
	for _, o := range got.Recipients {
		if o.Kind == KindThrottled {
			return &Error{Stage: StageRcpt, Kind: KindThrottled, Server: got.Server, Reply: o.Reply}
		}
	}
	return nil
}
