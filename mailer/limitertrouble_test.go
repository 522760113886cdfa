package mailer

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

func slowDown(code int, after time.Duration) *Error {
	return &Error{Stage: StageMail, Kind: KindThrottled, Reply: Reply{Code: code, Text: "slow down"}, RetryAfter: after}
}

// atOnce is how many messages get a turn at once.
func atOnce(t *testing.T, l *Limiter) int {
	t.Helper()
	var got []*Reservation
	for {
		r, e := l.Reserve(deadOnArrival(t), 1)
		if e != nil {
			break
		}
		got = append(got, r)
		if len(got) == 100 {
			break
		}
	}
	for _, r := range got {
		r.Done(Receipt{}, &Error{Kind: KindTemporary})
	}
	return len(got)
}

// TestTrouble goes through a mailbox's slow time and back.
func TestTrouble(t *testing.T) {
	t.Parallel()
	for _, limited := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := &Limiter{Connections: 3}
			if limited {
				l.Rate, l.Per = 32, time.Second
			}
			first, second := reserve(t, l, 1), reserve(t, l, 1)
			cause := slowDown(451, 0)
			change := first.Done(Receipt{}, cause)
			if change.Cause != cause || change.Pause < 5*time.Second || change.Pause > 6*time.Second {
				t.Fatalf("%+v", change)
			}
			// It is the same trouble.
			if change := second.Done(Receipt{}, slowDown(451, 0)); change != (PaceChange{}) {
				t.Fatalf("%+v", change)
			}
			refused(t, l, 1, time.Second, codePaused, change.Pause)
			if e := l.paused(); e == nil || e.RetryAfter != change.Pause || !e.CannotSend() {
				t.Fatalf("%v", e)
			}
			begin := time.Now()
			r, e := l.Reserve(t.Context(), 1)
			if e != nil || time.Since(begin) != change.Pause || l.paused() != nil {
				t.Fatalf("%v after %v", e, time.Since(begin))
			}
			if l.trouble.connections != 1 || l.trouble.slow != 2 {
				t.Fatalf("%+v", l.trouble)
			}
			if ready := func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.readyLocked(l.clock()) }(); ready {
				t.Error("two connections are in use")
			}
			// Pauses grow, up to 5 min.
			var last time.Duration
			for i := range 10 {
				if change := r.Done(Receipt{}, slowDown(421, 0)); change != (PaceChange{}) {
					t.Fatalf("told twice: %+v", change)
				}
				begin := time.Now()
				if r, e = l.Reserve(t.Context(), 1); e != nil {
					t.Fatal(e)
				}
				pause := time.Since(begin)
				if pause < last || i == 0 && pause < 10*time.Second || pause > 6*time.Minute {
					t.Fatalf("pause of %v after one of %v", pause, last)
				}
				last = min(pause, lastPause)
			}
			if last != lastPause || l.trouble.slow != mostSlow {
				t.Fatalf("the last pause was %v, slow %v", last, l.trouble.slow)
			}
			// It gets well by what goes well, not at once.
			begin = time.Now()
			var changes []PaceChange
			for range 600 {
				if change := r.Done(taken, nil); change != (PaceChange{}) {
					changes = append(changes, change)
				}
				time.Sleep(time.Second)
				r = reserve(t, l, 1)
			}
			r.Done(taken, nil)
			if len(changes) != 1 || changes[0].Slow < 10*time.Minute || changes[0].Cause != nil {
				t.Fatalf("%+v", changes)
			}
			if l.eased.Load() == limited || l.trouble.on {
				t.Errorf("eased %v, %+v", l.eased.Load(), l.trouble)
			}
			// The next trouble is news again.
			if change := reserve(t, l, 1).Done(Receipt{}, slowDown(421, time.Hour)); change.Cause == nil || change.Pause != time.Hour {
				t.Errorf("%+v", change)
			}
		})
	}
}

// TestTroubleRate: after trouble the rate is lower, and grows mail by mail.
func TestTroubleRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{Rate: 32, Per: time.Minute, Connections: 100}
		reserve(t, l, 1).Done(Receipt{}, slowDown(421, time.Second))
		time.Sleep(2 * time.Second)
		if n := atOnce(t, l); n != 16 {
			t.Errorf("%d messages after trouble", n)
		}
		for range 8 {
			reserve(t, l, 1).Done(taken, nil)
		}
		time.Sleep(2 * time.Minute)
		if n := atOnce(t, l); n != 24 {
			t.Errorf("%d messages after eight that went well", n)
		}
	})
}

// TestTroubleDismisses: who waits for a turn that will come too late is told
// when that is known.
func TestTroubleDismisses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{Rate: 1, Per: 10 * time.Second}
		r := reserve(t, l, 1)
		begin := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := contextWithin(t, time.Minute)
			defer cancel()
			if _, e := l.Reserve(ctx, 1); e == nil || e.Code != codePaused || e.RetryAfter != time.Hour || time.Since(begin) != time.Second {
				t.Errorf("%v after %v", e, time.Since(begin))
			}
		})
		time.Sleep(time.Second)
		r.Done(Receipt{}, slowDown(554, time.Hour))
		wg.Wait()
	})
}

// TestThrottledConnections: 432 takes a connection out of use for a while.
func TestThrottledConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &mailertest.Script{Answers: map[string][]string{"MAIL": {"", "432 4.3.2 Concurrent connections limit exceeded", ""}}}
		tenant := plainTenant(s)
		tenant.Pool = &Pool{Max: 3}
		tenant.Limits = &Limiter{Connections: 3}
		var changes []PaceChange
		tenant.Paced = func(c PaceChange) { changes = append(changes, c) }
		submit(t, tenant)
		_, err := tenant.Submit(t.Context(), letter, hello, Options{})
		wantError(t, err, StageMail, KindThrottled)
		synctest.Wait()
		if len(changes) != 1 || !strings.Contains(changes[0].Cause.Error(), "432") {
			t.Fatalf("%+v", changes)
		}
		if l := tenant.Limits; l.trouble.connections != 2 || l.trouble.slow != 1 {
			t.Errorf("%+v", l.trouble)
		}
		if n := s.Said("QUIT"); n != 1 {
			t.Errorf("%d connections were given up", n)
		}
		submit(t, tenant)
		time.Sleep(time.Minute)
		submit(t, tenant)
		if l := tenant.Limits; l.trouble.connections != 3 || !l.trouble.on {
			t.Errorf("%+v", l.trouble)
		}
		tenant.Pool.Close()
	})
}

// TestThrottle: what slows a mailbox down, and what does not.
func TestThrottle(t *testing.T) {
	t.Parallel()
	some := Receipt{Status: StatusSent, Recipients: []RecipientOutcome{{}, {Kind: KindThrottled, Reply: Reply{Code: 451}}}}
	for _, tt := range []struct {
		name string
		got  Receipt
		err  error
		want bool
	}{
		{"sent", taken, nil, false},
		{"a recipient throttled", some, nil, true},
		{"throttled", Receipt{}, slowDown(432, 0), true},
		{"our own limit", Receipt{}, &Error{Stage: StageLimit, Kind: KindThrottled}, false},
		{"temporary", Receipt{}, &Error{Kind: KindTemporary, Reply: Reply{Code: 451}}, false},
	} {
		if got := throttle(tt.got, tt.err); (got != nil) != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// TestHeld: what is told of a mailbox that sends nothing at present.
func TestHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		if e := (*Limiter)(nil).Held(); e != nil {
			t.Errorf("no limits: %v", e)
		}
		l := &Limiter{RecipientsPerDay: 2}
		held := func(code string, within time.Duration) {
			t.Helper()
			e := l.Held()
			if got := e != nil; got != (code != "") || got && (e.Code != code || e.RetryAfter != within || e.Err == nil) {
				t.Errorf("%+v, want %q for %v", e, code, within)
			}
		}
		held("", 0)
		reserve(t, l, 1).Done(Receipt{}, slowDown(451, time.Minute))
		held(codePaused, time.Minute)
		time.Sleep(time.Minute)
		held("", 0)
		reserve(t, l, 1).Done(taken, nil)
		held("", 0)
		reserve(t, l, 1).Done(taken, nil)
		held(codeRecipients, 24*time.Hour+time.Minute)
		time.Sleep(24*time.Hour + time.Minute)
		held("", 0)
	})
}

// TestWhatRests: the replies after which a mailbox rests, as the documentation
// has them.
func TestWhatRests(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		stage Stage
		reply Reply
		rests bool
		pause time.Duration // that the reply itself calls for
	}{
		{StageMail, Reply{Code: 432}, true, 0},
		{StageRcpt, Reply{Code: 432, Enhanced: EnhancedCode{4, 3, 2}}, true, 0},
		{StageMail, Reply{Code: 421, Enhanced: EnhancedCode{4, 7, 0}}, true, 0},
		{StageFinal, Reply{Code: 451, Enhanced: EnhancedCode{4, 7, 500}}, true, 0},
		{StageAuth, Reply{Code: 421}, true, 0},
		{StageMail, Reply{Code: 450, Enhanced: EnhancedCode{4, 2, 1}}, true, 0},
		{StageMail, Reply{Code: 452, Text: "rate limit"}, true, 0},
		{StageAuth, Reply{Code: 454, Text: "Too many login attempts"}, true, 0},
		{StageFinal, Reply{Code: 550, Enhanced: EnhancedCode{5, 1, 90}, Text: "You have reached your daily limit for message recipients"}, true, time.Hour},
		{StageFinal, Reply{Code: 554, Enhanced: EnhancedCode{5, 2, 2}, Text: "Submission quota exceeded"}, true, time.Hour},
		{StageData, Reply{Code: 550, Enhanced: EnhancedCode{5, 4, 5}, Text: "Daily user sending limit exceeded"}, true, time.Hour},

		{StageRcpt, Reply{Code: 452, Text: "rate limit"}, false, 0},
		{StageRcpt, Reply{Code: 550, Enhanced: EnhancedCode{5, 4, 5}, Text: "Daily user sending limit exceeded"}, false, 0},
		{StageFinal, Reply{Code: 550, Enhanced: EnhancedCode{5, 1, 90}}, false, 0},
		{StageMail, Reply{Code: 421}, false, 0},
		{StageGreeting, Reply{Code: 421, Enhanced: EnhancedCode{4, 3, 2}}, false, 0},
		{StageMail, Reply{Code: 451, Enhanced: EnhancedCode{4, 3, 0}}, false, 0},
		{StageRcpt, Reply{Code: 450, Enhanced: EnhancedCode{4, 2, 1}}, false, 0},
		{StageMail, Reply{Code: 450, Enhanced: EnhancedCode{4, 7, 1}}, false, 0},
		{StageMail, Reply{Code: 550, Enhanced: EnhancedCode{5, 7, 1}}, false, 0},
	} {
		kind, pause := classify(tt.stage, tt.reply)
		cause := throttle(Receipt{}, &Error{Stage: tt.stage, Kind: kind, Reply: tt.reply})
		if (cause != nil) != tt.rests || tt.rests && pause != tt.pause {
			t.Errorf("%s %v: %v for %v", tt.stage, tt.reply, kind, pause)
		}
	}
}
