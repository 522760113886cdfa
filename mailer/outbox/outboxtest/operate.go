package outboxtest

import (
	"errors"
	"slices"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Change changes a message in one step, and the engine acts on that.
func change(d *desk) {
	g := make(gate)
	c := &clerk{window: 1, deliver: g.deliver}
	d.run(c)
	busy := d.accept(message("lab"))
	d.until("a try", func() bool { return c.count() == 1 })
	err := d.e.Change(d.Context(), busy.ID, func(*outbox.Message) error { d.Error("f was called"); return nil })
	if !errors.Is(err, outbox.ErrSending) {
		d.Errorf("change of a message that is being sent: %v", err)
	}
	waiting := d.accept(message("lab"))
	err = d.e.Change(d.Context(), waiting.ID, func(m *outbox.Message) error {
		m.State, m.By = outbox.StateCanceled, "x"
		return errChange
	})
	if got := d.get(waiting.ID); err != errChange || got.State != outbox.StateQueued || got.By != "" { //nolint:errorlint // as it is
		d.Errorf("%v; after an error of f the message is %s", err, got.State)
	}
	d.mustChange(waiting.ID, func(m *outbox.Message) {
		m.State, m.By, m.Finished, m.Forget = outbox.StateCanceled, "x", time.Now().UTC(), time.Now().Add(time.Hour).UTC()
	})
	far := message("lab")
	far.State, far.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
	d.accept(far)
	with := full()
	with.State, with.Due = outbox.StateScheduled, far.Due
	d.accept(with)
	d.mustChange(with.ID, func(m *outbox.Message) { m.Idempotency, m.Fingerprint = nil, nil })
	if got := d.get(with.ID); len(got.Idempotency) > 0 {
		d.Error("an idempotency digest that f took away is back")
	}
	free := full()
	free.Idempotency, free.State, free.Due = with.Idempotency, with.State, with.Due
	d.accept(free)
	close(g)
	d.untilState(busy.ID, outbox.StateSent)
	d.never("a try of what was canceled, or is not due", func() bool { return c.count() > 1 })
	if got := d.get(waiting.ID); got.State != outbox.StateCanceled || got.By != "x" {
		d.Errorf("canceled message: %s by %q", got.State, got.By)
	}
	d.mustChange(far.ID, func(m *outbox.Message) { m.State, m.Due = outbox.StateQueued, time.Now().UTC() })
	d.untilState(far.ID, outbox.StateSent)
	next := message("other")
	next.State, next.Due = outbox.StateScheduled, time.Now().Add(quiet).UTC()
	d.accept(next)
	d.mustChange(next.ID, func(m *outbox.Message) { m.Due = time.Now().Add(time.Hour).UTC() })
	time.Sleep(quiet)
	d.never("a try at the old time", func() bool { return len(c.tries(next.ID)) > 0 })
}

func (d *desk) mustChange(id string, f func(*outbox.Message)) {
	d.Helper()
	if err := d.e.Change(d.Context(), id, func(m *outbox.Message) error { f(m); return nil }); err != nil {
		d.Fatalf("change: %v", err)
	}
}

// Drop forgets messages in any state but sending.
func drop(d *desk) {
	g := make(gate)
	c := &clerk{window: 1, deliver: g.deliver}
	d.run(c)
	busy := d.accept(message("lab"))
	d.until("a try", func() bool { return c.count() == 1 })
	if err := d.e.Drop(d.Context(), busy.ID); !errors.Is(err, outbox.ErrSending) {
		d.Errorf("dropping a message that is being sent: %v", err)
	}
	waiting := d.accept(message("lab"))
	if err := d.e.Drop(d.Context(), waiting.ID); err != nil {
		d.Fatal(err)
	}
	close(g)
	d.untilState(busy.ID, outbox.StateSent)
	if err := d.e.Drop(d.Context(), busy.ID); err != nil {
		d.Fatal(err)
	}
	for _, m := range []*outbox.Message{busy, waiting} {
		if _, err := d.e.Get(d.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
			d.Errorf("after the drop: %v", err)
		}
		if _, err := d.e.Content(d.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
			d.Errorf("its content: %v", err)
		}
	}
	d.never("a try of what was dropped", func() bool { return c.count() > 1 })
	page, err := d.e.List(d.Context(), outbox.Filter{})
	if err != nil || len(page.Messages) > 0 {
		d.Errorf("%d messages are left, %v", len(page.Messages), err)
	}
}

func notFound(d *desk) {
	id := message("lab").ID
	_, get := d.e.Get(d.Context(), id)
	_, content := d.e.Content(d.Context(), id)
	for name, err := range map[string]error{
		"get": get, "content": content, "drop": d.e.Drop(d.Context(), id),
		"change": d.e.Change(d.Context(), id, func(*outbox.Message) error { d.Error("f was called"); return nil }),
	} {
		if !errors.Is(err, outbox.ErrNotFound) {
			d.Errorf("%s: %v", name, err)
		}
	}
}

// List filters, newest first, in pages that leave out nothing and repeat nothing.
func list(d *desk) {
	var all []*outbox.Message // the newest first
	for i := range 25 {
		m := message([]string{"a", "b"}[i%2])
		m.Caller.Name = []string{"x", "y", "z"}[i%3]
		if i%5 == 0 {
			m.Caller.Kind = "user"
		}
		m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
		if i%4 == 0 {
			m.State = outbox.StateQueued
		}
		all = append([]*outbox.Message{d.accept(m)}, all...)
	}
	for _, f := range []outbox.Filter{
		{},
		{Tenant: "a"},
		{Tenant: "none"},
		{State: outbox.StateQueued},
		{Tenant: "b", State: outbox.StateScheduled},
		{CallerKind: "key", CallerName: "x"},
		{CallerKind: "user", CallerName: "x", Tenant: "a"},
	} {
		var want []string
		for _, m := range all {
			if (f.Tenant == "" || f.Tenant == m.Tenant) && (f.State == "" || f.State == m.State) &&
				(f.CallerKind == "" || f.CallerKind == m.Caller.Kind) && (f.CallerName == "" || f.CallerName == m.Caller.Name) {
				want = append(want, m.ID)
			}
		}
		for _, limit := range []int{0, 1, 4, 25} {
			f.Limit = limit
			if got := d.pages(f); !slices.Equal(got, want) {
				d.Errorf("%+v: %d messages, want %d, or in another order", f, len(got), len(want))
			}
			newer := f
			newer.After = all[18].ID
			from := slices.IndexFunc(want, func(id string) bool { return id <= newer.After })
			if from < 0 {
				from = len(want)
			}
			if got := d.pages(newer); !slices.Equal(got, want[:from]) {
				d.Errorf("%+v: %d messages, want %d, or in another order", newer, len(got), from)
			}
		}
	}
	if p, err := d.e.List(d.Context(), outbox.Filter{After: all[0].ID}); err != nil || len(p.Messages) > 0 || p.Next != "" {
		d.Errorf("newer than the newest: %d messages, next %q, %v", len(p.Messages), p.Next, err)
	}
}

// pages returns the ids that pages have one after the other, the newest first.
func (d *desk) pages(f outbox.Filter) []string {
	d.Helper()
	var got []string
	for pages := 0; ; pages++ {
		p, err := d.e.List(d.Context(), f)
		if err != nil {
			d.Fatalf("list: %v", err)
		}
		if f.Limit > 0 && len(p.Messages) > f.Limit {
			d.Errorf("%+v: a page of %d", f, len(p.Messages))
		}
		var page []string
		for _, m := range p.Messages {
			page = append(page, m.ID)
		}
		if f.After == "" {
			got, f.Before = append(got, page...), p.Next
		} else {
			got, f.After = append(page, got...), p.Next
		}
		if p.Next == "" || pages > 50 {
			return got
		}
	}
}

// Stats counts by tenant and state.
func stats(d *desk) {
	want := map[outbox.State]int{}
	var oldest time.Time
	for i, tt := range []struct {
		state outbox.State
		age   time.Duration
	}{
		{outbox.StateScheduled, 5 * time.Hour},
		{outbox.StateQueued, time.Hour},
		{outbox.StateQueued, 2 * time.Hour},
		{outbox.StateSent, 4 * time.Hour},
		{outbox.StateFailed, 4 * time.Hour},
	} {
		m := message("a")
		m.Accepted = m.Accepted.Add(-tt.age)
		if tt.state != outbox.StateQueued {
			m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
		}
		d.accept(m)
		if tt.state.Final() {
			d.mustChange(m.ID, func(m *outbox.Message) {
				m.State, m.Due, m.Finished, m.Forget = tt.state, time.Time{}, time.Now().UTC(), time.Now().Add(time.Hour).UTC()
			})
		}
		want[tt.state]++
		if i == 2 {
			oldest = m.Accepted
		}
	}
	last := d.accept(message("b"))
	if err := d.e.Drop(d.Context(), last.ID); err != nil {
		d.Fatal(err)
	}
	check := func() {
		d.Helper()
		s, err := d.e.Stats(d.Context())
		if err != nil {
			d.Fatalf("stats: %v", err)
		}
		got := s.Tenants["a"]
		for _, state := range []outbox.State{
			outbox.StateScheduled, outbox.StateQueued, outbox.StateSending, outbox.StateHeld, outbox.StateSent, outbox.StateFailed, outbox.StateCanceled,
		} {
			if got.Messages[state] != want[state] {
				d.Errorf("%d messages are %s, want %d", got.Messages[state], state, want[state])
			}
			if n := s.Tenants["b"].Messages[state]; n != 0 {
				d.Errorf("%d messages of the other tenant are %s", n, state)
			}
		}
		if got.Oldest.Sub(oldest).Abs() > slack {
			d.Errorf("the oldest is of %v, want %v", got.Oldest, oldest)
		}
	}
	check()
	d.reopen()
	check()
	g := make(gate)
	c := &clerk{window: 1, deliver: g.deliver}
	d.run(c)
	d.until("a try", func() bool { return c.count() == 1 })
	want[outbox.StateQueued], want[outbox.StateSending] = 1, 1
	d.until("the try counts", func() bool {
		s, err := d.e.Stats(d.Context())
		return err == nil && s.Tenants["a"].Messages[outbox.StateSending] == 1
	})
	check()
	close(g)
	d.until("all are sent", func() bool {
		s, err := d.e.Stats(d.Context())
		return err == nil && s.Tenants["a"].Messages[outbox.StateSent] == 3 && s.Tenants["a"].Oldest.IsZero()
	})
}
