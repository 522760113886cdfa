package mailer

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Limiter holds the mail of one mailbox to what its server allows. All tenants
// that sign in to the mailbox share it. The zero value has no limit and costs
// nearly nothing; it still slows down when the server asks for that. The
// exported fields are for [Limiter.Set] alone once it is in use. It may be used
// concurrently, has no goroutine of its own, and its memory is bounded.
//
// When a server counts a message is not known, only that it is after the
// reservation and before the end. So a message holds its place in the window
// from its reservation until the window's length after its end: then no window
// of that length has more than Rate messages, whenever the server counts.
type Limiter struct {
	// Rate is the most messages in any window of the length Per. Zero: no limit.
	Rate int
	// Per is the length of the window: 1 min.
	Per time.Duration
	// RecipientsPerDay is the most recipients in any 24 hours. Zero: no limit.
	RecipientsPerDay int
	// Connections is the Max of the mailbox's [Pool], the measure for slowing
	// down: 2.
	Connections int

	once  sync.Once
	began time.Time
	// free is the reservation of all who need none.
	free Reservation
	// eased is set while there is neither a limit nor trouble.
	eased atomic.Bool

	mu sync.Mutex
	// tally is nil as long as there was neither: there are very many mailboxes, and few
	// of them have a limit.
	*tally
}

// tally is what a mailbox is held back by.
type tally struct {
	waiting  list.List   // of *turn; the first has the next turn
	timer    *time.Timer // set for the first in waiting
	inFlight int
	window   window
	day      day
	trouble  trouble
}

// Reservation is a message's place in the limits of its mailbox.
type Reservation struct {
	l          *Limiter
	at         time.Duration
	recipients int
	given      bool // back
}

func (l *Limiter) init() {
	l.once.Do(func() {
		l.began = time.Now()
		l.Per = orDefault(l.Per, time.Minute)
		l.free.l = l
		l.eased.Store(!l.limited())
		if l.limited() {
			l.countLocked() // nobody else is here yet
		}
	})
}

// countLocked begins to count, if nobody does.
func (l *Limiter) countLocked() {
	if l.tally != nil {
		return
	}
	most := orDefault(l.Connections, 2)
	l.tally = &tally{
		window: newWindow(l.Rate, l.Per), day: day{most: l.RecipientsPerDay}, trouble: trouble{connections: most, most: most},
	}
}

func (l *Limiter) limited() bool { return l.Rate > 0 || l.RecipientsPerDay > 0 }

// clock is the time since the limiter began, by the monotonic clock.
func (l *Limiter) clock() time.Duration { return time.Since(l.began) }

// Reserve waits for the turn of a message, first come, first served. It fails
// at once where the wait would outlast ctx, or the day's recipients are used
// up. The reservation is given back by Done. A nil Limiter reserves nothing.
func (l *Limiter) Reserve(ctx context.Context, recipients int) (*Reservation, *Error) {
	return l.reserve(ctx, recipients, 0)
}

// reserve also fails where it would wait longer than patience, if that is not zero.
func (l *Limiter) reserve(ctx context.Context, recipients int, patience time.Duration) (*Reservation, *Error) {
	if l == nil {
		return nil, nil //nolint:nilnil // a nil Reservation is one, too
	}
	l.init()
	if l.eased.Load() {
		return &l.free, nil
	}
	t, e := l.enter(ctx, recipients, patience)
	if e != nil {
		return nil, e
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		l.leave(ctx, t)
	}
	return t.r, t.e
}

// readyLocked reports whether a message may go now.
func (l *Limiter) readyLocked(now time.Duration) bool {
	return l.earliestLocked(now, 0) <= now && (!l.trouble.on || l.inFlight < l.trouble.connections)
}

// earliestLocked returns when a message with so many ahead of it may go, if
// all goes well.
func (l *Limiter) earliestLocked(now time.Duration, ahead int) time.Duration {
	at := l.window.earliest(now, l.inFlight, ahead, l.trouble.slow)
	if l.trouble.on {
		at = max(at, l.trouble.until)
	}
	return at
}

// refuseLocked says why a message need not wait, with so many ahead of it.
func (l *Limiter) refuseLocked(now time.Duration, t *turn, ahead int) *Error {
	if e := l.day.refuse(now, t.recipients); e != nil {
		return e
	}
	at := l.earliestLocked(now, ahead)
	if t.deadline == 0 || at < t.deadline {
		return nil
	}
	e := &Error{Stage: StageLimit, Kind: KindThrottled, Code: codeRate, RetryAfter: at - now}
	if l.trouble.on && l.trouble.until > now {
		e.Code = codePaused
		e.Err = fmt.Errorf("the mail server asked for less mail from this mailbox, which rests for %v", (l.trouble.until - now).Round(time.Millisecond))
		return e
	}
	e.Err = fmt.Errorf("the mailbox may send %d messages in %v; its next turn comes in %v", l.Rate, l.Per, e.RetryAfter.Round(time.Millisecond))
	return e
}

// Done gives a reservation back, with what became of the message: what was not
// sent does not count. It tells what that did to the mailbox. A second call
// does nothing.
func (r *Reservation) Done(got Receipt, err error) PaceChange {
	if r == nil {
		return PaceChange{}
	}
	l := r.l
	cause := throttle(got, err)
	if r == &l.free && cause == nil && l.eased.Load() {
		return PaceChange{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.given {
		return PaceChange{}
	}
	l.countLocked()
	now := l.clock()
	if r != &l.free {
		r.given = true
		l.inFlight--
		l.day.inFlight -= r.recipients
		if n, sent := sentTo(got, err, r.recipients); sent {
			l.window.add(now)
			l.day.add(now, n)
		}
	}
	var change PaceChange
	switch {
	case cause != nil:
		change = l.trouble.strike(now, r.at, cause)
		l.eased.Store(false)
		l.dismissLocked(now)
	case err == nil && got.Status == StatusSent:
		change = l.trouble.ease(now)
		l.eased.Store(!l.trouble.on && !l.limited())
	}
	l.advanceLocked(now)
	return change
}

// sentTo reports whether a message was sent, or may have been, and to how many.
func sentTo(got Receipt, err error, recipients int) (int, bool) {
	if err != nil {
		return recipients, asError(err).Kind == KindUnknown
	}
	for _, o := range got.Recipients {
		if o.Kind != KindNone {
			recipients--
		}
	}
	return recipients, got.Status == StatusSent
}

// paused returns why nothing is sent at present; nil: something is.
func (l *Limiter) paused() *Error {
	if l == nil {
		return nil
	}
	l.init()
	if l.eased.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	if !l.trouble.on || l.trouble.until <= now {
		return nil
	}
	return l.refuseLocked(now, &turn{deadline: max(now, 1)}, 0)
}

// Held returns why the mailbox sends nothing at present, and in RetryAfter how
// long: its server asked for less mail, or the recipients of the day are used
// up. Nil: it sends, if perhaps slowly.
func (l *Limiter) Held() *Error {
	if e := l.paused(); e != nil || l == nil {
		return e
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tally == nil {
		return nil
	}
	now := l.clock()
	l.expireLocked(now)
	return l.day.refuse(now, 1)
}
