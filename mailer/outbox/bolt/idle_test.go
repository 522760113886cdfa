package bolt

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// stored counts the commits that were made.
func (b *bench) stored() (n int) {
	b.plug.set(func() { n = b.plug.commits })
	return n
}

// TestLoneClient: a message that is posted after the one before was delivered costs
// one commit, which takes the outcome of that one along. The last outcome does not
// lie for long.
func TestLoneClient(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		const many = 50
		b.run(handler{})
		synctest.Wait()
		before := b.stored()
		for i := range many {
			b.accept([]string{"a", "b"}[i%2], small)
			synctest.Wait()
		}
		if n := b.stored() - before; n != many {
			t.Errorf("%d commits for %d messages", n, many)
		}
		time.Sleep(lieTime - 1)
		synctest.Wait()
		if n := b.stored() - before; n != many {
			t.Error("the last outcome was stored alone")
		}
		time.Sleep(1)
		synctest.Wait()
		if n := b.stored() - before; n != many+1 || len(b.e.flights) != 0 {
			t.Errorf("%d commits for %d messages, and %d outcomes that lie", n, many, len(b.e.flights))
		}
	})
}

// TestNothingWaitsForIdle: an outcome does not lie while a message, a lane, the end of
// Run or somebody who asks waits for it: all that happens here takes no time.
func TestNothingWaitsForIdle(t *testing.T) {
	t.Parallel()
	run := func(b *bench, h handler) {
		b.run(h)
		synctest.Wait()
	}
	fill := func(b *bench) {
		for range 40 {
			m, c := letter("lab", small)
			m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour)
			if err := b.e.Accept(context.Background(), m, c); err != nil {
				b.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
	}
	for name, f := range map[string]func(t *testing.T, b *bench, r *recorder){
		"a full window": func(t *testing.T, b *bench, r *recorder) {
			run(b, handler{window: 1, deliver: r.deliver})
			fill(b)
			synctest.Wait()
			if n := r.count(); n != 40 {
				t.Errorf("%d tries of 40", n)
			}
		},
		"a full window of outcomes": func(t *testing.T, b *bench, r *recorder) {
			run(b, handler{window: 1, deliver: r.deliver})
			for range 40 {
				b.accept("lab", small)
				b.accept("lab", small)
			}
			synctest.Wait()
			if n := r.count(); n != 80 {
				t.Errorf("%d tries of 80", n)
			}
		},
		"another try": func(t *testing.T, b *bench, r *recorder) {
			run(b, handler{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
				if r.note(m) < 5 {
					return outbox.Outcome{}
				}
				return outbox.Outcome{Verdict: outbox.Sent}
			}})
			b.accept("lab", small)
			synctest.Wait()
			if n := r.count(); n != 5 {
				t.Errorf("%d tries", n)
			}
		},
		"a lane": func(t *testing.T, b *bench, _ *recorder) {
			run(b, handler{deliver: func(context.Context, *outbox.Message, mailer.Content) outbox.Outcome {
				return outbox.Outcome{Verdict: outbox.Dead, Lane: &outbox.Lane{State: outbox.LaneParked}}
			}})
			b.accept("lab", small)
			synctest.Wait()
			lanes, err := b.e.Lanes(t.Context())
			if err != nil || lanes["lab"].State != outbox.LaneParked {
				t.Errorf("lanes %v, %v", lanes, err)
			}
		},
		"the end of Run": func(t *testing.T, b *bench, r *recorder) {
			run(b, handler{deliver: r.deliver})
			b.accept("lab", small)
			synctest.Wait()
			b.stop()
			if p, err := b.e.List(t.Context(), outbox.Filter{State: outbox.StateSent}); err != nil || len(p.Messages) != 1 {
				t.Errorf("%d messages, %v", len(p.Messages), err)
			}
		},
		"the end of Run during a try": func(t *testing.T, b *bench, _ *recorder) {
			run(b, handler{deliver: func(ctx context.Context, _ *outbox.Message, _ mailer.Content) outbox.Outcome {
				<-ctx.Done()
				return outbox.Outcome{Verdict: outbox.Sent}
			}})
			b.accept("lab", small)
			synctest.Wait()
			b.stop()
			if p, err := b.e.List(t.Context(), outbox.Filter{State: outbox.StateSent}); err != nil || len(p.Messages) != 1 {
				t.Errorf("%d messages, %v", len(p.Messages), err)
			}
		},
		"a look": func(t *testing.T, b *bench, r *recorder) {
			run(b, handler{deliver: r.deliver})
			m := b.accept("lab", small)
			synctest.Wait()
			if m := b.get(m.ID); m.State != outbox.StateSent {
				t.Errorf("the message is %s", m.State)
			}
		},
		"a change": func(t *testing.T, b *bench, r *recorder) {
			run(b, handler{deliver: r.deliver})
			m := b.accept("lab", small)
			synctest.Wait()
			if err := b.e.Drop(t.Context(), m.ID); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, b *bench) {
				begin := time.Now()
				f(t, b, new(recorder))
				if took := time.Since(begin) % time.Hour; took != 0 {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestLieEnds: an outcome does not lie longer for others that follow it.
func TestLieEnds(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		const step = lieTime / 2
		var r recorder
		b.run(handler{window: 64, deliver: func(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
			time.Sleep(time.Duration(r.note(m)) * step)
			return outbox.Outcome{Verdict: outbox.Sent}
		}})
		synctest.Wait()
		for range 10 {
			b.accept("lab", small)
			synctest.Wait()
		}
		before := b.stored()
		time.Sleep(step + lieTime)
		synctest.Wait()
		if n := b.stored() - before; n != 1 {
			t.Errorf("%d commits when the first outcome has lain for its time, want 1", n)
		}
	})
}

// TestCloseIdle: what lies is stored when the engine is closed, even if Run goes on.
func TestCloseIdle(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		ended, e := make(chan error, 1), b.e
		go func() { ended <- e.Run(ctx, handler{}) }()
		synctest.Wait()
		m := b.accept("lab", small)
		synctest.Wait()
		b.reopen()
		cancel()
		<-ended
		if m := b.get(m.ID); m.State != outbox.StateSent || time.Since(begin) != 0 {
			t.Errorf("the message is %s after %v", m.State, time.Since(begin))
		}
	})
}
