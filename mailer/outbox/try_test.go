package outbox_test

import (
	"context"
	"errors"
	"fmt"
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

// TestPartly: each delivery of a message that goes to its recipients one after the other
// is told, and kept.
func TestPartly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		again bool // the second is taken at last
		state outbox.State
		told  []string
	}{
		{"in the end to all", true, outbox.StateSent, []string{"partly 1 by q1", "deferred temporary", "sent"}},
		{"never to one", false, outbox.StateFailed, []string{"partly 1 by q1", "deferred temporary", "deferred temporary", "failed temporary expired"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
					if n > 1 && !tt.again {
						e := refusal(mailer.StageRcpt, mailer.KindTemporary, 450)
						e.Recipients = []mailer.RecipientOutcome{{Address: bob, Kind: mailer.KindTemporary, Reply: e.Reply}}
						return mailer.Receipt{}, e
					}
					r, err := taken(s)
					r.QueueID = fmt.Sprintf("q%d", n)
					if n == 1 {
						r.Recipients = outcomes(mailer.KindNone, mailer.KindTemporary)
					}
					return r, err
				}, func(o *office) { o.policy.Lifetime = time.Minute })
				s := submission("lab", alice, bob)
				s.Options.Async = true
				if _, err := o.Send(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				m := o.get(t, s.ID)
				first, last := m.Delivery, m.Delivery
				if tt.again {
					if len(m.Earlier) != 1 || m.Delivered() != 2 {
						t.Fatalf("%+v", m)
					}
					first = &m.Earlier[0]
					if last.QueueID != "q2" || !slices.Equal(last.To, []mailer.Address{bob}) {
						t.Errorf("the last delivery: %+v", last)
					}
				} else if m.Delivered() != 1 || len(m.Earlier) > 0 || !strings.Contains(m.Failure.Cause, "1 of 2") {
					t.Errorf("%+v, %+v", m, m.Failure)
				}
				if m.State != tt.state || first.QueueID != "q1" || first.Server != "mail:587" || !slices.Equal(first.To, []mailer.Address{alice}) {
					t.Errorf("%s, the first delivery: %+v", m.State, first)
				}
				if got := o.heardLater(); !slices.Equal(got, tt.told) {
					t.Errorf("told %q, want %q", got, tt.told)
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
		if m.State != outbox.StateQueued || m.Attempts != 0 || m.Failure.Field != "tenant" || m.Failure.Err().Diagnosis().ID != "general.tenant_gone" || len(o.tried()) > 0 {
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
		tried, waited := submission("lab"), submission("lab")
		for _, s := range []mailer.Submission{tried, waited} {
			if _, err := o.Send(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Minute)
		lanes, _ := o.engine.Lanes(t.Context())
		if lanes["lab"].State != outbox.LaneParked {
			t.Errorf("lane %+v", lanes["lab"])
		}
		for _, s := range []mailer.Submission{tried, waited} {
			m := o.get(t, s.ID)
			if m.State != outbox.StateFailed || m.Failure.Code != outbox.CodeExpired || m.Failure.Reply.Code != 535 || m.Attempts != 0 ||
				m.Finished.Sub(o.begin) != 90*time.Minute || m.Failure.Err().Diagnosis().ID != lanes["lab"].Failure.Diagnosis {
				t.Errorf("%+v, %+v", m, m.Failure)
			}
		}
		if got := o.tried(); !slices.Equal(got, []time.Duration{0, time.Hour}) {
			t.Errorf("tried at %v", got)
		}
	})
}

// TestInterruptedAgain: a message that may be what ends processes is tried ever later,
// and then not at all.
func TestInterruptedAgain(t *testing.T) {
	t.Parallel()
	o := outbox.New(new(outboxtest.Memory), outbox.Settings{Policy: func(string) (outbox.Policy, bool) { return outbox.Policy{}, true }})
	m := &outbox.Message{ID: "id", Tenant: "lab", State: outbox.StateSending}
	for n := 1; n <= 5; n++ {
		out := outbox.HandlerOf(o).Interrupted(m)
		if held := n == 5; held != (out.Verdict == outbox.Hold) || held != (m.State == outbox.StateHeld) {
			t.Errorf("after %d: %+v, %s", n, out, m.State)
		}
		if later := time.Until(out.At) > 20*time.Second; n < 5 && later != (n > 1) {
			t.Errorf("after %d: due at %v", n, out.At)
		}
	}
}

// TestKeyOfAFailure: the idempotency key of a message that failed is free only where
// nobody can have got it.
func TestKeyOfAFailure(t *testing.T) {
	t.Parallel()
	refused := refusal(mailer.StageFinal, mailer.KindRejected, 554)
	for name, tt := range map[string]struct {
		first func(mailer.Submission) (mailer.Receipt, error)
		kept  bool
	}{
		"refused": {func(mailer.Submission) (mailer.Receipt, error) { return mailer.Receipt{}, refused }, false},
		"taken for one": {func(s mailer.Submission) (mailer.Receipt, error) {
			r, _ := taken(s)
			r.Recipients[1].Kind, r.Recipients[1].Reply.Code = mailer.KindTemporary, 450
			return r, nil
		}, true},
		"reply lost": {func(mailer.Submission) (mailer.Receipt, error) {
			return mailer.Receipt{}, refusal(mailer.StageFinal, mailer.KindUnknown, 0)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
					if n == 1 {
						return tt.first(s)
					}
					return mailer.Receipt{}, refused
				})
				s := submission("lab", alice, bob)
				s.Options.IdempotencyKey, s.Options.Fingerprint = "key", []byte("it")
				_, _ = o.Send(t.Context(), s)
				time.Sleep(time.Hour)
				synctest.Wait()
				if m := o.get(t, s.ID); m.State != outbox.StateFailed {
					t.Fatalf("it is %s", m.State)
				}
				tries := len(o.tried())
				again := submission("lab", alice, bob)
				again.Options = s.Options
				r, err := o.Send(t.Context(), again)
				if err == nil || r.Replayed != tt.kept || (len(o.tried()) == tries) != tt.kept {
					t.Errorf("%+v, %v; %d tries, before %d", r, err, len(o.tried()), tries)
				}
			})
		})
	}
}

// TestInterrupted: what was being sent when a process ended.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, hold := range []bool{false, true} {
		var told []string
		o := outbox.New(new(outboxtest.Memory), outbox.Settings{
			Policy: func(string) (outbox.Policy, bool) { return outbox.Policy{HoldUnknown: hold}, true },
			Hooks: outbox.Hooks{
				Held:        func(*outbox.Message, *mailer.Error) { told = append(told, "held") },
				Interrupted: func(*outbox.Message) { told = append(told, "interrupted") },
			},
		})
		m := &outbox.Message{ID: "id", Tenant: "lab", State: outbox.StateSending}
		out := outbox.HandlerOf(o).Interrupted(m)
		want, hook := outbox.Retry, "interrupted"
		if hold {
			want, hook = outbox.Hold, "held"
		}
		if out.Verdict != want || out.At.After(time.Now()) || m.Attempts != 1 || m.Failure.Kind != mailer.KindUnknown {
			t.Errorf("hold %v: %+v, %+v", hold, out, m)
		}
		if !slices.Equal(told, []string{hook}) || m.Failure.Err().Diagnosis().ID != "general.interrupted" {
			t.Errorf("hold %v: told %q, %+v", hold, told, m.Failure)
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
	full  *outbox.Full
	err   error
	log   []string
	limit outbox.MailboxLimits
}

func (f *fleet) Acquire(_ context.Context, mailbox string, l outbox.MailboxLimits, recipients int) (func(), *outbox.Full, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = l
	if f.full != nil || f.err != nil {
		f.log = append(f.log, "refuse")
		return nil, f.full, f.err
	}
	f.log = append(f.log, "acquire "+mailbox)
	return func() { f.note("release") }, nil, nil
}

func (f *fleet) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, s)
}

func (f *fleet) set(full *outbox.Full, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full, f.err = full, err
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
			o.policy.Limits.Drain = func() { f.note("drain") }
			o.Outbox = outbox.New(f, o.settings)
		})
		if r, err := o.Send(t.Context(), submission("lab")); err != nil || r.Status != mailer.StatusSent {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := strings.Join(f.log, ", "); got != "acquire box, deliver, release" || f.limit.Rate != 30 || f.limit.Drain == nil {
			t.Errorf("%s; %+v", got, f.limit.Rate)
		}
		f.set(&outbox.Full{Limit: outbox.LimitRate, Wait: 40 * time.Second}, nil)
		s := submission("lab")
		r, err := o.Send(t.Context(), s)
		if err != nil || r.Status != mailer.StatusQueued || r.Due.Sub(o.begin) != 40*time.Second || r.Cause.Stage != mailer.StageLimit {
			t.Errorf("%+v, %v", r, err)
		}
		if m := o.get(t, s.ID); m.Attempts != 0 {
			t.Errorf("%d attempts", m.Attempts)
		}
		f.set(nil, errors.New("the database is gone"))
		time.Sleep(45 * time.Second)
		if m := o.get(t, s.ID); m.State != outbox.StateQueued || m.Attempts != 0 || !strings.Contains(m.Failure.Cause, "database") {
			t.Errorf("%+v", m)
		}
		f.set(nil, nil)
		time.Sleep(time.Minute)
		if m := o.get(t, s.ID); m.State != outbox.StateSent || len(o.tried()) != 2 {
			t.Errorf("%s after %d tries", m.State, len(o.tries))
		}
	})
}

// TestFull: a message that finds no room is told which limit it met.
func TestFull(t *testing.T) {
	t.Parallel()
	for limit, want := range map[outbox.Limit][2]string{
		outbox.LimitRate:        {"mailbox_rate", "as many messages"},
		outbox.LimitRecipients:  {"mailbox_recipients", "as many recipients"},
		outbox.LimitConnections: {"mailbox_busy", "as many connections"},
	} {
		t.Run(string(limit), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) { return taken(s) }, func(o *office) {
					o.policy.Mailbox, o.policy.Limits = "box", outbox.MailboxLimits{Rate: 30, RecipientsPerDay: 10, Connections: 2}
					f := &fleet{Memory: o.engine}
					f.set(&outbox.Full{Limit: limit, Wait: time.Minute}, nil)
					o.Outbox = outbox.New(f, o.settings)
				})
				r, err := o.Send(t.Context(), submission("lab"))
				if err != nil || r.Status != mailer.StatusQueued {
					t.Fatalf("%+v, %v", r, err)
				}
				if c := r.Cause; c.Code != want[0] || !strings.Contains(c.Error(), want[1]) || c.RetryAfter != time.Minute {
					t.Errorf("%s, %v", c.Code, c)
				}
			})
		})
	}
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

// TestNoHooks: nobody has to be told.
func TestNoHooks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		says := []*mailer.Error{
			nil, refusal(mailer.StageFinal, mailer.KindRejected, 554), refusal(mailer.StageFinal, mailer.KindTemporary, 451),
			refusal(mailer.StageFinal, mailer.KindUnknown, 0), refusal(mailer.StageAuth, mailer.KindUnauthorized, 535),
		}
		o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
			if e := says[n-1]; e != nil {
				return mailer.Receipt{}, e
			}
			r, err := taken(s)
			r.Recipients = outcomes(mailer.KindNone, mailer.KindTemporary)
			return r, err
		}, func(o *office) {
			o.policy.HoldUnknown = true
			o.settings.Hooks = outbox.Hooks{}
			o.Use(o.settings)
		})
		for range says {
			_, _ = o.Send(t.Context(), submission("lab", alice, bob))
		}
		outbox.HandlerOf(o.Outbox).Interrupted(&outbox.Message{Tenant: "other"})
		if n := len(o.tried()); n != 5 || o.log.Len() > 0 {
			t.Errorf("%d tries, log %q", n, o.log.String())
		}
	})
}
