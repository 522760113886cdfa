package mailer

import "time"

// Set holds the mailbox to other limits from now on; the arguments are the fields
// of the [Limiter]. What was counted counts further, and a pause goes on: only
// what has left the old window is not known to a longer one. Who waits for a turn
// gets it by the new limits.
func (l *Limiter) Set(rate int, per time.Duration, recipientsPerDay, connections int) {
	l.init()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Rate, l.Per = rate, orDefault(per, time.Minute)
	l.RecipientsPerDay, l.Connections = recipientsPerDay, connections
	if l.tally == nil && !l.limited() {
		return
	}
	l.countLocked()
	now := l.clock()
	l.expireLocked(now)
	l.window.set(newWindow(l.Rate, l.Per))
	l.day.most = l.RecipientsPerDay
	l.trouble.set(orDefault(l.Connections, 2))
	l.eased.Store(!l.trouble.on && !l.limited())
	l.dismissLocked(now)
	l.advanceLocked(now)
}

// set takes the limit of another window. Messages leave when they would have, had
// it been so from the first.
func (w *window) set(other window) {
	for i := range w.ends.len {
		*w.ends.at(i) += other.length - w.length
	}
	w.most, w.length = other.most, other.length
}

// set takes the connections of good times.
func (t *trouble) set(most int) {
	t.most = most
	if !t.on {
		t.connections = most
	}
	t.connections = min(t.connections, most)
}
