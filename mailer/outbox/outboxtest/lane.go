package outboxtest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func closed(s outbox.LaneState, after time.Duration) *outbox.Lane {
	now := time.Now().UTC()
	l := &outbox.Lane{State: s, Since: now, Failure: outbox.NewFailure(now, &mailer.Error{Stage: mailer.StageAuth, Kind: mailer.KindUnauthorized})}
	if after > 0 {
		l.Until = now.Add(after)
	}
	return l
}

// closer is a handler whose first try closes the lane; the message is tried again.
func closer(l func() *outbox.Lane, then func(context.Context, *outbox.Message, mailer.Content) outbox.Outcome) *clerk {
	var n atomic.Int32
	return &clerk{window: 1, deliver: func(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
		if n.Add(1) == 1 {
			return outbox.Outcome{Verdict: outbox.Retry, Lane: l()}
		}
		if then == nil {
			return sent(m)
		}
		return then(ctx, m, c)
	}}
}

// A resting lane hands out nothing until its time has come, then one message, and the
// others once that one's outcome leaves the lane alone.
func restingLane(d *desk) {
	g := make(gate)
	c := closer(func() *outbox.Lane { return closed(outbox.LaneResting, 3*quiet) }, g.deliver)
	c.window = 4
	d.run(c)
	d.accept(message("lab"))
	d.until("the lane rests", func() bool { return d.lane("lab").State == outbox.LaneResting })
	until := d.lane("lab").Until
	ids := make([]string, 0, 3)
	for range 3 {
		ids = append(ids, d.accept(message("lab")).ID)
	}
	d.until("the probe", func() bool { return c.count() == 2 })
	if at := c.tried[1].at; at.Before(until.Add(-slack)) {
		d.Errorf("probed at %v, before %v", at, until)
	}
	d.never("more than one probe", func() bool { return c.count() > 2 })
	close(g)
	for _, id := range ids {
		d.untilState(id, outbox.StateSent)
	}
	d.until("the lane is open", func() bool { return d.lane("lab").State == outbox.LaneOpen })
}

// A probe whose outcome has a lane sets that; another probe follows.
func probeFails(d *desk) {
	var n atomic.Int32
	c := &clerk{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		if n.Add(1) <= 3 {
			return outbox.Outcome{Verdict: outbox.Retry, Lane: closed(outbox.LaneParked, quiet)}
		}
		return sent(m)
	}}
	for range 4 {
		d.accept(message("lab"))
	}
	c.window = 1
	begin := time.Now()
	d.run(c)
	d.until("all are sent", func() bool { return n.Load() == 3+4 })
	if took := time.Since(begin); took < 3*quiet-slack {
		d.Errorf("three rests of %v took %v", quiet, took)
	}
}

// A parked lane without a time stays parked, in the next process too, until it is
// opened. Other lanes do not mind.
func parkedLane(d *desk) {
	c := closer(func() *outbox.Lane { return closed(outbox.LaneParked, 0) }, nil)
	d.run(c)
	first := d.accept(message("lab"))
	d.until("the lane is parked", func() bool { return d.lane("lab").State == outbox.LaneParked })
	second := d.accept(message("lab"))
	d.untilState(d.accept(message("other")).ID, outbox.StateSent)
	d.never("a try in a parked lane", func() bool { return len(c.tries(second.ID))+len(c.tries(first.ID)) > 1 })
	d.halt()
	d.crash(nil)
	if l := d.lane("lab"); l.State != outbox.LaneParked || l.Failure == nil || l.Failure.Stage != mailer.StageAuth || l.Since.IsZero() {
		d.Errorf("lane after a crash: %+v", l)
	}
	next := &clerk{}
	d.run(next)
	d.never("a try in a parked lane", func() bool { return next.count() > 0 })
	if err := d.e.SetLane(d.Context(), "lab", outbox.Lane{}); err != nil {
		d.Fatal(err)
	}
	d.untilState(first.ID, outbox.StateSent)
	d.untilState(second.ID, outbox.StateSent)
	all, err := d.e.Lanes(d.Context())
	if err != nil || len(all) > 0 {
		d.Errorf("lanes that are not open: %v, %v", all, err)
	}
}

// A paused lane stays paused, whatever the outcomes of tries say that were under way.
func pausedLane(d *desk) {
	g := make(gate)
	c := &clerk{window: 1, deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		<-g
		m.Attempts++
		return outbox.Outcome{Verdict: outbox.Retry, Lane: closed(outbox.LaneResting, time.Millisecond)}
	}}
	d.run(c)
	m := d.accept(message("lab"))
	d.until("a try", func() bool { return c.count() == 1 })
	if err := d.e.SetLane(d.Context(), "lab", outbox.Lane{State: outbox.LanePaused, Since: time.Now().UTC(), By: "operator"}); err != nil {
		d.Fatal(err)
	}
	close(g)
	d.until("the outcome is recorded", func() bool { return d.get(m.ID).Attempts == 1 })
	d.accept(message("lab"))
	d.never("a try in a paused lane", func() bool { return c.count() > 1 })
	d.reopen()
	if l := d.lane("lab"); l.State != outbox.LanePaused || l.By != "operator" {
		d.Errorf("lane in the next process: %+v", l)
	}
	next := &clerk{}
	d.run(next)
	d.never("a try in a paused lane", func() bool { return next.count() > 0 })
	if err := d.e.SetLane(d.Context(), "lab", outbox.Lane{}); err != nil {
		d.Fatal(err)
	}
	d.until("all are sent", func() bool { return next.count() == 2 })
}

// A message past its life is handed out whatever its lane does, and does not open it.
func expiry(d *desk) {
	c := &clerk{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		if time.Now().Before(m.Expires.Add(-slack)) {
			d.Error("tried in a lane that is closed")
		}
		return dead(m)
	}}
	d.run(c)
	for _, state := range []outbox.LaneState{outbox.LaneResting, outbox.LaneParked, outbox.LanePaused} {
		tenant := string(state)
		if err := d.e.SetLane(d.Context(), tenant, *closed(state, time.Hour)); err != nil {
			d.Fatal(err)
		}
		m := message(tenant)
		m.Expires = time.Now().Add(quiet).UTC()
		later := d.accept(message(tenant))
		d.accept(m)
		d.untilState(m.ID, outbox.StateFailed)
		d.never("a try of another message", func() bool { return len(c.tries(later.ID)) > 0 })
		if l := d.lane(tenant); l.State != state {
			d.Errorf("lane %s is %q after a message expired", state, l.State)
		}
	}
}
