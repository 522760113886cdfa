package bolt

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// calmTime is how long the engine waits with its own business after a failure.
const calmTime = time.Second

// lieTime is how long an outcome lies that nobody waits for. A client that posts one
// message after another need not wait for a commit of its own: the outcome of one
// message is stored with the next.
const lieTime = 10 * time.Millisecond

// longestSleep is when the clock is looked at, which somebody may have set.
const longestSleep = time.Minute

// commits stores what waits, until the queue is closed.
func (e *Engine) commits() {
	defer close(e.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-e.queue.wake:
		case <-timer.C:
		case m := <-e.merges:
			if err := e.endMerge(m); err != nil {
				e.mergeFailed(err, time.Now())
			}
		}
		runtime.Gosched() // who is ready to run may bring something, too
		e.crowd.wait(&e.queue)
		ops, last := e.queue.take()
		e.step(ops)
		e.tend(time.Now())
		if last {
			e.stuck, e.lying = append(e.stuck, e.lying...), nil
			if e.calm = time.Now(); len(e.stuck) > 0 {
				e.step(nil)
			}
			e.mergeLast()
			if n := len(e.stuck); n > 0 {
				e.log().Error("the outbox is closed, and the outcomes of messages could not be recorded: these messages may be sent twice", "messages", n)
			}
			return
		}
		if next := e.next(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(min(time.Until(next), longestSleep))
		}
	}
}

// next is when something is to be done without being asked.
func (e *Engine) next() time.Time {
	next := e.lanes.next()
	if e.db != nil && !e.merging && !e.mergeAt.IsZero() && (next.IsZero() || e.mergeAt.Before(next)) {
		next = e.mergeAt
	}
	if len(e.lying) > 0 && (next.IsZero() || e.lieUntil.Before(next)) {
		next = e.lieUntil
	}
	if !e.forget.IsZero() && (next.IsZero() || e.forget.Before(next)) {
		next = e.forget
	}
	if e.shift != nil && e.db != nil {
		if e.calm.After(e.clock.steady) {
			return e.calm
		}
		return e.clock.steady // at once
	}
	if (len(e.stuck) > 0 || e.db == nil) && (next.IsZero() || e.calm.Before(next)) {
		next = e.calm
	}
	return next
}

// step stores ops, or tells each why not.
func (e *Engine) step(ops []*op) {
	defer e.checkStopped()
	now := time.Now()
	e.noticeClock(now)
	if e.db != nil && e.broken.Load() != nil {
		e.abandon()
	}
	idle := true
	for _, o := range ops {
		idle = o.arrive != nil && o.arrive() && idle
	}
	if idle && !e.due(now) {
		if len(ops) == 0 && e.db != nil {
			_ = e.watch()
		}
		if len(e.lying) == 0 {
			e.lieUntil = now.Add(lieTime)
		}
		e.lying = append(e.lying, ops...)
		return
	}
	ops, e.lying = append(e.lying, ops...), nil
	if len(e.stuck) > 0 && !now.Before(e.calm) {
		ops = append(e.stuck, ops...)
		e.stuck = nil
	}
	if e.db == nil {
		if err := e.openDatabase(false); err != nil {
			e.fail(ops, err, now)
			return
		}
		e.log().Info("the outbox could be opened again")
	}
	if err := e.watch(); err != nil {
		if e.broken.Load() != nil {
			e.abandon()
			e.fail(ops, err, now)
			return
		}
		ops = refuse(ops, err)
	}
	if ops = e.admit(ops, now); len(ops) > 0 || e.due(now) {
		e.store(ops, now)
	}
}

// due reports whether there may be something to do without an op.
func (e *Engine) due(now time.Time) bool {
	next := e.next()
	return len(e.repairs) > 0 || e.shift != nil || e.forget.IsZero() || (!next.IsZero() && !next.After(now))
}

// admit refuses what takes space while only the room for outcomes is left.
func (e *Engine) admit(ops []*op, now time.Time) []*op {
	if !e.reserved && !now.Before(e.retryAt) {
		e.makeReady()
		e.retryAt = now.Add(calmTime)
	}
	if e.reserved {
		return ops
	}
	return refuse(ops, fmt.Errorf("%w: there is no space on the disk", outbox.ErrFull))
}

// refuse gives an error to accepts and returns the rest.
func refuse(ops []*op, err error) []*op {
	return slices.DeleteFunc(slices.Clone(ops), func(o *op) bool {
		if o.accept {
			o.finish(err)
		}
		return o.accept
	})
}

// store commits ops and whatever is due.
func (e *Engine) store(ops []*op, now time.Time) {
	err := e.transact(ops, now)
	if isFull(err) {
		e.noteFull()
		ops = refuse(ops, fullError(err))
		e.dropReserve(now)
		err = e.transact(ops, now)
	}
	if err == nil {
		return
	}
	e.fail(ops, err, now)
	if isFull(err) {
		return
	}
	e.reopen(err)
}

// reopen opens the database and the journals again after an error.
func (e *Engine) reopen(err error) {
	if e.breaks(err); e.broken.Load() != nil {
		e.abandon()
		return
	}
	// What is on the disk now is not known. A flush that failed is never tried again:
	// the second one would succeed and tell nothing.
	e.log().Error("the outbox could not be written to: it is opened again", "folder", e.folder, "error", err)
	_ = e.awaitMerge()
	e.journals.close()
	e.mu.Lock()
	_ = e.db.Close()
	e.db = nil
	e.mu.Unlock()
	if err := e.openDatabase(false); err != nil {
		e.log().Error("the outbox could not be opened again: look after the disk", "error", err)
	}
}

// fail gives an error to all ops but those that are kept.
func (e *Engine) fail(ops []*op, err error, now time.Time) {
	e.calm = now.Add(calmTime)
	e.lanes.calm(e.calm)
	if e.unmerged() {
		e.mergeAt = e.calm
	}
	if isFull(err) {
		err = fullError(err)
	} else {
		err = fmt.Errorf("storing in the outbox: %w", err)
	}
	e.refuseReaders(err)
	for _, o := range ops {
		if o.keep {
			e.stuck = append(e.stuck, o)
			continue
		}
		o.finish(err)
	}
}

func (e *Engine) noteFull() {
	e.log().Warn("the disk of the outbox is full: no message is accepted until there is space", "folder", e.folder)
}

// fullError is the error for whoever hears that there is no space.
func fullError(err error) error { return fmt.Errorf("%w: %w", outbox.ErrFull, err) }

// isFull reports whether there is no space. Some errors of bbolt are texts only.
func isFull(err error) bool {
	if err == nil {
		return false
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, full) || strings.Contains(err.Error(), full.Error()) {
			return true
		}
	}
	return false
}
