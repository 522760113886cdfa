package bolt

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// bubble runs a test on a clock of its own. The engine is closed within it.
func bubble(t *testing.T, f func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		f(t, b)
		b.stop()
	})
}

func (b *bench) setLane(tenant string, l outbox.Lane) {
	b.Helper()
	if err := b.e.SetLane(context.Background(), tenant, l); err != nil {
		b.Fatal(err)
	}
}

// TestDueTimes: messages are handed out when they are due, to the nanosecond, over
// hours, with nothing in between.
func TestDueTimes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		var r recorder
		b.run(handler{window: 4, deliver: r.deliver})
		begin := time.Now()
		var want []time.Time
		for _, after := range []time.Duration{3 * time.Hour, time.Millisecond, 40*time.Hour + 7, time.Hour + time.Second/3} {
			m, c := letter([]string{"a", "b"}[len(want)%2], small)
			m.State, m.Due = outbox.StateScheduled, begin.Add(after)
			if err := b.e.Accept(t.Context(), m, c); err != nil {
				t.Fatal(err)
			}
			want = append(want, m.Due)
		}
		time.Sleep(41 * time.Hour)
		_, got := r.snapshot()
		slices.SortFunc(want, time.Time.Compare)
		if !slices.EqualFunc(want, got, time.Time.Equal) {
			t.Errorf("handed out at %v, want %v", got, want)
		}
	})
}

// TestLongLane: a lane with very many messages that are due delays no other.
func TestLongLane(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		const many = 3000
		for range many / 100 {
			done := make(chan struct{})
			for range 100 {
				go func() {
					m, c := letter("long", "x")
					if err := b.e.Accept(context.Background(), m, c); err != nil {
						t.Error(err)
					}
					done <- struct{}{}
				}()
			}
			for range 100 {
				<-done
			}
		}
		var r recorder
		b.run(handler{window: 4, deliver: func(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
			o := r.deliver(ctx, m, c)
			if m.Tenant == "long" {
				time.Sleep(time.Minute)
			}
			return o
		}})
		time.Sleep(time.Second)
		if n := r.count(); n != 4 {
			t.Errorf("%d of the long lane are out", n)
		}
		begin := time.Now()
		m := b.accept("other", small)
		synctest.Wait()
		ids, times := r.snapshot()
		if i := slices.Index(ids, m.ID); i < 0 || !times[i].Equal(begin) {
			t.Error("the message of another lane was not handed out at once")
		}
		time.Sleep(10 * time.Minute)
		if n := r.count(); n != 4*11+1 {
			t.Errorf("%d are tried after ten minutes, want %d", n, 4*11+1)
		}
		synctest.Wait()
		if n := len(b.e.flights); n > 8 {
			t.Errorf("%d messages are in memory", n)
		}
	})
}

// TestProbe: a closed lane hands out one message at its time, and opens or does not.
func TestProbe(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		begin := time.Now()
		var r recorder
		b.run(handler{window: 4, deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			if r.note(m) == 1 {
				return outbox.Outcome{Lane: &outbox.Lane{State: outbox.LaneResting, Until: time.Now().Add(time.Minute)}}
			}
			time.Sleep(time.Second)
			return outbox.Outcome{Verdict: outbox.Sent}
		}})
		b.setLane("lab", outbox.Lane{State: outbox.LaneParked, Until: begin.Add(time.Hour)})
		b.setLane("never", outbox.Lane{State: outbox.LanePaused})
		b.accept("never", small)
		for range 6 {
			b.accept("lab", small)
		}
		time.Sleep(2 * time.Hour)
		_, got := r.snapshot()
		for i, want := range []time.Duration{
			time.Hour, time.Hour + time.Minute, // probes: one fails, one does well
			time.Hour + time.Minute + time.Second, time.Hour + time.Minute + time.Second, time.Hour + time.Minute + time.Second, time.Hour + time.Minute + time.Second,
			time.Hour + time.Minute + 2*time.Second,
		} {
			if i >= len(got) || !got[i].Equal(begin.Add(want)) {
				t.Fatalf("try %d of %v is not %v after the begin", i, got, want)
			}
		}
		if len(got) != 7 {
			t.Errorf("%d tries", len(got))
		}
		lanes, err := b.e.Lanes(t.Context())
		if err != nil || len(lanes) != 1 || lanes["never"].State != outbox.LanePaused {
			t.Errorf("lanes %v, %v", lanes, err)
		}
	})
}

// TestProbeWaitsForMail: a probe that has no message waits for one; a pause during a
// probe outlives it.
func TestProbeWaitsForMail(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		begin := time.Now()
		var r recorder
		b.run(handler{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			r.note(m)
			time.Sleep(time.Minute)
			return outbox.Outcome{Verdict: outbox.Sent}
		}})
		b.setLane("lab", outbox.Lane{State: outbox.LaneResting, Until: begin.Add(time.Minute)})
		time.Sleep(time.Hour)
		b.accept("lab", small)
		b.accept("lab", small)
		synctest.Wait()
		if n := r.count(); n != 1 {
			t.Errorf("%d probes at once, want 1", n)
		}
		b.setLane("lab", outbox.Lane{State: outbox.LanePaused})
		time.Sleep(time.Hour)
		if n := r.count(); n != 1 {
			t.Errorf("%d tries in a lane that was paused during its probe", n)
		}
	})
}

// TestClosedDuringProbe: a lane that is closed anew while a probe is under way is not
// opened by it.
func TestClosedDuringProbe(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		begin := time.Now()
		var r recorder
		b.run(handler{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			r.note(m)
			time.Sleep(time.Minute)
			return outbox.Outcome{Verdict: outbox.Sent}
		}})
		b.setLane("lab", outbox.Lane{State: outbox.LaneResting, Until: begin})
		b.accept("lab", small)
		b.accept("lab", small)
		synctest.Wait()
		b.setLane("lab", outbox.Lane{State: outbox.LaneParked, Until: begin.Add(time.Hour)})
		time.Sleep(2 * time.Hour)
		_, got := r.snapshot()
		if len(got) != 2 || !got[0].Equal(begin) || !got[1].Equal(begin.Add(time.Hour)) {
			t.Errorf("tries at %v, begun at %v", got, begin)
		}
	})
}

// TestExpiry: what expires is handed out at its time, within the window, once.
func TestExpiry(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		begin := time.Now()
		var r recorder
		b.run(handler{window: 2, deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			if r.note(m) == 1 {
				return outbox.Outcome{At: time.Now().Add(30 * time.Minute)} // a strange handler
			}
			return outbox.Outcome{Verdict: outbox.Dead}
		}})
		b.setLane("lab", outbox.Lane{State: outbox.LaneParked})
		for range 5 {
			m, c := letter("lab", small)
			m.Expires = begin.Add(time.Hour)
			if err := b.e.Accept(t.Context(), m, c); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour + time.Second)
		if n := r.count(); n != 5 {
			t.Errorf("%d tries when all have expired", n)
		}
		time.Sleep(time.Hour)
		_, got := r.snapshot()
		if len(got) != 6 || !got[4].Equal(begin.Add(time.Hour)) || !got[5].Equal(begin.Add(90*time.Minute)) {
			t.Errorf("tries at %v, begun at %v", got, begin)
		}
	})
}

// TestForget: final messages are dropped at their time, however many.
func TestForget(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		const many = 2*maxForget + 10
		b.run(handler{window: 64, deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			m.Forget = time.Now().Truncate(time.Hour).Add(24 * time.Hour)
			return outbox.Outcome{Verdict: outbox.Dead}
		}})
		for range many {
			b.accept("lab", "x")
		}
		kept := b.accept("other", small)
		count := func() int {
			synctest.Wait()
			s, err := b.e.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s.Tenants["lab"].Messages[outbox.StateFailed]
		}
		time.Sleep(23 * time.Hour)
		if n := count(); n != many {
			t.Errorf("%d messages after a day, want %d", n, many)
		}
		if err := b.e.Change(t.Context(), kept.ID, func(m *outbox.Message) error { m.Forget = time.Time{}; return nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if n := count(); n != 0 {
			t.Errorf("%d messages are left", n)
		}
		b.get(kept.ID)
	})
}
