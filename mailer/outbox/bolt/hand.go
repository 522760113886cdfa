package bolt

import (
	"bytes"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func (b *batch) lane(tenant string) *lane { return b.e.lanes.get(tenant) }

// touch has a lane looked at before the transaction ends.
func (b *batch) touch(l *lane) {
	if n := len(b.touched); n == 0 || b.touched[n-1] != l {
		b.touched = append(b.touched, l)
	}
}

// first returns the first entry with a time under a prefix of the index.
func (b *batch) first(prefix []byte) (at time.Time, id string, ok bool) {
	c := b.index.Cursor(prefix)
	k, _ := c.Seek(b.e.floors.from(prefix))
	if c.passed > manyPassed {
		b.e.floors.raise(prefix, k)
	}
	return timedBehind(prefix, k)
}

// timedBehind splits a key with a time, if it has the prefix.
func timedBehind(prefix, k []byte) (at time.Time, id string, ok bool) {
	if !bytes.HasPrefix(k, prefix) {
		return at, "", false
	}
	return timed(k[len(prefix):])
}

// fill marks what is due in the lanes that something happened to.
func (b *batch) fill() {
	ls := b.e.lanes
	for !ls.next().IsZero() && !ls.next().After(b.now) {
		l := ls.waking[0]
		ls.wakeAt(l, time.Time{})
		b.touch(l)
	}
	for _, l := range b.touched {
		b.look(l)
	}
}

// mayHand reports whether a message that is accepted can be handed out at once.
func (b *batch) mayHand(l *lane, due time.Time) bool {
	e := b.e
	if !e.running() || l.state.State != outbox.LaneOpen || due.After(b.now) || b.now.Before(e.calm) || l.out >= e.window(l.tenant) {
		return false
	}
	at, _, ok := b.first(l.dues)
	return !ok || at.After(due)
}

// maxHand is how many messages are marked in a transaction.
const maxHand = 512

// look hands out what can be, and says when to look again.
func (b *batch) look(l *lane) {
	ls, wake := b.e.lanes, time.Time{}
	l.more = false
	defer func() {
		ls.wakeAt(l, wake)
		b.after(func() { ls.forget(l) })
	}()
	if !b.e.running() {
		return
	}
	if b.now.Before(b.e.calm) {
		wake = b.e.calm
		return
	}
	for window := b.e.window(l.tenant); l.out < window; {
		if len(b.launched) >= maxHand { // others wait for this transaction
			wake = b.now
			return
		}
		wake = time.Time{}
		if at, id, ok := b.first(l.expiries); ok {
			if !at.After(b.now) {
				b.hand(l, id, false, append(appendTime(lanePrefix(indexExpiry, l.tenant), at), id...))
				continue
			}
			wake = at
		}
		at, id, ok := b.first(l.dues)
		if !ok {
			return
		}
		from := at
		if l.state.State != outbox.LaneOpen {
			if l.probe != "" || l.state.Until.IsZero() {
				return
			}
			if l.state.Until.After(from) {
				from = l.state.Until
			}
		}
		if from.After(b.now) {
			if wake.IsZero() || from.Before(wake) {
				wake = from
			}
			return
		}
		b.hand(l, id, l.state.State != outbox.LaneOpen, append(appendTime(lanePrefix(indexDue, l.tenant), at), id...))
	}
	wake, l.more = time.Time{}, true
}

// hand marks a message and hands it out when the mark is durable.
func (b *batch) hand(l *lane, id string, probe bool, key []byte) {
	old, sealed, err := b.get(id)
	if err != nil || !old.waits() || old.tenant != l.tenant {
		b.dangling(key)
		return
	}
	now := *old
	now.state, now.sweep = outbox.StateSending, time.Time{}
	b.put(id, old, &now, sealed)
	if probe {
		before := l.probe
		l.probe = id
		b.undo(func() { l.probe = before })
	}
	b.launch(l, &flight{
		id: id, tenant: l.tenant, due: now.due, probe: probe,
		record: bytes.Clone(b.messages.Get([]byte(id))), sealed: bytes.Clone(b.contents.Get([]byte(id))),
	})
}
