package mailer

import (
	"fmt"
	"time"
)

// The codes of errors at [StageLimit].
const (
	codeBusy       = "mailbox_busy" // all connections are in use
	codeRate       = "mailbox_rate"
	codePaused     = "mailbox_paused"
	codeRecipients = "mailbox_recipients"
)

// maxWindow is the most messages that a window remembers. One that may have
// more is cut into equal parts with limits of their own.
const maxWindow = 10_000

// window counts messages in a window that slides.
type window struct {
	most   int // zero: any number
	length time.Duration
	// ends are when the messages that have ended leave the window, in order.
	ends ring[time.Duration]
}

func newWindow(rate int, per time.Duration) window {
	parts := (rate + maxWindow - 1) / maxWindow
	if parts > 1 {
		return window{most: rate / parts, length: per / time.Duration(parts)}
	}
	return window{most: rate, length: per}
}

func (w *window) add(now time.Duration) {
	if w.most > 0 {
		w.ends.push(now + w.length)
	}
}

func (w *window) expire(now time.Duration) {
	for w.ends.len > 0 && *w.ends.at(0) <= now {
		w.ends.pop()
	}
}

// earliest returns when the next message may go, at best: with so many in
// flight, so many ahead of it, and the limit divided by slow, if that is not
// zero.
func (w *window) earliest(now time.Duration, inFlight, ahead int, slow float64) time.Duration {
	most := w.most
	if most == 0 {
		return now
	}
	if slow > 0 {
		most = max(1, int(float64(most)/slow))
	}
	held := w.ends.len + inFlight
	// Of those who hold a place or will, in order, this one's must leave first.
	before := held + ahead - most
	if before < 0 {
		return now
	}
	later := now
	if before >= held { // a message's place that is not taken yet
		rounds := (before-held)/most + 1
		before -= rounds * most
		later += time.Duration(rounds) * w.length
	}
	switch {
	case before < 0:
		return later
	case before < w.ends.len:
		return later - now + *w.ends.at(before)
	}
	return later + w.length
}

// day counts recipients in 24 hours that slide.
type day struct {
	most     int // zero: any number
	inFlight int
	sent     int // the sum of parts
	// parts are counts of one minute each: their number is bounded, and they
	// leave a minute late at most.
	parts ring[dayPart]
}

type dayPart struct {
	leaves time.Duration
	n      int
}

func (d *day) add(now time.Duration, n int) {
	if d.most == 0 || n == 0 {
		return
	}
	leaves := now.Truncate(time.Minute) + time.Minute + 24*time.Hour
	d.sent += n
	if last := d.parts.len - 1; last >= 0 && d.parts.at(last).leaves == leaves {
		d.parts.at(last).n += n
		return
	}
	d.parts.push(dayPart{leaves, n})
}

func (d *day) expire(now time.Duration) {
	for d.parts.len > 0 && d.parts.at(0).leaves <= now {
		d.sent -= d.parts.pop().n
	}
}

// refuse says why a message to so many recipients cannot go now.
func (d *day) refuse(now time.Duration, recipients int) *Error {
	if d.most == 0 || d.sent+d.inFlight+recipients <= d.most {
		return nil
	}
	if recipients > d.most {
		return &Error{
			Stage: StageLimit, Kind: KindInvalid, Code: codeRecipients, Field: "to",
			Err: fmt.Errorf("%d recipients, and the mailbox may send to %d in 24 hours; send to fewer at a time", recipients, d.most),
		}
	}
	e := &Error{
		Stage: StageLimit, Kind: KindThrottled, Code: codeRecipients, RetryAfter: 24 * time.Hour,
		Err: fmt.Errorf("the mailbox may send to %d recipients in 24 hours, and %d are left", d.most, max(0, d.most-d.sent-d.inFlight)),
	}
	over := d.sent + d.inFlight + recipients - d.most
	for i := range d.parts.len {
		p := d.parts.at(i)
		if over -= p.n; over <= 0 {
			e.RetryAfter = p.leaves - now
			break
		}
	}
	return e
}

// ring is a queue that keeps the room it once needed.
type ring[T any] struct {
	items []T
	first int
	len   int
}

// at returns the i-th in line.
func (r *ring[T]) at(i int) *T { return &r.items[(r.first+i)%len(r.items)] }

func (r *ring[T]) push(v T) {
	if r.len == len(r.items) {
		items := make([]T, max(16, 2*r.len))
		for i := range r.len {
			items[i] = *r.at(i)
		}
		r.items, r.first = items, 0
	}
	r.len++
	*r.at(r.len - 1) = v
}

func (r *ring[T]) pop() T {
	v := *r.at(0)
	r.first = (r.first + 1) % len(r.items)
	r.len--
	return v
}
