package outbox_test

import (
	"context"
	"errors"
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

// TestWait: how long a sender waits for a slow try, which goes on without it.
func TestWait(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*mailer.Options)
		ctx    time.Duration
		status mailer.Status
		after  time.Duration
		state  outbox.State // when the sender has its answer
	}{
		{name: "the longest", status: mailer.StatusQueued, after: 25 * time.Second, state: outbox.StateSending},
		{name: "wished", change: func(o *mailer.Options) { o.Wait = 3 * time.Second }, status: mailer.StatusQueued, after: 3 * time.Second, state: outbox.StateSending},
		{name: "more than the longest", change: func(o *mailer.Options) { o.Wait = time.Hour }, status: mailer.StatusQueued, after: 25 * time.Second, state: outbox.StateSending},
		{name: "gone", ctx: 2 * time.Second, status: mailer.StatusQueued, after: 2 * time.Second, state: outbox.StateSending},
		{name: "asynchronous", change: func(o *mailer.Options) { o.Async = true }, status: mailer.StatusQueued, state: outbox.StateSending},
		{
			name: "scheduled", change: func(o *mailer.Options) { o.At = time.Now().Add(time.Minute) },
			status: mailer.StatusScheduled, state: outbox.StateScheduled,
		},
		{name: "scheduled for the past", change: func(o *mailer.Options) { o.At = time.Now().Add(-time.Minute) }, status: mailer.StatusQueued, after: 25 * time.Second, state: outbox.StateSending},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
					time.Sleep(40 * time.Second)
					return taken(s)
				})
				s := submission("lab")
				if tt.change != nil {
					tt.change(&s.Options)
				}
				ctx := t.Context()
				if tt.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					time.AfterFunc(tt.ctx, cancel)
				}
				r, err := o.Send(ctx, s)
				if err != nil || r.Status != tt.status || time.Since(o.begin) != tt.after {
					t.Errorf("%+v, %v after %v", r, err, time.Since(o.begin))
				}
				if m := o.get(t, s.ID); m.State != tt.state {
					t.Errorf("%s, want %s", m.State, tt.state)
				}
				time.Sleep(2 * time.Minute)
				if m := o.get(t, s.ID); m.State != outbox.StateSent || len(o.tried()) != 1 || m.Expires.Sub(o.begin) < 48*time.Hour {
					t.Errorf("%s after %d tries", m.State, len(o.tried()))
				}
				if outbox.Waiting(o.Outbox) != 0 {
					t.Error("somebody is still waited for")
				}
			})
		})
	}
}

// TestClosedLane: who sends by a tenant that cannot is told so at once, and so are
// those whose messages wait behind the one that found out.
func TestClosedLane(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
			time.Sleep(5 * time.Second)
			return mailer.Receipt{}, refusal(mailer.StageAuth, mailer.KindUnauthorized, 535)
		}, func(o *office) { o.policy.Connections = 1 })
		var group sync.WaitGroup
		for range 5 { // two are tried at once
			group.Go(func() {
				r, err := o.Send(t.Context(), submission("lab"))
				if took := time.Since(o.begin); err != nil || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Reply.Code != 535 || took != 5*time.Second {
					t.Errorf("%+v, %v after %v", r, err, took)
				}
			})
		}
		group.Wait()
		begin := time.Now()
		r, err := o.Send(t.Context(), submission("lab"))
		if err != nil || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Reply.Code != 535 || r.Due.Sub(o.begin) != 5*time.Second+time.Hour || time.Since(begin) != 0 {
			t.Errorf("%+v, %v", r, err)
		}
		if err := o.Pause(t.Context(), "other", "operator"); err != nil {
			t.Fatal(err)
		}
		r, err = o.Send(t.Context(), submission("other"))
		if err != nil || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Code != outbox.CodePaused || r.Cause.Diagnosis().ID != "general.tenant_paused" || time.Since(begin) != 0 {
			t.Errorf("paused: %+v, %v", r, err)
		}
		if got := len(o.tried()); got != 2 {
			t.Errorf("%d tries, want 2", got)
		}
		// The next process knows.
		o.stop()
		again := outbox.New(o.engine, o.settings)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = again.Run(ctx) }()
		synctest.Wait()
		r, err = again.Send(t.Context(), submission("lab"))
		if err != nil || r.Cause == nil || r.Cause.Reply.Code != 535 || time.Since(begin) != 0 {
			t.Errorf("in the next process: %+v, %v", r, err)
		}
		cancel()
		<-done
	})
}

// TestIdempotency: a key counts once, and each repeat hears what has become of the
// first.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	type step struct {
		key, caller, print string
		status             mailer.Status
		code               string
		replayed           bool
	}
	for _, tt := range []struct {
		name  string
		reply *mailer.Error
		slow  bool
		steps []step
	}{
		{"sent", nil, false, []step{
			{"k", "shop", "a", mailer.StatusSent, "", false},
			{"k", "shop", "a", mailer.StatusSent, "", true},
			{"k", "shop", "b", "", outbox.CodeOtherRequest, false},
			{"l", "shop", "a", mailer.StatusSent, "", false},
			{"k", "desk", "b", mailer.StatusSent, "", false},
		}},
		{"queued", refusal(mailer.StageFinal, mailer.KindTemporary, 451), false, []step{
			{"k", "shop", "a", mailer.StatusQueued, "", false},
			{"k", "shop", "a", mailer.StatusQueued, "", true},
		}},
		{"refused", refusal(mailer.StageFinal, mailer.KindRejected, 554), false, []step{
			{"k", "shop", "a", "", "", false},
			{"k", "shop", "b", "", "", false}, // a failed message frees its key
		}},
		{"being sent", nil, true, []step{
			{"k", "shop", "a", mailer.StatusQueued, "", false},
			{"k", "shop", "a", "", outbox.CodeConcurrent, false},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
					if tt.slow {
						time.Sleep(time.Minute)
					}
					if tt.reply != nil {
						return mailer.Receipt{}, tt.reply
					}
					return taken(s)
				})
				first := ""
				for i, step := range tt.steps {
					s := submission("lab")
					s.Caller.Name, s.Options.IdempotencyKey, s.Options.Fingerprint = step.caller, step.key, []byte(step.print)
					s.Options.Wait = time.Second
					r, err := o.Send(t.Context(), s)
					synctest.Wait()
					if i == 0 {
						first = s.ID
					}
					if step.status == "" {
						e, ok := errors.AsType[*mailer.Error](err)
						if !ok || e.Code != step.code || step.code != "" && e.Kind != mailer.KindInvalid {
							t.Errorf("step %d: %v", i, err)
						}
						continue
					}
					if err != nil || r.Status != step.status || r.Replayed != step.replayed || step.replayed && (r.ID != first || r.Due.IsZero() == (step.status == mailer.StatusQueued)) {
						t.Errorf("step %d: %+v, %v", i, r, err)
					}
				}
			})
		})
	}
}

// late is an engine that records outcomes a moment after they are told.
type late struct{ *outboxtest.Memory }

func (l late) Run(ctx context.Context, h outbox.Handler) error {
	return l.Memory.Run(ctx, lateHandler{h})
}

type lateHandler struct{ outbox.Handler }

func (h lateHandler) Deliver(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
	defer time.Sleep(10 * time.Millisecond)
	return h.Handler.Deliver(ctx, m, c)
}

// TestRepeatedAtOnce: whoever has an answer and repeats the request gets it again,
// however soon.
func TestRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		reply *mailer.Error
		tries int
	}{
		{"sent", nil, 1},
		{"refused", refusal(mailer.StageFinal, mailer.KindRejected, 554), 2}, // a failed message frees its key
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
					if tt.reply != nil {
						return mailer.Receipt{}, tt.reply
					}
					return taken(s)
				}, func(o *office) { o.Outbox = outbox.New(late{o.engine}, o.settings) })
				for i := range 2 {
					s := submission("lab")
					s.Options.IdempotencyKey = "k"
					r, err := o.Send(t.Context(), s)
					switch e, _ := errors.AsType[*mailer.Error](err); {
					case tt.reply == nil && (err != nil || r.Status != mailer.StatusSent || r.Replayed != (i > 0)):
						t.Errorf("request %d: %+v, %v", i, r, err)
					case tt.reply != nil && (e == nil || e.Kind != mailer.KindRejected):
						t.Errorf("request %d: %+v, %v", i, r, err)
					}
				}
				if n := len(o.tried()); n != tt.tries {
					t.Errorf("%d tries, want %d", n, tt.tries)
				}
			})
		})
	}
}

// TestReplayedRefusal: who repeats a request whose message will not be sent hears which
// message that is; who must not hear of another's message does not.
func TestReplayedRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
			return mailer.Receipt{}, refusal(mailer.StageFinal, mailer.KindRejected, 554)
		})
		send := func(key, print string, at time.Duration) (mailer.Submission, mailer.Receipt, *mailer.Error) {
			s := submission("lab")
			s.Options.IdempotencyKey, s.Options.Fingerprint = key, []byte(print)
			if at > 0 {
				s.Options.At = o.begin.Add(at)
			}
			r, err := o.Send(t.Context(), s)
			e, _ := errors.AsType[*mailer.Error](err)
			return s, r, e
		}
		first, _, e := send("k", "a", time.Hour)
		if e != nil {
			t.Fatal(e)
		}
		if err := o.Cancel(t.Context(), first.ID, "operator"); err != nil {
			t.Fatal(err)
		}
		_, r, e := send("k", "a", time.Hour)
		if e == nil || e.Code != outbox.CodeCanceled || r.ID != first.ID || r.MessageID != first.MessageID || r.Tenant != "lab" || !r.Replayed {
			t.Errorf("canceled: %+v, %v", r, e)
		}
		_, r, e = send("k", "b", 0)
		if e == nil || e.Code != outbox.CodeOtherRequest || r.ID != "" || r.Replayed {
			t.Errorf("another: %+v, %v", r, e)
		}
		s, r, e := send("l", "c", 0)
		if e == nil || e.Reply.Code != 554 || r.ID != s.ID || r.MessageID != s.MessageID || r.Replayed {
			t.Errorf("refused: %+v, %v", r, e)
		}
	})
}

// TestSoonEnough: a sender waits for the next try only if there is time for it.
func TestSoonEnough(t *testing.T) {
	t.Parallel()
	limit := func(after time.Duration) *mailer.Error { // no reason for others to wait
		return &mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindThrottled, Code: "mailbox_recipients", RetryAfter: after}
	}
	for _, tt := range []struct {
		name   string
		e      *mailer.Error
		status mailer.Status
		after  time.Duration
	}{
		{"in ten seconds", limit(10 * time.Second), mailer.StatusSent, 10 * time.Second},
		{"too late", limit(21 * time.Second), mailer.StatusQueued, 0},
		{"the earliest other try", refusal(mailer.StageFinal, mailer.KindTemporary, 451), mailer.StatusQueued, 0}, // at 24 s
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
					if n == 1 {
						return mailer.Receipt{}, tt.e
					}
					return taken(s)
				}, func(o *office) { outbox.SetJitter(o.Outbox, func() float64 { return 0 }) })
				r, err := o.Send(t.Context(), submission("lab", alice, bob))
				if err != nil || r.Status != tt.status || time.Since(o.begin) != tt.after {
					t.Errorf("%+v, %v after %v", r, err, time.Since(o.begin))
				}
			})
		})
	}
}

// TestIdempotencyParallel: of a hundred equal messages at once one is sent.
func TestIdempotencyParallel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
			time.Sleep(time.Second)
			return taken(s)
		})
		var sent, busy atomic.Int32
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				s := submission("lab")
				s.Options.IdempotencyKey = "k"
				r, err := o.Send(t.Context(), s)
				switch e, ok := errors.AsType[*mailer.Error](err); {
				case err == nil && r.Status == mailer.StatusSent:
					sent.Add(1)
				case ok && e.Code == outbox.CodeConcurrent:
					busy.Add(1)
				default:
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
		group.Wait()
		if n := len(o.tried()); n != 1 || sent.Load() != 1 || busy.Load() != 99 {
			t.Errorf("%d tries, %d sent, %d busy", n, sent.Load(), busy.Load())
		}
	})
}

// full is an engine that cannot store.
type full struct {
	outbox.Engine
	err error
}

func (f full) Accept(context.Context, *outbox.Message, mailer.Content) error { return f.err }

// TestTooManyWait: beyond a number of senders nobody waits any more, and the message
// is sent all the same.
func TestTooManyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
			time.Sleep(time.Second)
			return taken(s)
		})
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() {
				if r, err := o.Send(t.Context(), submission("lab")); err != nil || r.Cause != nil {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
		synctest.Wait()
		s := submission("lab")
		r, err := o.Send(t.Context(), s)
		if err != nil || r.ID != s.ID || r.Status != mailer.StatusQueued || r.Cause == nil || r.Cause.Code != outbox.CodeBusy || time.Since(o.begin) != 0 {
			t.Errorf("one too many: %+v, %v after %v", r, err, time.Since(o.begin))
		}
		s2 := submission("lab")
		s2.Options.Async = true
		if r, err := o.Send(t.Context(), s2); err != nil || r.Cause != nil {
			t.Errorf("asynchronous: %+v, %v", r, err)
		}
		group.Wait()
		time.Sleep(10 * time.Minute)
		if m := o.get(t, s.ID); m.State != outbox.StateSent {
			t.Errorf("the one too many is %s", m.State)
		}
		if r, err := o.Send(t.Context(), submission("lab")); err != nil || r.Status != mailer.StatusSent {
			t.Errorf("later: %+v, %v", r, err)
		}
	})
}

// stuck is an engine whose storage does not answer until it is let go.
type stuck struct {
	outboxtest.Memory
	free chan struct{}
}

func (s *stuck) Accept(context.Context, *outbox.Message, mailer.Content) error {
	<-s.free
	return nil
}

// TestStorageHangs: a sender hears in time that nobody knows.
func TestStorageHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &stuck{free: make(chan struct{})}
		defer func() { e.free <- struct{}{} }()
		o := outbox.New(e, outbox.Settings{Policy: func(string) (outbox.Policy, bool) { return outbox.Policy{}, true }, Logger: slog.New(slog.DiscardHandler)})
		for i := range 3 {
			began := time.Now()
			if i > 0 { // the answer about the message before comes late, and tells nothing of this one
				time.AfterFunc(time.Second, func() { e.free <- struct{}{} })
			}
			_, err := o.Send(t.Context(), submission("lab"))
			var m *mailer.Error
			if !errors.As(err, &m) || m.Code != outbox.CodeUncertain || m.Kind != mailer.KindUnknown || time.Since(began) != 25*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		}
	})
}

// TestNotStored: what could not be stored is an error, and nobody is waited for.
func TestNotStored(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		code string
	}{
		{outbox.ErrFull, outbox.CodeFull},
		{errors.New("disk on fire"), outbox.CodeUnavailable},
	} {
		o := outbox.New(full{new(outboxtest.Memory), tt.err}, outbox.Settings{
			Policy: func(string) (outbox.Policy, bool) { return outbox.Policy{}, true },
		})
		_, err := o.Send(t.Context(), submission("lab"))
		e, ok := errors.AsType[*mailer.Error](err)
		if !ok || e.Stage != mailer.StageAccept || e.Kind != mailer.KindTemporary || e.Code != tt.code || e.Diagnosis().ID != "general."+tt.code || !errors.Is(err, tt.err) {
			t.Errorf("%v", err)
		}
		if outbox.Waiting(o) != 0 {
			t.Error("somebody is still waited for")
		}
	}
	o := outbox.New(new(outboxtest.Memory), outbox.Settings{Policy: func(string) (outbox.Policy, bool) { return outbox.Policy{}, false }})
	if _, err := o.Send(t.Context(), submission("lab")); err == nil || !strings.Contains(err.Error(), "unknown tenant") {
		t.Errorf("unknown tenant: %v", err)
	}
}

// TestEnd: when Run ends, messages being tried are queued again without an attempt,
// and all who wait hear that theirs are in the outbox.
func TestEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o *office
		o = open(t, nil, func(o *office) {
			o.policy.Connections = 1
			o.settings.Deliver = func(ctx context.Context, s mailer.Submission) (mailer.Receipt, error) {
				<-ctx.Done()
				return mailer.Receipt{}, &mailer.Error{Stage: mailer.StageConnect, Kind: mailer.KindTemporary, Err: ctx.Err()}
			}
			o.Use(o.settings)
		})
		var group sync.WaitGroup
		var ids []string
		for range 4 {
			s := submission("lab")
			ids = append(ids, s.ID)
			group.Go(func() {
				if r, err := o.Send(t.Context(), s); err != nil || r.Status != mailer.StatusQueued || time.Since(o.begin) != time.Second {
					t.Errorf("%+v, %v after %v", r, err, time.Since(o.begin))
				}
			})
		}
		time.Sleep(time.Second)
		o.stop()
		group.Wait()
		for _, id := range ids {
			if m := o.get(t, id); m.State != outbox.StateQueued || m.Attempts != 0 {
				t.Errorf("%s, %d attempts", m.State, m.Attempts)
			}
		}
		if r, err := o.Send(t.Context(), submission("lab")); err != nil || r.Status != mailer.StatusQueued || time.Since(o.begin) != time.Second {
			t.Errorf("after the end: %+v, %v after %v", r, err, time.Since(o.begin))
		}
		lanes, _ := o.engine.Lanes(t.Context())
		if len(lanes) > 0 || slices.ContainsFunc(o.heard(), func(s string) bool { return s != "accepted" }) {
			t.Errorf("lanes %v, told %q", lanes, o.heard())
		}
	})
}

// TestUse: a try under way ends with the settings that it began with.
func TestUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(_ int, s mailer.Submission) (mailer.Receipt, error) {
			time.Sleep(time.Second)
			return taken(s)
		})
		var by []string
		next := o.settings
		next.Deliver = func(_ context.Context, s mailer.Submission) (mailer.Receipt, error) { return taken(s) }
		next.Hooks = outbox.Hooks{Sent: func(*outbox.Message, mailer.Receipt, time.Duration) { by = append(by, "new") }}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if r, err := o.Send(t.Context(), submission("lab")); err != nil || r.Status != mailer.StatusSent {
				t.Errorf("%+v, %v", r, err)
			}
		}()
		synctest.Wait()
		o.Use(next)
		<-done
		if _, err := o.Send(t.Context(), submission("lab")); err != nil {
			t.Error(err)
		}
		if got := o.heardLater(); !slices.Equal(got, []string{"sent"}) || !slices.Equal(by, []string{"new"}) {
			t.Errorf("the old heard %q, the new %q", got, by)
		}
	})
}
