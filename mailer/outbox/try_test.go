package outbox_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/outboxtest"
)

func outcomes(kinds ...mailer.Kind) []mailer.RecipientOutcome {
	out := make([]mailer.RecipientOutcome, len(kinds))
	for i, k := range kinds {
		out[i] = mailer.RecipientOutcome{Address: []mailer.Address{alice, bob}[i], Kind: k, Reply: mailer.Reply{Code: map[mailer.Kind]int{mailer.KindNone: 250, mailer.KindRejected: 550, mailer.KindTemporary: 450}[k]}}
	}
	return out
}

// TestRecipients: who is asked about again after a first try with two recipients.
func TestRecipients(t *testing.T) {
	t.Parallel()
	const ok, no, later = mailer.KindNone, mailer.KindRejected, mailer.KindTemporary
	both := []mailer.Address{alice, bob}
	for _, tt := range []struct {
		name       string
		fails      mailer.Stage // the message failed there, with kind
		kind       mailer.Kind
		said       []mailer.RecipientOutcome
		all, rules bool // by the message, by the tenant
		state      outbox.State
		again      []mailer.Address
	}{
		{"both", "", ok, outcomes(ok, ok), false, false, outbox.StateSent, nil},
		{"one refused for good", "", ok, outcomes(ok, no), false, false, outbox.StateSent, nil},
		{"one refused for now", "", ok, outcomes(ok, later), false, false, outbox.StateQueued, []mailer.Address{bob}},
		{"both refused for good", mailer.StageRcpt, no, outcomes(no, no), false, false, outbox.StateFailed, nil},
		{"one for good and one for now", mailer.StageRcpt, later, outcomes(no, later), false, false, outbox.StateQueued, []mailer.Address{bob}},
		{"the same, of all or none", mailer.StageRcpt, no, outcomes(no, later), true, false, outbox.StateFailed, nil},
		{"the same, by the tenant's rule", mailer.StageRcpt, no, outcomes(no, later), false, true, outbox.StateFailed, nil},
		{"one for good, of all or none", mailer.StageRcpt, no, outcomes(ok, no), true, false, outbox.StateFailed, nil},
		{"one for good, by a rule that nobody told", mailer.StageRcpt, no, outcomes(ok, no), false, false, outbox.StateFailed, nil},
		{"one for now, of all or none", mailer.StageRcpt, later, outcomes(ok, later), true, false, outbox.StateQueued, both},
		{"content refused", mailer.StageFinal, no, outcomes(ok, ok), false, false, outbox.StateFailed, nil},
		{"content refused for one, the other not asked", mailer.StageFinal, no, outcomes(ok, later), false, false, outbox.StateQueued, []mailer.Address{bob}},
		{"content refused for one, the other unknown", mailer.StageFinal, no, outcomes(ok, no), false, false, outbox.StateFailed, nil},
		{"content refused for now", mailer.StageFinal, later, outcomes(ok, no), false, false, outbox.StateQueued, []mailer.Address{alice}},
		{"nobody spoken of", mailer.StageMail, no, nil, false, false, outbox.StateFailed, nil},
		{"cut off among the recipients", mailer.StageRcpt, later, outcomes(ok)[:1], false, false, outbox.StateQueued, both},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
					if n > 1 {
						return taken(s)
					}
					if tt.fails != "" {
						e := refusal(tt.fails, tt.kind, map[mailer.Kind]int{no: 550, later: 450}[tt.kind])
						e.Recipients = tt.said
						return mailer.Receipt{}, e
					}
					r, err := taken(s)
					r.Recipients = tt.said
					return r, err
				}, func(o *office) { o.policy.AllRecipients = tt.rules })
				s := submission("lab", both...)
				s.Options.AllRecipients = tt.all
				r, err := o.Send(t.Context(), s)
				m := o.get(t, s.ID)
				if m.State != tt.state || m.Attempts != 1 || (err != nil) != (tt.state == outbox.StateFailed) {
					t.Errorf("%s after %d attempts, %v", m.State, m.Attempts, err)
				}
				if err == nil && (r.Status == mailer.StatusSent) != (tt.state == outbox.StateSent) {
					t.Errorf("%+v", r)
				}
				time.Sleep(time.Minute)
				if len(o.tried()) == 1 {
					if tt.again != nil {
						t.Error("not tried again")
					}
					if tt.state != outbox.StateFailed {
						return
					}
					if err := o.RetryNow(t.Context(), s.ID); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if got := o.subs[1].Envelope.To; !slices.Equal(got, both) { // nobody has got it
						t.Errorf("after RetryNow tried to %v", got)
					}
					return
				}
				if got := o.subs[1].Envelope.To; len(o.subs) != 2 || !slices.Equal(got, tt.again) || o.subs[1].Options.AllRecipients != tt.all {
					t.Errorf("%d tries, the second to %v, want %v", len(o.subs), got, tt.again)
				}
				if m = o.get(t, s.ID); m.State != outbox.StateSent {
					t.Errorf("%s in the end", m.State)
				}
				for i, rcpt := range m.Recipients { // the last word
					want := ok
					if tt.fails == mailer.StageFinal && tt.kind == no {
						want = map[mailer.Address]mailer.Kind{alice: no}[rcpt.Address]
					} else if !slices.Contains(tt.again, rcpt.Address) && i < len(tt.said) {
						want = tt.said[i].Kind
					}
					if !rcpt.Done || rcpt.Kind != want {
						t.Errorf("%v: %+v", rcpt.Address, rcpt)
					}
				}
			})
		})
	}
}

// TestPanic: a panic while sending leaves the message in doubt, one in a hook nothing.
func TestPanic(t *testing.T) {
	t.Parallel()
	for _, hold := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
				if n == 1 {
					panic("a defect")
				}
				return taken(s)
			}, func(o *office) {
				o.policy.HoldUnknown = hold
				o.settings.Hooks.Sent = func(*outbox.Message, mailer.Receipt, time.Duration) { panic("a defect of the hook") }
				o.Use(o.settings)
			})
			s := submission("lab")
			r, err := o.Send(t.Context(), s)
			if err != nil || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Kind != mailer.KindUnknown || time.Since(o.begin) != 0 {
				t.Errorf("%+v, %v", r, err)
			}
			time.Sleep(time.Hour)
			want, tries := outbox.StateSent, 2
			if hold {
				want, tries = outbox.StateHeld, 1
			}
			if m := o.get(t, s.ID); m.State != want || len(o.tried()) != tries || !strings.Contains(o.log.String(), "a defect") {
				t.Errorf("%s after %d tries; log %q", m.State, len(o.tries), o.log.String())
			}
		})
	}
}

// TestNoTenant: a tenant that is gone keeps its messages until it is back.
func TestNoTenant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) { return taken(s) })
		s := submission("lab")
		s.Options.At = time.Now().Add(time.Minute)
		if _, err := o.Send(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		o.mu.Lock()
		o.gone = true
		o.mu.Unlock()
		time.Sleep(5 * time.Minute)
		m := o.get(t, s.ID)
		if m.State != outbox.StateQueued || m.Attempts != 0 || m.Failure.Field != "tenant" || len(o.tried()) > 0 {
			t.Errorf("%s, %+v", m.State, m.Failure)
		}
		o.mu.Lock()
		o.gone = false
		o.mu.Unlock()
		if err := o.Unpark(t.Context(), "lab"); err != nil {
			t.Fatal(err)
		}
		if m := o.get(t, s.ID); m.State != outbox.StateSent {
			t.Errorf("%s after the tenant came back", m.State)
		}
	})
}

// TestExpiry: a message in a parked lane is given up when its life is over, without a
// try, with the cause that kept it; the lane stays parked.
func TestExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(int, mailer.Submission) (mailer.Receipt, error) {
			return mailer.Receipt{}, refusal(mailer.StageAuth, mailer.KindUnauthorized, 535)
		}, func(o *office) { o.policy.Lifetime = 90 * time.Minute })
		s := submission("lab")
		if _, err := o.Send(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Minute)
		m := o.get(t, s.ID)
		if m.State != outbox.StateFailed || m.Failure.Code != "expired" || m.Failure.Reply.Code != 535 || m.Attempts != 0 || m.Finished.Sub(o.begin) != 90*time.Minute {
			t.Errorf("%+v, %+v", m, m.Failure)
		}
		if got := o.tried(); !slices.Equal(got, []time.Duration{0, time.Hour}) {
			t.Errorf("tried at %v", got)
		}
		lanes, _ := o.engine.Lanes(t.Context())
		if lanes["lab"].State != outbox.LaneParked {
			t.Errorf("lane %+v", lanes["lab"])
		}
	})
}

// TestInterrupted: what was being sent when a process ended.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, hold := range []bool{false, true} {
		o := outbox.New(new(outboxtest.Memory), outbox.Settings{Policy: func(string) (outbox.Policy, bool) { return outbox.Policy{HoldUnknown: hold}, true }})
		m := &outbox.Message{ID: "id", Tenant: "lab", State: outbox.StateSending}
		out := outbox.HandlerOf(o).Interrupted(m)
		want := outbox.Retry
		if hold {
			want = outbox.Hold
		}
		if out.Verdict != want || !out.At.IsZero() || m.Attempts != 1 || m.Failure.Kind != mailer.KindUnknown {
			t.Errorf("hold %v: %+v, %+v", hold, out, m)
		}
	}
	o := outbox.New(new(outboxtest.Memory), outbox.Settings{Policy: func(tenant string) (outbox.Policy, bool) { return outbox.Policy{Connections: 3}, tenant == "lab" }})
	if n := outbox.HandlerOf(o).Window("lab"); n != 6 {
		t.Errorf("window %d", n)
	}
}

// fleet is an engine that another process uses, too.
type fleet struct {
	*outboxtest.Memory
	mu    sync.Mutex
	wait  time.Duration
	err   error
	log   []string
	limit outbox.MailboxLimits
}

func (f *fleet) Acquire(_ context.Context, mailbox string, l outbox.MailboxLimits, recipients int) (func(), time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = l
	if f.wait > 0 || f.err != nil {
		f.log = append(f.log, "refuse")
		return nil, f.wait, f.err
	}
	f.log = append(f.log, "acquire "+mailbox)
	return func() { f.note("release") }, 0, nil
}

func (f *fleet) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, s)
}

func (f *fleet) set(wait time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wait, f.err = wait, err
}

// TestSharedLimits: a message takes its place among all instances before it is tried,
// and gives it back after.
func TestSharedLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var f *fleet
		o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
			f.note("deliver")
			return taken(s)
		}, func(o *office) {
			f = &fleet{Memory: o.engine}
			o.policy.Mailbox, o.policy.Limits = "box", outbox.MailboxLimits{Rate: 30, Per: time.Minute, Connections: 2}
			o.policy.Drain = func() { f.note("drain") }
			o.Outbox = outbox.New(f, o.settings)
		})
		if r, err := o.Send(t.Context(), submission("lab")); err != nil || r.Status != mailer.StatusSent {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := strings.Join(f.log, ", "); got != "acquire box, deliver, release" || f.limit.Rate != 30 || f.limit.Drain == nil {
			t.Errorf("%s; %+v", got, f.limit.Rate)
		}
		f.set(40*time.Second, nil)
		s := submission("lab")
		r, err := o.Send(t.Context(), s)
		if err != nil || r.Status != mailer.StatusQueued || r.Due.Sub(o.begin) != 40*time.Second || r.Cause.Stage != mailer.StageLimit {
			t.Errorf("%+v, %v", r, err)
		}
		if m := o.get(t, s.ID); m.Attempts != 0 {
			t.Errorf("%d attempts", m.Attempts)
		}
		f.set(0, errors.New("the database is gone"))
		time.Sleep(45 * time.Second)
		if m := o.get(t, s.ID); m.State != outbox.StateQueued || m.Attempts != 0 || !strings.Contains(m.Failure.Cause, "database") {
			t.Errorf("%+v", m)
		}
		f.set(0, nil)
		time.Sleep(time.Minute)
		if m := o.get(t, s.ID); m.State != outbox.StateSent || len(o.tried()) != 2 {
			t.Errorf("%s after %d tries", m.State, len(o.tries))
		}
	})
}

// TestOtherProcess: a sender hears of a message that another process has tried.
func TestOtherProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(outboxtest.Memory)
		settings := outbox.Settings{
			Deliver: func(context.Context, mailer.Submission) (mailer.Receipt, error) { return mailer.Receipt{}, nil },
			Policy:  func(string) (outbox.Policy, bool) { return outbox.Policy{}, true },
		}
		here := outbox.New(&fleet{Memory: e}, settings)
		refuse := submission("lab")
		settings.Deliver = func(_ context.Context, s mailer.Submission) (mailer.Receipt, error) {
			time.Sleep(1500 * time.Millisecond)
			if s.ID == refuse.ID {
				return mailer.Receipt{}, refusal(mailer.StageFinal, mailer.KindRejected, 554)
			}
			return taken(s)
		}
		there := outbox.New(&fleet{Memory: e}, settings)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- there.Run(ctx) }()
		synctest.Wait()
		begin := time.Now()
		r, err := here.Send(t.Context(), submission("lab"))
		if err != nil || r.Status != mailer.StatusSent || r.QueueID != "q" || time.Since(begin) != 2*time.Second {
			t.Errorf("%+v, %v after %v", r, err, time.Since(begin))
		}
		_, err = here.Send(t.Context(), refuse)
		if e, ok := errors.AsType[*mailer.Error](err); !ok || e.Reply.Code != 554 || time.Since(begin) != 4*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		cancel()
		<-done
	})
}
