package mailer

import (
	"context"
	"fmt"
	"time"
)

// turn is a message that waits.
type turn struct {
	recipients int
	deadline   time.Duration // zero: none
	// done is closed when one of the others is set.
	done chan struct{}
	r    *Reservation
	e    *Error
}

// enter takes a turn, or the last place among those that wait for one.
func (l *Limiter) enter(ctx context.Context, recipients int, patience time.Duration) (*turn, *Error) {
	t := &turn{recipients: recipients, done: make(chan struct{})}
	if at, ok := ctx.Deadline(); ok {
		t.deadline = max(at.Sub(l.began), 1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	if last := now + patience; patience > 0 && (t.deadline == 0 || last < t.deadline) {
		t.deadline = last
	}
	if ctx.Err() != nil {
		return nil, l.tooLate(ctx, now, 0)
	}
	l.expireLocked(now)
	if e := l.refuseLocked(now, t, l.waiting.Len()); e != nil {
		return nil, e
	}
	l.waiting.PushBack(t)
	l.advanceLocked(now)
	return t, nil
}

// leave ends a turn's waiting, unless it has just come.
func (l *Limiter) leave(ctx context.Context, t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.r != nil || t.e != nil {
		return
	}
	ahead := 0
	for e := l.waiting.Front(); e != nil; e = e.Next() {
		if e.Value == t {
			l.waiting.Remove(e)
			break
		}
		ahead++
	}
	now := l.clock()
	t.e = l.tooLate(ctx, now, ahead)
	l.advanceLocked(now)
}

// tooLate is the error of a message that went before its turn.
func (l *Limiter) tooLate(ctx context.Context, now time.Duration, ahead int) *Error {
	return &Error{
		Stage: StageLimit, Kind: KindThrottled, Code: codeRate, RetryAfter: l.earliestLocked(now, ahead) - now,
		Err: fmt.Errorf("waiting for the mailbox's turn to send: %w", context.Cause(ctx)),
	}
}

// advanceLocked gives turns to those who wait, as far as it goes.
func (l *Limiter) advanceLocked(now time.Duration) {
	l.expireLocked(now)
	for first := l.waiting.Front(); first != nil; first = l.waiting.Front() {
		t := first.Value.(*turn)
		t.e = l.day.refuse(now, t.recipients)
		if t.e == nil {
			if !l.readyLocked(now) {
				break
			}
			t.r = &Reservation{l: l, at: now, recipients: t.recipients}
			l.inFlight++
			l.day.inFlight += t.recipients
		}
		l.waiting.Remove(first)
		close(t.done)
	}
	l.wakeLocked(now)
}

// wakeLocked sets the timer for the first who waits. Who waits for others to
// end is woken by them.
func (l *Limiter) wakeLocked(now time.Duration) {
	at := l.earliestLocked(now, 0)
	switch {
	case l.waiting.Len() == 0 || at <= now:
		if l.timer != nil {
			l.timer.Stop()
		}
	case l.timer == nil:
		l.timer = time.AfterFunc(at-now, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.advanceLocked(l.clock())
		})
	default:
		l.timer.Reset(at - now)
	}
}

func (l *Limiter) expireLocked(now time.Duration) {
	l.window.expire(now)
	l.day.expire(now)
}

// dismissLocked fails those who wait for a turn that will come too late.
func (l *Limiter) dismissLocked(now time.Duration) {
	ahead := 0
	for e := l.waiting.Front(); e != nil; {
		t, next := e.Value.(*turn), e.Next()
		if t.e = l.refuseLocked(now, t, ahead); t.e != nil {
			l.waiting.Remove(e)
			close(t.done)
		} else {
			ahead++
		}
		e = next
	}
}
