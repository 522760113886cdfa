package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox/outboxtest"
)

// office is an outbox in fake time, and what it did. It must be made in a bubble.
type office struct {
	*outbox.Outbox
	engine   *outboxtest.Memory
	settings outbox.Settings
	policy   outbox.Policy
	log      strings.Builder
	begin    time.Time
	stop     func()

	mu    sync.Mutex
	tries []time.Duration     // when, from the beginning
	subs  []mailer.Submission // what was tried
	told  []string            // hooks
	gone  bool                // the tenant
	reply func(n int, s mailer.Submission) (mailer.Receipt, error)
}

// open has an outbox send by reply, which is given the number of the try from 1.
func open(t *testing.T, reply func(n int, s mailer.Submission) (mailer.Receipt, error), setup ...func(*office)) *office {
	t.Helper()
	o := &office{engine: new(outboxtest.Memory), begin: time.Now(), reply: reply}
	o.settings = outbox.Settings{
		Deliver: o.deliver,
		Policy: func(string) (outbox.Policy, bool) {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.policy, !o.gone
		},
		Hooks: outbox.Hooks{
			Accepted: func(m *outbox.Message) { o.tell("accepted") },
			Sent:     func(m *outbox.Message, _ mailer.Receipt, _ time.Duration) { o.tell("sent") },
			Deferred: func(_ *outbox.Message, e *mailer.Error, _ time.Duration) { o.tell("deferred " + e.Kind.String()) },
			Failed: func(_ *outbox.Message, e *mailer.Error, _ time.Duration) {
				o.tell("failed " + e.Kind.String() + " " + e.Code)
			},
			Partly: func(m *outbox.Message, r mailer.Receipt, _ time.Duration) {
				o.tell(fmt.Sprintf("partly %d by %s", m.Delivered(), r.QueueID))
			},
			Held:        func(*outbox.Message, *mailer.Error) { o.tell("held") },
			Interrupted: func(m *outbox.Message) { o.tell(fmt.Sprintf("interrupted %d", m.Attempts)) },
			Lane: func(tenant string, before, now outbox.Lane) {
				o.tell(fmt.Sprintf("%s %s to %s", tenant, name(before), name(now)))
			},
		},
		Logger: slog.New(slog.NewTextHandler(&o.log, nil)),
	}
	o.Outbox = outbox.New(o.engine, o.settings)
	outbox.SetJitter(o.Outbox, func() float64 { return 0.5 })
	for _, f := range setup {
		f(o)
	}
	o.run(t)
	return o
}

func name(l outbox.Lane) string {
	if l.State == outbox.LaneOpen {
		return "open"
	}
	return string(l.State)
}

func (o *office) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Run(ctx); close(done) }()
	synctest.Wait()
	o.stop = func() {
		cancel()
		if err, ok := <-done; ok && err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(o.stop)
}

func (o *office) deliver(_ context.Context, s mailer.Submission) (mailer.Receipt, error) {
	o.mu.Lock()
	o.tries = append(o.tries, time.Since(o.begin))
	o.subs = append(o.subs, s)
	n := len(o.tries)
	o.mu.Unlock()
	return o.reply(n, s)
}

func (o *office) tell(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, what)
}

// heardLater is heard without the acceptances, of which one may hear after the rest.
func (o *office) heardLater() []string {
	return slices.DeleteFunc(o.heard(), func(s string) bool { return s == "accepted" })
}

func (o *office) heard() []string {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.told)
}

func (o *office) tried() []time.Duration {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.tries)
}

func (o *office) get(t *testing.T, id string) *outbox.Message {
	t.Helper()
	synctest.Wait()
	m, err := o.engine.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var (
	alice = mailer.Address{Local: "alice", Domain: "example.net"}
	bob   = mailer.Address{Local: "bob", Domain: "example.net"}
)

type content struct{ mailer.Bytes }

func (c content) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c.Bytes)
	return int64(n), err
}
func (content) EightBit() bool   { return false }
func (content) UTF8Header() bool { return false }

func submission(tenant string, to ...mailer.Address) mailer.Submission {
	if len(to) == 0 {
		to = []mailer.Address{alice}
	}
	from := mailer.Address{Local: "shop", Domain: "example.com"}
	id := mailer.NewID()
	return mailer.Submission{
		ID: id, MessageID: mailer.NewMessageID(id, from), Tenant: tenant, Caller: mailer.Caller{Kind: "key", Name: "shop"},
		From: from, Envelope: mailer.Envelope{From: from, To: to}, Content: content{mailer.Bytes("Subject: hello\r\n\r\nhello\r\n")},
	}
}

// taken is what the mailer says when the server took a message.
func taken(s mailer.Submission) (mailer.Receipt, error) {
	r := mailer.Receipt{ID: s.ID, MessageID: s.MessageID, Tenant: s.Tenant, Status: mailer.StatusSent, Server: "mail:587", QueueID: "q", Reply: mailer.Reply{Code: 250, Text: "ok"}}
	for _, a := range s.Envelope.To {
		r.Recipients = append(r.Recipients, mailer.RecipientOutcome{Address: a, Reply: mailer.Reply{Code: 250}})
	}
	return r, nil
}

func refusal(stage mailer.Stage, kind mailer.Kind, code int) *mailer.Error {
	e := &mailer.Error{Stage: stage, Kind: kind, Server: "mail:587"}
	if code != 0 {
		e.Reply = mailer.Reply{Code: code, Text: "no"}
	} else {
		e.Err = errors.New("lost")
	}
	return e
}

// TestFirstTry: what a sender hears, what becomes of the message and of its lane.
func TestFirstTry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		e      *mailer.Error
		hold   bool
		status mailer.Status // empty: the error itself
		state  outbox.State
		lane   outbox.LaneState
		tries  int // counted
		due    time.Duration
		told   string
	}{
		{name: "sent", status: mailer.StatusSent, state: outbox.StateSent, tries: 1, told: "accepted, sent"},
		{
			name: "refused", e: refusal(mailer.StageFinal, mailer.KindRejected, 554),
			state: outbox.StateFailed, tries: 1, told: "accepted, failed rejected ",
		},
		{
			name: "refused for now", e: refusal(mailer.StageFinal, mailer.KindTemporary, 451),
			status: mailer.StatusQueued, state: outbox.StateQueued, tries: 1, due: 30 * time.Second, told: "accepted, deferred temporary",
		},
		{
			name: "unreachable", e: refusal(mailer.StageConnect, mailer.KindTemporary, 0),
			status: mailer.StatusQueued, state: outbox.StateQueued, lane: outbox.LaneResting, tries: 1, due: 30 * time.Second,
			told: "accepted, lab open to resting, deferred temporary",
		},
		{
			name: "throttled", e: func() *mailer.Error {
				e := refusal(mailer.StageMail, mailer.KindThrottled, 432)
				e.RetryAfter = 3 * time.Minute
				return e
			}(),
			status: mailer.StatusQueued, state: outbox.StateQueued, lane: outbox.LaneResting, tries: 1, due: 3 * time.Minute,
			told: "accepted, lab open to resting, deferred throttled",
		},
		{
			name: "limit of ours", e: &mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindThrottled, Code: "mailbox_rate", RetryAfter: 40 * time.Second},
			status: mailer.StatusQueued, state: outbox.StateQueued, lane: outbox.LaneResting, due: 40 * time.Second,
			told: "accepted, lab open to resting",
		},
		{
			name: "no grant", e: refusal(mailer.StageAuth, mailer.KindUnauthorized, 535),
			status: mailer.StatusQueued, state: outbox.StateQueued, lane: outbox.LaneParked, told: "accepted, lab open to parked",
			due: time.Hour, // when the lane is probed
		},
		{
			name: "reply lost", e: refusal(mailer.StageFinal, mailer.KindUnknown, 0),
			status: mailer.StatusQueued, state: outbox.StateQueued, tries: 1, due: 30 * time.Second, told: "accepted, deferred unknown",
		},
		{
			name: "reply lost, held", e: refusal(mailer.StageFinal, mailer.KindUnknown, 0), hold: true,
			status: mailer.StatusQueued, state: outbox.StateHeld, tries: 1, told: "accepted, held",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
					if tt.e != nil {
						return mailer.Receipt{}, tt.e
					}
					return taken(s)
				}, func(o *office) { o.policy.HoldUnknown = tt.hold })
				s := submission("lab")
				s.Options.RequireTLS, s.Options.DSN.EnvelopeID = true, "env"
				r, err := o.Send(t.Context(), s)
				if time.Since(o.begin) != 0 {
					t.Errorf("the answer came after %v", time.Since(o.begin))
				}
				switch {
				case tt.status == "":
					if e, ok := errors.AsType[*mailer.Error](err); !ok || e.Stage != tt.e.Stage || e.Reply != tt.e.Reply {
						t.Errorf("%v, want %v", err, tt.e)
					}
				case err != nil || r.Status != tt.status || r.ID != s.ID || r.MessageID != s.MessageID:
					t.Errorf("%+v, %v", r, err)
				case tt.status == mailer.StatusSent && (r.QueueID != "q" || len(r.Recipients) != 1 || r.Tenant != "lab"):
					t.Errorf("%+v", r)
				case tt.e != nil && (r.Cause == nil || r.Cause.Stage != tt.e.Stage):
					t.Errorf("cause %v", r.Cause)
				}
				if tt.due > 0 && r.Due.Sub(o.begin) != tt.due {
					t.Errorf("due in %v, want %v", r.Due.Sub(o.begin), tt.due)
				}
				m := o.get(t, s.ID)
				if m.State != tt.state || m.Attempts != tt.tries || (m.Failure == nil) != (tt.e == nil) {
					t.Errorf("%s after %d attempts, failure %v", m.State, m.Attempts, m.Failure)
				}
				lanes, _ := o.engine.Lanes(t.Context())
				if lanes["lab"].State != tt.lane {
					t.Errorf("lane %+v", lanes["lab"])
				}
				told := o.heard()
				if i := slices.Index(told, "accepted"); i > 0 { // it may be told late
					told = append([]string{"accepted"}, slices.Delete(told, i, i+1)...)
				}
				if got := strings.Join(told, ", "); got != tt.told {
					t.Errorf("told %q, want %q", got, tt.told)
				}
				got := o.subs[0]
				if got.ID != s.ID || got.MessageID != s.MessageID || got.From != s.From || got.Caller != s.Caller || !got.Options.RequireTLS ||
					got.Options.DSN.EnvelopeID != "env" || got.Content.Size() != s.Content.Size() || got.Envelope.From != s.Envelope.From {
					t.Errorf("tried %+v", got)
				}
				if outbox.Waiting(o.Outbox) != 0 {
					t.Error("a sender is still waited for")
				}
			})
		})
	}
}

// TestSchedule: the times of all tries of a message that the server never takes.
func TestSchedule(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		jitter float64
		factor float64
	}{{0, 0.8}, {0.5, 1}, {1, 1.2}} {
		synctest.Test(t, func(t *testing.T) {
			o := open(t, func(int, mailer.Submission) (mailer.Receipt, error) {
				return mailer.Receipt{}, refusal(mailer.StageFinal, mailer.KindTemporary, 451)
			}, func(o *office) {
				outbox.SetJitter(o.Outbox, func() float64 { return tt.jitter })
				o.policy.Lifetime = 4 * time.Hour
			})
			s := submission("lab")
			s.Options.Async = true
			if _, err := o.Send(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Hour)
			var want []time.Duration
			at := time.Duration(0)
			for _, wait := range append([]time.Duration{0, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute}, slices.Repeat([]time.Duration{time.Hour}, 4)...) {
				if at += time.Duration(float64(wait) * tt.factor); at < 4*time.Hour {
					want = append(want, at)
				}
			}
			if got := o.tried(); !slices.Equal(got, want) {
				t.Errorf("tried at %v, want %v", got, want)
			}
			m := o.get(t, s.ID)
			if m.State != outbox.StateFailed || m.Failure.Code != outbox.CodeExpired || m.Failure.Err().Diagnosis().ID != "general.expired" || !strings.Contains(m.Failure.Cause, "4h0m0s") || m.Failure.Reply.Code != 451 ||
				m.Finished.Sub(o.begin) != 4*time.Hour || m.Forget.Sub(m.Finished) != 7*24*time.Hour || m.Attempts != len(want) {
				t.Errorf("%+v, %+v", m, m.Failure)
			}
			if told := o.heard(); told[len(told)-1] != "failed temporary expired" {
				t.Errorf("told %q", told)
			}
		})
	}
}

// TestRests: a server that cannot be reached is asked by one message at a time, less
// and less often; then all go.
func TestRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
			if !up.Load() && s.Tenant == "lab" {
				return mailer.Receipt{}, refusal(mailer.StageConnect, mailer.KindTemporary, 0)
			}
			return taken(s)
		})
		for range 20 {
			r, err := o.Send(t.Context(), submission("lab"))
			if err != nil || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Stage != mailer.StageConnect || r.Due.IsZero() {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		if r, err := o.Send(t.Context(), submission("other")); err != nil || r.Status != mailer.StatusSent || time.Since(o.begin) != 0 {
			t.Errorf("another tenant: %+v, %v", r, err)
		}
		time.Sleep(1000 * time.Second)
		sec := time.Second
		if got, want := o.tried(), []time.Duration{0, 0, 10 * sec, 30 * sec, 70 * sec, 150 * sec, 310 * sec, 610 * sec, 910 * sec}; !slices.Equal(got, want) {
			t.Errorf("tried at %v, want %v", got, want)
		}
		up.Store(true)
		time.Sleep(10 * time.Minute)
		stats, _ := o.engine.Stats(t.Context())
		if n := stats.Tenants["lab"].Messages[outbox.StateSent]; n < 17 {
			t.Errorf("%d messages sent, want nearly 20", n)
		}
		if got := o.heard(); !slices.Contains(got, "lab resting to open") {
			t.Errorf("told %q", got)
		}
	})
}

// TestPark: a tenant that cannot sign in keeps its messages, and uses up no attempt,
// until it is unparked, or an hourly probe goes well.
func TestPark(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		open func(context.Context, *office) error
		at   time.Duration
	}{
		{"unparked", func(ctx context.Context, o *office) error { return o.Unpark(ctx, "lab") }, 90 * time.Minute},
		{"resumed", func(ctx context.Context, o *office) error { return o.Resume(ctx, "lab") }, 90 * time.Minute},
		{"probed", func(context.Context, *office) error { return nil }, 2 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var granted atomic.Bool
				o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
					if !granted.Load() {
						return mailer.Receipt{}, refusal(mailer.StageToken, mailer.KindUnauthorized, 0)
					}
					return taken(s)
				})
				var ids []string
				for range 3 {
					s := submission("lab")
					ids = append(ids, s.ID)
					if r, err := o.Send(t.Context(), s); err != nil || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Kind != mailer.KindUnauthorized {
						t.Fatalf("%+v, %v", r, err)
					}
				}
				time.Sleep(90 * time.Minute)
				if got := o.tried(); !slices.Equal(got, []time.Duration{0, time.Hour}) {
					t.Errorf("tried at %v", got)
				}
				granted.Store(true)
				if err := tt.open(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(o.begin.Add(tt.at)))
				for _, id := range ids {
					if m := o.get(t, id); m.State != outbox.StateSent || m.Attempts != 1 || m.Finished.Sub(o.begin) != tt.at {
						t.Errorf("%s at %v, %d attempts", m.State, m.Finished.Sub(o.begin), m.Attempts)
					}
				}
				if got := o.heard(); !slices.Contains(got, "lab open to parked") || !slices.Contains(got, "lab parked to open") {
					t.Errorf("told %q", got)
				}
			})
		})
	}
}

// TestBrake: a server that keeps refusing for one reason is left alone.
func TestBrake(t *testing.T) {
	t.Parallel()
	virus := refusal(mailer.StageFinal, mailer.KindRejected, 554)
	virus.Reply.Enhanced, virus.Reply.Text = mailer.EnhancedCode{5, 7, 1}, "this message contains a virus"
	final := refusal(mailer.StageFinal, mailer.KindRejected, 554)
	final.Server = "smtp.office365.com:587"
	final.Reply.Enhanced, final.Reply.Text = mailer.EnhancedCode{5, 2, 252}, "SendAsDenied; a@example.com not allowed to send as b@example.com"
	other := refusal(mailer.StageMail, mailer.KindRejected, 550)
	rcpt := refusal(mailer.StageRcpt, mailer.KindRejected, 550)
	about := refusal(mailer.StageFinal, mailer.KindRejected, 550)
	about.Reply.Enhanced = mailer.EnhancedCode{5, 1, 1}
	for _, tt := range []struct {
		name  string
		brake int
		says  []*mailer.Error // nil: sent
		stops int             // after so many; 0: never
	}{
		{"five of one kind", 0, []*mailer.Error{final, final, final, final, final, final}, 5},
		{"two", 2, []*mailer.Error{final, final, final}, 2},
		{"never", -1, []*mailer.Error{final, final, final, final, final, final, final}, 0},
		{"another reason", 2, []*mailer.Error{final, other, final, other}, 0},
		{"one sent between", 2, []*mailer.Error{final, nil, final, nil}, 0},
		{"messages", 2, []*mailer.Error{virus, virus, virus, virus}, 0},
		{"recipients", 2, []*mailer.Error{rcpt, rcpt, about, about}, 0},
		{"recipients between", 2, []*mailer.Error{final, rcpt, final, final}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
					if e := tt.says[n-1]; e != nil {
						return mailer.Receipt{}, e
					}
					return taken(s)
				}, func(o *office) { o.policy.Brake = tt.brake })
				for i := range tt.says {
					r, err := o.Send(t.Context(), submission("lab"))
					synctest.Wait() // a sender hears before the outcome is recorded
					if stopped := tt.stops > 0 && i >= tt.stops; stopped != (err == nil && r.Status == mailer.StatusQueued) {
						t.Errorf("message %d: %+v, %v", i+1, r, err)
					}
				}
				if parked := slices.Contains(o.heard(), "lab open to parked"); parked != (tt.stops > 0) || o.log.Len() > 0 {
					t.Errorf("told %q, log %q", o.heard(), o.log.String())
				}
				if tt.stops == 0 {
					return
				}
				time.Sleep(23 * time.Hour)
				if got := len(o.tried()); got != tt.stops {
					t.Errorf("%d tries, want %d", got, tt.stops)
				}
			})
		})
	}
}
