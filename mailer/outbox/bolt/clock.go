package bolt

import (
	"bytes"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// clock is what the two clocks of the machine showed last.
type clock struct {
	wall   time.Time // without its monotonic reading
	steady time.Time // with it
}

const (
	// leastStep is the least that the wall clock is set back by, to be noticed.
	leastStep = time.Minute
	// maxShift is how many messages are looked at in a transaction.
	maxShift = 1024
)

// shift is what is left to do where the wall clock was set back.
type shift struct {
	by   time.Duration
	next []byte // the first key of the index that was not looked at
}

// noticeClock notices that somebody has set the wall clock back. What was to be tried in a
// minute would wait for that minute of the old time.
func (e *Engine) noticeClock(now time.Time) {
	last := e.clock
	e.clock = clock{now.Round(0), now}
	if last.wall.IsZero() {
		return
	}
	if back := now.Sub(last.steady) - e.clock.wall.Sub(last.wall); back >= leastStep {
		e.log().Warn("the clock was set back: messages that wait for their next try wait no longer than before", "by", back.Round(time.Second).String())
		e.shift = &shift{by: back, next: []byte{indexDue}}
		for _, l := range e.lanes.byTenant {
			if l.state.Until.After(now) {
				l.state.Until = l.state.Until.Add(-back)
				e.lanes.publish(l)
			}
			e.lanes.wakeAt(l, now)
		}
	}
}

// shift makes messages due as much earlier as the clock was set back. Each comes into
// the index before the place that is looked at next, so that none is met twice. What
// its sender has scheduled keeps its time.
func (b *batch) shift() {
	s := b.e.shift
	if s == nil {
		return
	}
	type entry struct {
		id string
		h  *header
	}
	var found []entry
	var next []byte
	c := b.index.Cursor([]byte{indexDue})
	n := 0
	for k, _ := c.Seek(s.next); k != nil; k, _ = c.Next() {
		if n++; n > maxShift {
			next = bytes.Clone(k)
			break
		}
		_, rest, ok := counted(k[1:], 2)
		if !ok {
			continue
		}
		due, id, ok := timed(rest)
		if !ok || !due.After(b.now) {
			continue
		}
		if old, _, err := b.get(id); err == nil && old.state == outbox.StateQueued && old.due.Equal(due) {
			found = append(found, entry{id, old})
		}
	}
	for _, f := range found {
		_, sealed, err := b.get(f.id)
		if err != nil {
			continue
		}
		now := *f.h
		if now.due = f.h.due.Add(-s.by); now.due.Before(b.now) {
			now.due = b.now.Round(0).UTC()
		}
		b.put(f.id, f.h, &now, bytes.Clone(sealed))
		b.touch(b.lane(now.tenant))
	}
	b.after(func() {
		if s.next = next; next == nil {
			b.e.shift = nil
		}
	})
}
