package outboxtest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// In a lane, what is due first is tried first.
func orderByDue(d *desk) {
	now := time.Now().UTC()
	want := make([]string, 5)
	for _, i := range []int{3, 0, 4, 2, 1} {
		m := message("lab")
		m.Due = now.Add(time.Duration(i-10) * time.Second)
		d.accept(m)
		want[i] = m.ID
	}
	c := &clerk{window: 1}
	d.run(c)
	d.until("all are tried", func() bool { return c.count() == len(want) })
	if got := c.ids(); !slices.Equal(got, want) {
		d.Errorf("order %v, want %v", got, want)
	}
}

// Nothing is tried before it is due, whether its sender or a retry set the time.
func notBeforeDue(d *desk) {
	c := &clerk{}
	d.run(c)
	for _, state := range []outbox.State{outbox.StateScheduled, outbox.StateQueued} {
		m := message("lab")
		m.State, m.Due = state, time.Now().Add(2*quiet).UTC()
		d.accept(m)
		d.accept(message("lab")) // which passes it
		d.untilState(m.ID, outbox.StateSent)
		if at := c.tries(m.ID); len(at) != 1 || at[0].Before(m.Due.Add(-slack)) {
			d.Errorf("%s for %v, tried at %v", state, m.Due, at)
		}
	}
}

// slack is what a time may lose on its way into a store and back.
const slack = 2 * time.Millisecond

// No more messages of a tenant are out than the window says, and no fewer, if there
// are as many.
func windowKept(d *desk) {
	g := make(gate)
	c := &clerk{window: 3, deliver: g.deliver}
	for range 4 {
		d.accept(message("lab"))
	}
	d.run(c)
	for range 4 {
		d.accept(message("lab"))
	}
	d.until("the window is full", func() bool { now, _ := c.at("lab"); return now == 3 })
	d.never("more than the window", func() bool { now, _ := c.at("lab"); return now > 3 })
	close(g)
	d.until("all are tried", func() bool { return c.count() == 8 })
	if _, most := c.at("lab"); most > 3 {
		d.Errorf("%d at once, and the window is 3", most)
	}
}

// A lane whose tries never end delays no other.
func lanesIndependent(d *desk) {
	g := make(gate)
	c := &clerk{deliver: func(ctx context.Context, m *outbox.Message, content mailer.Content) outbox.Outcome {
		if m.Tenant == "stuck" {
			return g.deliver(ctx, m, content)
		}
		return sent(m)
	}}
	defer close(g)
	for range 20 {
		d.accept(message("stuck"))
	}
	d.run(c)
	d.until("the lane is stuck", func() bool { now, _ := c.at("stuck"); return now == 4 })
	ids := make([]string, 0, 40)
	for i := range 40 {
		ids = append(ids, d.accept(message("t"+strconv.Itoa(i%8))).ID)
		d.accept(message("stuck"))
	}
	for _, id := range ids {
		d.untilState(id, outbox.StateSent)
	}
}

// What becomes of messages is recorded, with what the handler has changed in them.
func verdicts(d *desk) {
	for _, tt := range []struct {
		verdict outbox.Verdict
		state   outbox.State
		content bool
	}{
		{outbox.Sent, outbox.StateSent, false},
		{outbox.Dead, outbox.StateFailed, true},
		{outbox.Hold, outbox.StateHeld, true},
	} {
		c := &clerk{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			m.Attempts, m.Recipients[0].Done = 7, true
			m.Delivery = &outbox.Delivery{Tenant: "other", Server: "mail.example.com:587", QueueID: "q"}
			m.Failure = outbox.NewFailure(time.Now(), &mailer.Error{Stage: mailer.StageFinal, Code: "code"})
			if tt.verdict == outbox.Hold {
				return outbox.Outcome{Verdict: tt.verdict}
			}
			o := sent(m)
			o.Verdict = tt.verdict
			return o
		}}
		d.run(c)
		m := d.accept(message("lab"))
		d.untilState(m.ID, tt.state)
		d.reopen()
		got := d.get(m.ID)
		if got.State != tt.state || got.Attempts != 7 || !got.Recipients[0].Done || got.Delivery == nil || got.Delivery.QueueID != "q" || got.Failure == nil || got.Failure.Code != "code" {
			d.Errorf("%s: %+v", tt.state, got)
		}
		if _, err := d.e.Content(d.Context(), m.ID); (err == nil) != tt.content || err != nil && !errors.Is(err, outbox.ErrNotFound) {
			d.Errorf("%s: content: %v", tt.state, err)
		}
		if n := c.count(); n != 1 {
			d.Errorf("%s: tried %d times", tt.state, n)
		}
	}
}

// A message that is to be tried again is due when the outcome says, or at once.
func retryAt(d *desk) {
	var at atomic.Pointer[time.Time]
	c := &clerk{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		m.Attempts++
		switch m.Attempts {
		case 1:
			return outbox.Outcome{Verdict: outbox.Retry}
		case 2:
			due := time.Now().Add(2 * quiet).UTC()
			at.Store(&due)
			return outbox.Outcome{Verdict: outbox.Retry, At: due}
		}
		return sent(m)
	}}
	d.run(c)
	m := d.accept(message("lab"))
	d.until("two tries", func() bool { return len(c.tries(m.ID)) >= 2 && at.Load() != nil })
	due := *at.Load()
	if got := d.untilStateOrSent(m.ID, outbox.StateQueued); got.State == outbox.StateQueued && got.Due.Sub(due).Abs() > slack {
		d.Errorf("due at %v, want %v", got.Due, due)
	}
	got := d.untilState(m.ID, outbox.StateSent)
	if tries := c.tries(m.ID); len(tries) != 3 || got.Attempts != 3 || tries[2].Before(due.Add(-slack)) {
		d.Errorf("%d attempts at %v; the last was due at %v", got.Attempts, tries, due)
	}
}

// untilStateOrSent waits for a state that a slow machine may miss.
func (d *desk) untilStateOrSent(id string, s outbox.State) *outbox.Message {
	d.Helper()
	var m *outbox.Message
	d.until(string(s), func() bool {
		m = d.get(id)
		return m.State == s || m.State == outbox.StateSent
	})
	return m
}

// A panic is an outcome: the message is tried again a minute on, and the others go on.
func panicInDeliver(d *desk) {
	c := &clerk{window: 1, deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		if m.Caller.Name == "panic" {
			panic("a defect")
		}
		return sent(m)
	}}
	d.run(c)
	bad := message("lab")
	bad.Caller.Name = "panic"
	d.accept(bad)
	good := d.accept(message("lab"))
	d.untilState(good.ID, outbox.StateSent)
	got := d.untilState(bad.ID, outbox.StateQueued)
	if wait := time.Until(got.Due); wait < 30*time.Second || wait > 2*time.Minute {
		d.Errorf("tried again in %v, want a minute", wait)
	}
}

// When ctx ends, nothing more is handed out, the tries under way hear of it, and what
// becomes of them is recorded. Then Run may run again.
func runEnds(d *desk) {
	var over atomic.Int32
	c := &clerk{window: 2, deliver: func(ctx context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		<-ctx.Done()
		over.Add(1)
		m.Attempts = 9
		return outbox.Outcome{Verdict: outbox.Retry}
	}}
	d.run(c)
	ids := make([]string, 0, 5)
	for range 5 {
		ids = append(ids, d.accept(message("lab")).ID)
	}
	d.until("the window is full", func() bool { now, _ := c.at("lab"); return now == 2 })
	d.halt()
	if n := over.Load(); n != 2 || c.count() != 2 {
		d.Errorf("%d tries ended, of %d; want 2 of 2", n, c.count())
	}
	recorded := 0
	for _, id := range ids {
		m := d.get(id)
		if m.State != outbox.StateQueued {
			d.Errorf("%s after the end", m.State)
		}
		if m.Attempts == 9 {
			recorded++
		}
	}
	if recorded != 2 {
		d.Errorf("%d outcomes recorded, want 2", recorded)
	}
	waiting := d.accept(message("lab"))
	next := &clerk{}
	d.run(next)
	for _, id := range append(ids, waiting.ID) {
		d.untilState(id, outbox.StateSent)
	}
	if got := next.interrupted(); len(got) > 0 {
		d.Errorf("%d messages taken for interrupted after an orderly end", len(got))
	}
}

// everything uses all methods at once: no message may be lost, or tried twice at once.
func everything(d *desk) {
	var n atomic.Int32
	c := &clerk{deliver: func(_ context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
		m.Attempts++
		if _, err := read(c); err != nil {
			d.Errorf("content: %v", err)
		}
		switch n.Add(1) % 9 {
		case 0:
			return outbox.Outcome{Verdict: outbox.Retry, At: time.Now().Add(5 * time.Millisecond)}
		case 1:
			return outbox.Outcome{Verdict: outbox.Retry, Lane: &outbox.Lane{State: outbox.LaneResting, Since: time.Now(), Until: time.Now().Add(10 * time.Millisecond)}}
		}
		return sent(m)
	}}
	d.run(c)
	const senders, each = 8, 25
	var mu sync.Mutex
	var ids []string
	var group sync.WaitGroup
	for i := range senders {
		group.Go(func() {
			for range each {
				m := message("t" + strconv.Itoa(i%4))
				if err := d.e.Accept(d.Context(), m, source(m, []byte(letter))); err != nil {
					d.Errorf("accept: %v", err)
				}
				mu.Lock()
				ids = append(ids, m.ID)
				mu.Unlock()
			}
		})
	}
	const more = 20 // rounds of operators while nothing is accepted any more
	var accepted atomic.Bool
	var operators sync.WaitGroup
	for _, operate := range []func(id, tenant string) error{
		func(id, _ string) error { _, err := d.e.Get(d.Context(), id); return err },
		func(_, tenant string) error {
			_, err := d.e.List(d.Context(), outbox.Filter{Tenant: tenant})
			return err
		},
		func(_, _ string) error { _, err := d.e.Stats(d.Context()); return err },
		func(_, _ string) error { _, err := d.e.Lanes(d.Context()); return err },
		func(id, _ string) error {
			return d.e.Change(d.Context(), id, func(m *outbox.Message) error {
				if m.State != outbox.StateQueued {
					return errChange
				}
				m.Due = time.Now().UTC()
				return nil
			})
		},
		func(_, tenant string) error {
			return errors.Join(d.e.SetLane(d.Context(), tenant, outbox.Lane{State: outbox.LanePaused}), d.e.SetLane(d.Context(), tenant, outbox.Lane{}))
		},
	} {
		operators.Go(func() {
			for i, left := 0, more; left > 0; i++ {
				if accepted.Load() {
					left--
				}
				mu.Lock()
				id := ""
				if len(ids) > 0 {
					id = ids[i%len(ids)]
				}
				mu.Unlock()
				err := operate(id, "t"+strconv.Itoa(i%4))
				if err != nil && !errors.Is(err, outbox.ErrNotFound) && !errors.Is(err, outbox.ErrSending) && !errors.Is(err, errChange) {
					d.Error(err)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	group.Wait()
	accepted.Store(true)
	operators.Wait()
	for _, id := range ids {
		d.untilState(id, outbox.StateSent)
	}
	if len(c.twice) > 0 {
		d.Errorf("tried twice at once: %v", c.twice)
	}
}

var errChange = errors.New("not now")
