package outbox_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/outboxtest"
)

// TestOperate: what operators may do with messages in each state.
func TestOperate(t *testing.T) {
	t.Parallel()
	retry := func(ctx context.Context, o *office, id string) error { return o.RetryNow(ctx, id) }
	cancel := func(ctx context.Context, o *office, id string) error { return o.Cancel(ctx, id, "operator") }
	later := func(ctx context.Context, o *office, id string) error {
		return o.Reschedule(ctx, id, time.Now().Add(3*time.Hour))
	}
	now := func(ctx context.Context, o *office, id string) error { return o.Reschedule(ctx, id, time.Now()) }
	drop := func(ctx context.Context, o *office, id string) error { return o.Drop(ctx, id) }
	for _, tt := range []struct {
		name  string
		state outbox.State
		do    func(context.Context, *office, string) error
		err   error
		then  outbox.State // at once; empty: it is gone
		late  outbox.State // 4 h later
	}{
		{"retry queued", outbox.StateQueued, retry, nil, outbox.StateSent, outbox.StateSent},
		{"retry held", outbox.StateHeld, retry, nil, outbox.StateSent, outbox.StateSent},
		{"retry failed", outbox.StateFailed, retry, nil, outbox.StateSent, outbox.StateSent},
		{"retry sent", outbox.StateSent, retry, outbox.ErrState, outbox.StateSent, outbox.StateSent},
		{"retry scheduled", outbox.StateScheduled, retry, outbox.ErrState, outbox.StateScheduled, outbox.StateSent},
		{"cancel scheduled", outbox.StateScheduled, cancel, nil, outbox.StateCanceled, outbox.StateCanceled},
		{"cancel queued", outbox.StateQueued, cancel, nil, outbox.StateCanceled, outbox.StateCanceled},
		{"cancel held", outbox.StateHeld, cancel, nil, outbox.StateCanceled, outbox.StateCanceled},
		{"cancel sent", outbox.StateSent, cancel, outbox.ErrState, outbox.StateSent, outbox.StateSent},
		{"cancel failed", outbox.StateFailed, cancel, outbox.ErrState, outbox.StateFailed, outbox.StateFailed},
		{"cancel what is being sent", outbox.StateSending, cancel, outbox.ErrSending, outbox.StateSending, outbox.StateSent},
		{"reschedule scheduled", outbox.StateScheduled, later, nil, outbox.StateScheduled, outbox.StateSent},
		{"reschedule queued", outbox.StateQueued, later, nil, outbox.StateScheduled, outbox.StateSent},
		{"reschedule to now", outbox.StateScheduled, now, nil, outbox.StateSent, outbox.StateSent},
		{"reschedule held", outbox.StateHeld, later, outbox.ErrState, outbox.StateHeld, outbox.StateHeld},
		{"drop failed", outbox.StateFailed, drop, nil, "", ""},
		{"drop queued", outbox.StateQueued, drop, nil, "", ""},
		{"drop what is being sent", outbox.StateSending, drop, outbox.ErrSending, outbox.StateSending, outbox.StateSent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
					if n > 1 {
						return taken(s)
					}
					switch tt.state {
					case outbox.StateQueued:
						return mailer.Receipt{}, refusal(mailer.StageFinal, mailer.KindTemporary, 451)
					case outbox.StateHeld:
						return mailer.Receipt{}, refusal(mailer.StageFinal, mailer.KindUnknown, 0)
					case outbox.StateFailed:
						e := refusal(mailer.StageRcpt, mailer.KindRejected, 550)
						e.Recipients = outcomes(mailer.KindRejected)
						return mailer.Receipt{}, e
					case outbox.StateSending:
						time.Sleep(time.Hour)
					}
					return taken(s)
				}, func(o *office) { o.policy.HoldUnknown = true })
				s := submission("lab")
				s.Options.Async, s.Options.IdempotencyKey = true, "k"
				if tt.state == outbox.StateScheduled {
					s.Options.At = time.Now().Add(time.Hour)
				}
				if _, err := o.Send(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if m := o.get(t, s.ID); m.State != tt.state {
					t.Fatalf("%s at first", m.State)
				}
				time.Sleep(10 * time.Second)
				if err := tt.do(t.Context(), o, s.ID); !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
					t.Errorf("%v, want %v", err, tt.err)
				}
				synctest.Wait()
				check := func(want outbox.State) {
					t.Helper()
					m, err := o.engine.Get(t.Context(), s.ID)
					switch {
					case want == "":
						if !errors.Is(err, outbox.ErrNotFound) {
							t.Errorf("%+v, %v", m, err)
						}
					case err != nil || m.State != want:
						t.Errorf("%+v, %v; want %s", m, err, want)
					case want == outbox.StateCanceled && (m.By != "operator" || m.Finished.IsZero() || m.Forget.Sub(m.Finished) != 24*time.Hour):
						t.Errorf("canceled: %+v", m)
					case tt.name == "retry failed" && (m.Attempts != 1 || m.Expires.Sub(o.begin) != 48*time.Hour+10*time.Second || m.Idempotency != nil):
						t.Errorf("another life: %+v", m)
					}
				}
				check(tt.then)
				time.Sleep(4 * time.Hour)
				check(tt.late)
			})
		})
	}
}

// TestCancelTellsSender: who waits for a message that is canceled, or dropped, hears it.
func TestCancelTellsSender(t *testing.T) {
	t.Parallel()
	for _, drop := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
				time.Sleep(10 * time.Second)
				return taken(s)
			}, func(o *office) { o.policy.Connections = 1 })
			for range 2 { // the window
				go func() { _, _ = o.Send(t.Context(), submission("lab")) }()
			}
			synctest.Wait()
			s := submission("lab")
			time.AfterFunc(time.Second, func() {
				if drop {
					_ = o.Drop(t.Context(), s.ID)
				} else {
					_ = o.Cancel(t.Context(), s.ID, "operator")
				}
			})
			_, err := o.Send(t.Context(), s)
			if e, ok := errors.AsType[*mailer.Error](err); !ok || e.Code != outbox.CodeCanceled || e.Diagnosis().ID != "general.message_canceled" || time.Since(o.begin) != time.Second {
				t.Errorf("%v after %v", err, time.Since(o.begin))
			}
			time.Sleep(time.Minute)
			if n := len(o.tried()); n != 2 {
				t.Errorf("%d tries", n)
			}
		})
	}
}

// TestPause: a paused lane stays paused until it is resumed, whatever tries find out.
func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
			if n == 1 {
				time.Sleep(time.Second)
				return mailer.Receipt{}, refusal(mailer.StageConnect, mailer.KindTemporary, 0)
			}
			return taken(s)
		})
		s := submission("lab")
		s.Options.Async = true
		if _, err := o.Send(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := o.Pause(t.Context(), "lab", "operator"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := o.Unpark(t.Context(), "lab"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		lanes, _ := o.engine.Lanes(t.Context())
		if l := lanes["lab"]; l.State != outbox.LanePaused || l.By != "operator" || len(o.tried()) != 1 {
			t.Errorf("%+v after %d tries", l, len(o.tries))
		}
		if err := o.Resume(t.Context(), "lab"); err != nil {
			t.Fatal(err)
		}
		if m := o.get(t, s.ID); m.State != outbox.StateSent || time.Since(o.begin) != 2*time.Hour {
			t.Errorf("%s", m.State)
		}
		if got, want := o.heardLater(), []string{"lab open to paused", "deferred temporary", "lab paused to open", "sent"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

// leafing is an engine whose pages are short.
type leafing struct{ *outboxtest.Memory }

func (e leafing) List(ctx context.Context, f outbox.Filter) (outbox.Page, error) {
	f.Limit = 2
	return e.Memory.List(ctx, f)
}

// TestHasten: when a lane opens by hand, what waited for its server goes at once; what
// the server asked to send later does not, nor what its sender did.
func TestHasten(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		do   func(context.Context, *office) error
		now  bool // they go at once
		late int  // how many have gone when the first rest is over
	}{
		{"resumed", func(ctx context.Context, o *office) error { return o.Resume(ctx, "lab") }, true, 3},
		{"unparked", func(ctx context.Context, o *office) error { return o.Unpark(ctx, "lab") }, true, 3},
		{"hastened", func(ctx context.Context, o *office) error { return o.Hasten(ctx, "lab") }, false, 3}, // the lane rests
		{"another", func(ctx context.Context, o *office) error { return o.Resume(ctx, "other") }, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var up atomic.Bool
				grey := submission("lab")
				o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
					switch {
					case up.Load():
						return taken(s)
					case s.ID == grey.ID:
						return mailer.Receipt{}, refusal(mailer.StageFinal, mailer.KindTemporary, 451)
					}
					time.Sleep(time.Second)
					return mailer.Receipt{}, refusal(mailer.StageConnect, mailer.KindTemporary, 0)
				}, func(o *office) { o.Outbox = outbox.New(leafing{o.engine}, o.settings) })
				later := submission("lab")
				later.Options.At = o.begin.Add(time.Hour)
				ids := []string{}
				for _, s := range []mailer.Submission{grey, later, submission("lab"), submission("lab"), submission("lab")} {
					s.Options.Async = true
					if _, err := o.Send(t.Context(), s); err != nil {
						t.Fatal(err)
					}
					ids = append(ids, s.ID)
				}
				time.Sleep(2 * time.Second) // the first rest lasts until 11 s
				up.Store(true)
				if err := tt.do(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				for i, id := range ids {
					want := outbox.StateQueued
					switch {
					case i == 1:
						want = outbox.StateScheduled
					case i > 1 && tt.now:
						want = outbox.StateSent
					}
					if m := o.get(t, id); m.State != want {
						t.Errorf("message %d: %s, due in %v; want %s", i, m.State, m.Due.Sub(o.begin), want)
					}
				}
				time.Sleep(10 * time.Second)
				sent := 0
				for _, id := range ids[2:] {
					if o.get(t, id).State == outbox.StateSent {
						sent++
					}
				}
				if sent != tt.late {
					t.Errorf("%d sent after the rest, want %d", sent, tt.late)
				}
			})
		})
	}
}
