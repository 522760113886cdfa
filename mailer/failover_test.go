package mailer

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// pair is a tenant and the one it fails over to.
type pair struct {
	m             *Mailer
	first, second *Tenant
	told          []string
}

func newPair(t *testing.T, first, second *mailertest.Script) *pair {
	t.Helper()
	p := &pair{first: plainTenant(first), second: plainTenant(second)}
	p.first.Name, p.first.Failover = "first", "second"
	p.first.Breaker, p.first.Limits = new(Breaker), new(Limiter)
	p.second.Name, p.second.Failover = "second", "first"
	for _, tenant := range []*Tenant{p.first, p.second} {
		tenant.Senders = allow(t, "a@example.com")
	}
	p.m = &Mailer{
		Lookup: func(name string) (*Tenant, bool) {
			switch name {
			case "first":
				return p.first, true
			case "second":
				return p.second, true
			}
			return nil, false
		},
		Hooks: Hooks{
			FailedOver: func(from, to string, cause *Error) {
				p.told = append(p.told, from+" to "+to+" at "+string(cause.Stage))
			},
			BackAgain: func(tenant string) { p.told = append(p.told, tenant+" again") },
		},
	}
	return p
}

func (p *pair) send(ctx context.Context) (Receipt, error) {
	s := submission(hello)
	s.Tenant = "first"
	return p.m.Send(ctx, s)
}

// wantServed sends a message and fails the test unless the tenant took it.
func (p *pair) wantServed(t *testing.T, by string) {
	t.Helper()
	r, err := p.send(t.Context())
	if err != nil || r.Tenant != by {
		t.Fatalf("sent by %q, %v; want %s", r.Tenant, err, by)
	}
}

func unreachable(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
}

// TestFailover: what makes another tenant send, and what must not.
func TestFailover(t *testing.T) {
	t.Parallel()
	at := func(step, answer string) *mailertest.Script {
		return &mailertest.Script{Answers: map[string][]string{step: {answer}}}
	}
	for _, tt := range []struct {
		name   string
		first  *mailertest.Script
		change func(*pair)
		over   bool
	}{
		{"fine", &mailertest.Script{}, nil, false},
		{"unreachable", &mailertest.Script{}, func(p *pair) { p.first.Server.Dial = unreachable }, true},
		{"greeting 554", at(mailertest.Greeting, "554 no"), nil, true},
		{"greeting 421", at(mailertest.Greeting, "421 4.3.0 later"), nil, true},
		{"hung up in EHLO", at("EHLO", mailertest.Close), nil, true},
		{"no STARTTLS", &mailertest.Script{}, func(p *pair) { p.first.Server.Security = StartTLS }, true},
		{"no token", &mailertest.Script{}, func(p *pair) { p.first.Auth = Token{User: "u", Source: brokenSource{}} }, true},
		{"throttled", at("MAIL", "432 4.3.2 too many"), nil, true},
		{"quota used up", at(mailertest.Content, "554 5.2.0 SubmissionQuotaExceededException"), nil, true},
		{"resting", &mailertest.Script{}, func(p *pair) {
			r, _ := p.first.Limits.Reserve(context.Background(), 1)
			r.Done(Receipt{}, slowDown(451, 0))
		}, true},
		{"no recipients left today", &mailertest.Script{}, func(p *pair) {
			p.first.Limits = &Limiter{RecipientsPerDay: 1}
			r, _ := p.first.Limits.Reserve(context.Background(), 1)
			r.Done(taken, nil)
		}, true},

		{"sender refused", at("MAIL", "550 5.7.60 SendAsDenied"), nil, false},
		{"sender refused for now", at("MAIL", "451 4.3.0 later"), nil, false},
		{"recipient refused", at("RCPT", "550 5.1.1 unknown"), nil, false},
		{"recipient throttled", at("RCPT", "451 4.7.1 slow down"), nil, false},
		{"content refused", at(mailertest.Content, "554 5.7.1 spam"), nil, false},
		{"content refused for now", at(mailertest.Content, "451 4.3.0 later"), nil, false},
		{"hung up in MAIL", at("MAIL", mailertest.Close), nil, false},
		{"may have been sent", at(mailertest.Content, mailertest.Close), nil, false},
		{"invalid", &mailertest.Script{}, func(p *pair) { p.first.Senders = Senders{} }, false},
		{"turn too late", &mailertest.Script{}, func(p *pair) {
			p.first.Limits = &Limiter{Rate: 1, Per: 48 * time.Hour}
			_, _ = p.first.Limits.Reserve(context.Background(), 1)
		}, false},
		{"sender not allowed at the other", &mailertest.Script{}, func(p *pair) {
			p.first.Server.Dial = unreachable
			p.second.Senders = Senders{}
		}, false},
		{"staging", &mailertest.Script{}, func(p *pair) {
			p.first.Server.Dial = unreachable
			p.first.Deliver.To = other
		}, false},
		{"to staging", &mailertest.Script{}, func(p *pair) {
			p.first.Server.Dial = unreachable
			p.second.Deliver.Nowhere = true
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				second := new(mailertest.Script)
				p := newPair(t, tt.first, second)
				if tt.change != nil {
					tt.change(p)
				}
				ctx, cancel := contextWithin(t, 12*time.Hour)
				defer cancel()
				r, err := p.send(ctx)
				switch {
				case tt.over && (err != nil || r.Tenant != "second" || len(p.told) != 1 || len(second.Contents()) != 1):
					t.Errorf("%+v, %v; told %q", r, err, p.told)
				case !tt.over && (second.Sessions() > 0 || len(p.told) > 0 || err == nil && r.Tenant != "first"):
					t.Errorf("%+v, %v; told %q", r, err, p.told)
				}
			})
		})
	}
}

type brokenSource struct{}

func (brokenSource) AccessToken(context.Context) (string, error) {
	return "", errors.New("invalid_grant")
}
func (brokenSource) Reject(string) bool { return false }

// TestBreaker: while a tenant is known to be down, one message tries it now and
// then; afterwards all do.
func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := new(mailertest.Script)
		p := newPair(t, s, new(mailertest.Script))
		tries := 0
		down := true
		p.first.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			tries++
			if down {
				return unreachable(ctx, network, addr)
			}
			return s.Dial(ctx, network, addr)
		}
		wantTries := func(want int) {
			t.Helper()
			p.wantServed(t, "second")
			if tries != want {
				t.Fatalf("%d tries, want %d", tries, want)
			}
		}
		wantTries(1)
		for i, wait := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			time.Sleep(wait*time.Second - 1)
			wantTries(1 + i)
			time.Sleep(1)
			wantTries(2 + i)
		}
		// One tries, the others go on.
		down = false
		time.Sleep(5 * time.Minute)
		s.Answers = map[string][]string{"EHLO": {mailertest.Silent}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := p.send(ctx)
			done <- err
		}()
		synctest.Wait()
		before := tries
		wantTries(before)
		cancel() // a try that tells nothing is made again
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		s.Answers = nil
		p.wantServed(t, "first")
		p.wantServed(t, "first")
		if diff := cmp.Diff([]string{"first to second at connect", "first again"}, p.told); diff != "" {
			t.Error(diff)
		}
		// A refusal shows as well that the server is there.
		down = true
		p.wantServed(t, "second")
		down = false
		time.Sleep(10 * time.Second)
		s.Answers = map[string][]string{"RCPT": {"550 5.1.1 no"}}
		_, err := p.send(t.Context())
		wantError(t, err, StageRcpt, KindRejected)
		if len(p.told) != 4 || p.told[3] != "first again" {
			t.Errorf("told %q", p.told)
		}
	})
}

// TestFailoverBothDown: when neither can send, the message waits rather than
// being parked.
func TestFailoverBothDown(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		first, second func(*Tenant)
		stage         Stage
		kind          Kind
		tells         string
	}{
		{"the first may come back", refuse, unauthorized, StageConnect, KindTemporary, "connection refused; tenant second cannot send either: token 127.0.0.1:25: invalid_grant"},
		{"the second may come back", unauthorized, refuse, StageConnect, KindTemporary, "connection refused; tenant first cannot send either: token 127.0.0.1:25: … invalid_grant"},
		{"both need a person", unauthorized, unauthorized, StageToken, KindUnauthorized, "invalid_grant; tenant first cannot send either: token"},
		{"the second refuses the message", refuse, rejecting, StageRcpt, KindRejected, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, new(mailertest.Script), new(mailertest.Script))
			tt.first(p.first)
			tt.second(p.second)
			for range 2 { // the second time the first is known to be down
				_, err := p.send(t.Context())
				e := wantError(t, err, tt.stage, tt.kind)
				start, end, _ := strings.Cut(tt.tells, "… ")
				if told := strings.Contains(e.Error(), start) && strings.Contains(e.Error(), end); !told || tt.tells == "" && strings.Contains(e.Error(), "either") {
					t.Errorf("%v does not tell %q", e, tt.tells)
				}
			}
		})
	}
}

func refuse(t *Tenant)       { t.Server.Dial = unreachable }
func unauthorized(t *Tenant) { t.Auth = Token{User: "u", Source: brokenSource{}} }

func rejecting(t *Tenant) {
	t.Server.Dial = (&mailertest.Script{Answers: map[string][]string{"RCPT": {"550 5.1.1 no"}}}).Dial
}

// TestFailoverFromSilence: a server that says nothing leaves time for the other
// tenant, as long as it can't have got the message.
func TestFailoverFromSilence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		first *mailertest.Script
		wait  time.Duration // of the caller; zero: as long as it takes
		by    string        // who sends; nobody where it is unknown
		after time.Duration
		down  bool // from then on
	}{
		{"greeting", silent(mailertest.Greeting), 45 * time.Second, "second", 15 * time.Second, true},
		{"EHLO", silent("EHLO"), 45 * time.Second, "second", 15 * time.Second, true},
		{"MAIL", silent("MAIL"), 45 * time.Second, "second", 15 * time.Second, true},
		{"patient caller", silent(mailertest.Greeting), 0, "second", 15 * time.Second, true},
		{"half of the time", silent(mailertest.Greeting), 24 * time.Second, "second", 12 * time.Second, true},
		{"too soon to tell", silent(mailertest.Greeting), 4 * time.Second, "second", 2 * time.Second, false},
		// These may be about the recipients.
		{"RCPT", silent("RCPT"), 45 * time.Second, "second", 15 * time.Second, false},
		{"DATA", silent("DATA"), 45 * time.Second, "second", 15 * time.Second, false},
		// From here on it may have the message.
		{"content", silent(mailertest.Content), 45 * time.Second, "", 10 * time.Minute, false},
		{"chunk", silent("BDAT", "CHUNKING"), 45 * time.Second, "", 10 * time.Minute, false},
		{"all at once", silent("BDAT", "CHUNKING", "PIPELINING"), 45 * time.Second, "", 10 * time.Minute, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				second := new(mailertest.Script)
				p := newPair(t, tt.first, second)
				ctx := t.Context()
				if tt.wait > 0 {
					var cancel context.CancelFunc
					ctx, cancel = contextWithin(t, tt.wait)
					defer cancel()
				}
				begin := time.Now()
				r, err := p.send(ctx)
				switch {
				case r.Tenant != tt.by || time.Since(begin) != tt.after:
					t.Errorf("sent by %q after %v, %v", r.Tenant, time.Since(begin), err)
				case tt.by == "":
					wantError(t, err, StageFinal, KindUnknown)
				}
				if cause, _ := p.first.Breaker.Down(); (cause != nil) != tt.down || len(p.told) > 0 != tt.down {
					t.Errorf("down for %v; told %q", cause, p.told)
				}
				if tt.by == "" && second.Sessions() > 0 {
					t.Error("a message was sent twice")
				}
			})
		})
	}
}

func silent(step string, offer ...string) *mailertest.Script {
	return &mailertest.Script{Offer: offer, Answers: map[string][]string{step: {mailertest.Silent}}}
}

// TestFailoverWhileWaiting: time spent in waiting for a turn or a connection is
// not the server's, and who waits when the tenant goes down tries it no more.
func TestFailoverWhileWaiting(t *testing.T) {
	t.Parallel()
	t.Run("turn", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, new(mailertest.Script), new(mailertest.Script))
			p.first.Limits = &Limiter{Rate: 1, Per: 30 * time.Second}
			reserve(t, p.first.Limits, 1).Done(taken, nil)
			ctx, cancel := contextWithin(t, 45*time.Second)
			defer cancel()
			begin := time.Now()
			if r, err := p.send(ctx); r.Tenant != "first" || time.Since(begin) != 30*time.Second {
				t.Errorf("sent by %q after %v, %v", r.Tenant, time.Since(begin), err)
			}
		})
	})
	t.Run("connection", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := silent(mailertest.Greeting)
			p := newPair(t, s, new(mailertest.Script))
			p.first.Pool = &Pool{Max: 1}
			begin := time.Now()
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					ctx, cancel := contextWithin(t, 45*time.Second)
					defer cancel()
					if r, err := p.send(ctx); r.Tenant != "second" {
						t.Errorf("sent by %q, %v", r.Tenant, err)
					}
				})
			}
			wg.Wait()
			if n := s.Sessions(); n != 1 || len(p.told) != 1 || time.Since(begin) != 15*time.Second {
				t.Errorf("%d tries in %v; told %q", n, time.Since(begin), p.told)
			}
			cause, next := p.first.Breaker.Down()
			if cause == nil || cause.Stage != StageGreeting || time.Until(next) != firstSkip {
				t.Errorf("down for %v until %v", cause, next)
			}
		})
	})
}

// TestFailoverAfterThrottledRecipient: a recipient that is throttled is the
// message's answer; the mailbox rests, and those that follow go elsewhere.
func TestFailoverAfterThrottledRecipient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := &mailertest.Script{Answers: map[string][]string{"RCPT": {"432 4.3.2 too many", ""}}}
		p := newPair(t, first, new(mailertest.Script))
		_, err := p.send(t.Context())
		wantError(t, err, StageRcpt, KindThrottled)
		p.wantServed(t, "second")
		time.Sleep(firstSkip)
		p.wantServed(t, "first")
	})
}

// TestBreakerStraggler: what was under way when a tenant went down decides
// nothing while another message tries it.
func TestBreakerStraggler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		cause := &Error{Stage: StageConnect, Kind: KindTemporary}
		if !b.down(cause, false) {
			t.Error("going down is no news")
		}
		time.Sleep(firstSkip)
		if got, probe := b.open(); got != nil || !probe {
			t.Fatalf("%v, %v", got, probe)
		}
		b.unsure(false)
		if b.up(false) || b.down(&Error{}, false) {
			t.Error("a straggler decides")
		}
		if got, _ := b.open(); got == nil || got.Stage != cause.Stage || got.RetryAfter != leastRetry {
			t.Errorf("two try it at once: %v", got)
		}
		if !b.up(true) {
			t.Error("the tenant stays down")
		}
		if got, next := b.Down(); got != nil || !next.IsZero() {
			t.Errorf("down for %v until %v", got, next)
		}
	})
}

// TestBreakerTellsNoOther: a message that finds its tenant down is told since when
// and until when, and nothing of the message that found out.
func TestBreakerTellsNoOther(t *testing.T) {
	t.Parallel()
	const secret = "secret@example.net"
	for _, tt := range []struct {
		name, step, answer string
		text               bool // the reply's, which is about the tenant
	}{
		{"content", mailertest.Content, "451 4.7.500 busy: <" + secret + ">", false},
		{"MAIL", "MAIL", "432 4.3.2 too many after " + secret, false},
		{"greeting", mailertest.Greeting, "421 4.3.2 closed", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				down := &mailertest.Script{Answers: map[string][]string{mailertest.Greeting: {"421 4.3.2 closed"}}}
				p := newPair(t, &mailertest.Script{Answers: map[string][]string{tt.step: {tt.answer}}}, down)
				s := submission(hello)
				s.Tenant, s.Envelope.To = "first", []Address{mustParse(t, secret)}
				if _, err := p.m.Send(t.Context(), s); err == nil || strings.Contains(err.Error(), secret) == tt.text {
					t.Errorf("its own sender is told %v", err)
				}
				since := time.Now().UTC().Format(time.RFC3339)
				again := time.Now().Add(firstSkip).UTC().Format(time.RFC3339)
				time.Sleep(4 * time.Second)
				_, err := p.send(t.Context())
				var told []string
				for _, o := range asError(err).Recipients {
					told = append(told, o.Address.Mailbox())
				}
				if strings.Contains(err.Error()+strings.Join(told, " "), secret) {
					t.Errorf("another message is told %v, %q", err, told)
				}
				if want := "cannot send since " + since + ", and is tried again at " + again; !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not tell %q", err, want)
				}
				cause, _ := p.first.Breaker.Down()
				if tt.text != (cause.Reply.Text != "") || cause.Recipients != nil {
					t.Errorf("down for %+v", cause)
				}
				if e := p.first.Breaker.refused(); e.RetryAfter != firstSkip-4*time.Second || e.Reply.Code != cause.Reply.Code {
					t.Errorf("again after %v: %v", e.RetryAfter, e)
				}
				time.Sleep(time.Minute)
				if e := p.first.Breaker.refused(); e.RetryAfter != leastRetry {
					t.Errorf("again after %v", e.RetryAfter)
				}
			})
		})
	}
}

// TestFailoverOfLargeMessage: a message with too many recipients for the rest of
// the day goes to the other tenant, and does not take the small ones along.
func TestFailoverOfLargeMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, new(mailertest.Script), new(mailertest.Script))
		p.first.Limits = &Limiter{RecipientsPerDay: 3}
		p.wantServed(t, "first")
		large := submission(hello)
		large.Tenant, large.Envelope.To = "first", []Address{mustParse(t, "b@example.org"), mustParse(t, "c@example.org"), mustParse(t, "d@example.org")}
		if r, err := p.m.Send(t.Context(), large); err != nil || r.Tenant != "second" {
			t.Errorf("large: sent by %q, %v", r.Tenant, err)
		}
		p.wantServed(t, "first")
		p.wantServed(t, "first")
		if len(p.told) > 0 {
			t.Errorf("told %q", p.told)
		}
		p.wantServed(t, "second") // no room at all
		if cause, _ := p.first.Breaker.Down(); cause == nil || cause.Code != codeRecipients {
			t.Errorf("down for %v", cause)
		}
		large.Envelope.To = append(large.Envelope.To, mustParse(t, "e@example.org")) // more than a whole day's
		p.first.Breaker = new(Breaker)
		_, err := p.m.Send(t.Context(), large)
		wantError(t, err, StageLimit, KindInvalid)
	})
}

// TestBreakerReset: after somebody did what may have put a tenant right, the next
// message tries it at once, and only that one.
func TestBreakerReset(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		(*Breaker)(nil).Reset()
		p := newPair(t, new(mailertest.Script), new(mailertest.Script))
		unauthorized(p.first)
		p.wantServed(t, "second")
		p.first.Auth = nil
		p.wantServed(t, "second")
		p.first.Breaker.Reset()
		p.wantServed(t, "first")
		p.wantServed(t, "first")
		if diff := cmp.Diff([]string{"first to second at token", "first again"}, p.told); diff != "" {
			t.Error(diff)
		}
		// In vain: it is down as before.
		unauthorized(p.first)
		p.wantServed(t, "second")
		p.first.Breaker.Reset()
		p.wantServed(t, "second")
		if cause, next := p.first.Breaker.Down(); cause == nil || time.Until(next) != firstSkip {
			t.Errorf("down for %v until %v", cause, next)
		}
	})
}
