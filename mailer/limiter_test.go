package mailer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// strictServer holds clients to limits and counts how often they break one. A
// command takes it latency.
type strictServer struct {
	rate, connections int
	per, latency      time.Duration

	mu                   sync.Mutex
	open, most           int
	taken                []time.Time
	tooMany, overTheRate int
}

func (s *strictServer) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go s.serve(server)
	return client, nil
}

func (s *strictServer) serve(nc net.Conn) {
	defer nc.Close()
	s.mu.Lock()
	s.open++
	s.most = max(s.most, s.open)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
	}()
	r := bufio.NewReader(nc)
	say := func(line string) {
		time.Sleep(s.latency)
		_, _ = nc.Write([]byte(line + "\r\n"))
	}
	say("220 mail.example.com")
	for content := false; ; {
		line, err := r.ReadString('\n')
		verb := strings.ToUpper(strings.TrimRight(line, "\r\n"))
		switch verb, _, _ := strings.Cut(verb, " "); {
		case err != nil:
			return
		case content && verb == ".":
			content = false
			say("250 2.0.0 ok")
		case content:
		case verb == "MAIL":
			say(s.mail())
		case verb == "DATA":
			content = true
			say("354 go ahead")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// mail counts a message the moment it is announced.
func (s *strictServer) mail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.open > s.connections {
		s.tooMany++
		return "432 4.3.2 Concurrent connections limit exceeded"
	}
	n := len(s.taken)
	s.taken = append(s.taken, now)
	if n >= s.rate && now.Sub(s.taken[n-s.rate]) <= s.per {
		s.overTheRate++
	}
	return "250 2.1.0 ok"
}

// TestLimiterSpeed: no limit is ever broken, and hardly any of the allowed
// speed is lost.
func TestLimiterSpeed(t *testing.T) {
	t.Parallel()
	const messages, senders = 500, 50
	for _, per := range []time.Duration{time.Minute, 2 * time.Second} {
		t.Run(per.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &strictServer{rate: 30, connections: 3, per: per, latency: 5 * time.Millisecond}
				tenant := &Tenant{
					Name:   "lab",
					Server: Server{Host: "127.0.0.1", Port: 25, Security: Plaintext, Dial: s.dial},
					Pool:   &Pool{Max: 3},
					Limits: &Limiter{Rate: 30, Per: per, Connections: 3},
				}
				begin := time.Now()
				var wg sync.WaitGroup
				for i := range senders {
					wg.Go(func() {
						for range messages / senders {
							if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil {
								t.Errorf("sender %d: %v", i, err)
								return
							}
						}
					})
				}
				wg.Wait()
				took := time.Since(begin)
				best := time.Duration((messages-1)/30) * per // a full window at once, then the next
				speed := float64(best) / float64(took)
				t.Logf("%d messages in %v, %.1f %% of the allowed speed, %d connections", len(s.taken), took, 100*speed, s.most)
				if s.tooMany > 0 || s.overTheRate > 0 || len(s.taken) != messages {
					t.Errorf("%d taken, %d × 432, %d over the rate", len(s.taken), s.tooMany, s.overTheRate)
				}
				if speed < 0.9 {
					t.Errorf("%v where %v would do", took, best)
				}
				tenant.Pool.Close()
			})
		})
	}
}

// TestLimiterWindow: whenever a server counts a message between its reservation
// and its end, no window has too many.
func TestLimiterWindow(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{1, 7, 30} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const per = 10 * time.Second
				l := &Limiter{Rate: rate, Per: per}
				random := rand.New(rand.NewPCG(1, uint64(rate)))
				var mu sync.Mutex
				var counted []time.Time
				var wg sync.WaitGroup
				for range 20 * rate {
					before, after := time.Duration(random.IntN(9000))*time.Millisecond, time.Duration(random.IntN(3000))*time.Millisecond
					wg.Go(func() {
						r, e := l.Reserve(t.Context(), 1)
						if e != nil {
							t.Error(e)
							return
						}
						time.Sleep(before)
						mu.Lock()
						counted = append(counted, time.Now())
						mu.Unlock()
						time.Sleep(after)
						r.Done(Receipt{Status: StatusSent}, nil)
					})
				}
				wg.Wait()
				slices.SortFunc(counted, time.Time.Compare)
				for i := rate; i < len(counted); i++ {
					if d := counted[i].Sub(counted[i-rate]); d < per {
						t.Fatalf("message %d: %d more within %v", i, rate, d)
					}
				}
				if len(counted) != 20*rate {
					t.Errorf("%d messages", len(counted))
				}
			})
		})
	}
}

var taken = Receipt{Status: StatusSent}

// reserve fails the test unless there is a turn at once.
func reserve(t *testing.T, l *Limiter, recipients int) *Reservation {
	t.Helper()
	begin := time.Now()
	r, e := l.Reserve(t.Context(), recipients)
	if e != nil || time.Since(begin) > 0 {
		t.Fatalf("after %v: %v", time.Since(begin), e)
	}
	return r
}

// refused fails the test unless there is no turn within wait, and that is said
// at once.
func refused(t *testing.T, l *Limiter, recipients int, wait time.Duration, code string, retry time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	begin := time.Now()
	_, e := l.Reserve(ctx, recipients)
	if e == nil || e.Stage != StageLimit || e.Kind != KindThrottled || e.Code != code || e.Err == nil || time.Since(begin) > 0 {
		t.Fatalf("after %v: %v", time.Since(begin), e)
	}
	if e.RetryAfter != retry {
		t.Fatalf("again after %v, want %v", e.RetryAfter, retry)
	}
}

func TestLimiterWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{Rate: 2, Per: time.Minute}
		reserve(t, l, 1).Done(taken, nil)
		time.Sleep(10 * time.Second)
		second := reserve(t, l, 1)
		refused(t, l, 1, 50*time.Second, codeRate, 50*time.Second)
		begin := time.Now()
		var mu sync.Mutex
		var order []int
		var at []time.Duration
		var wg sync.WaitGroup
		wait := func(i int) {
			wg.Go(func() {
				r, e := l.Reserve(t.Context(), 1)
				if e != nil {
					t.Error(e)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				order, at = append(order, i), append(at, time.Since(begin))
				r.Done(taken, nil)
			})
			synctest.Wait()
		}
		for i := range 4 {
			wait(i)
		}
		// 50 s for the first of them; the second waits for what is in flight, the
		// third for the first, the fourth for the second.
		refused(t, l, 1, 100*time.Second, codeRate, 170*time.Second)
		// Somebody who goes away leaves no gap.
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		wg.Go(func() {
			if _, e := l.Reserve(ctx, 1); e == nil || !errors.Is(e, gone) || e.Stage != StageLimit {
				t.Errorf("%v", e)
			}
		})
		synctest.Wait()
		wait(4)
		cancel(gone)
		time.Sleep(5 * time.Second)
		second.Done(taken, nil)
		wg.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
			t.Errorf("order %v", order)
		}
		want := []time.Duration{50 * time.Second, 65 * time.Second, 110 * time.Second, 125 * time.Second, 170 * time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("turns at %v, want %v", at, want)
		}
	})
}

// TestLimiterGivesBack: what was not sent does not count, what may have been
// sent does.
func TestLimiterGivesBack(t *testing.T) {
	t.Parallel()
	partly := Receipt{Status: StatusSent, Recipients: []RecipientOutcome{{}, {Kind: KindRejected}, {}}}
	for _, tt := range []struct {
		name     string
		got      Receipt
		err      error
		messages int
		sent     int
	}{
		{"sent", taken, nil, 1, 3},
		{"sent to some", partly, nil, 1, 2},
		{"refused", Receipt{}, &Error{Kind: KindRejected}, 0, 0},
		{"unreachable", Receipt{}, errors.New("no"), 0, 0},
		{"unknown", Receipt{}, &Error{Kind: KindUnknown}, 1, 3},
		{"panicked", Receipt{}, nil, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &Limiter{Rate: 1, RecipientsPerDay: 10}
				r := reserve(t, l, 3)
				refused(t, l, 1, time.Second, codeRate, time.Minute)
				refused(t, l, 8, time.Second, codeRecipients, 24*time.Hour)
				r.Done(tt.got, tt.err)
				r.Done(tt.got, tt.err) // once is enough
				if l.inFlight != 0 || l.day.inFlight != 0 || l.window.ends.len != tt.messages || l.day.sent != tt.sent {
					t.Errorf("in flight %d and %d, in the window %d, in the day %d", l.inFlight, l.day.inFlight, l.window.ends.len, l.day.sent)
				}
			})
		})
	}
}

func TestLimiterDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{RecipientsPerDay: 100_000}
		begin := time.Now()
		for range 40 { // 39 h
			for range 25 {
				reserve(t, l, 100).Done(taken, nil)
			}
			time.Sleep(59 * time.Minute)
		}
		for range 20_000 {
			reserve(t, l, 1).Done(taken, nil)
			time.Sleep(time.Second)
		}
		if n := len(l.day.parts.items); n > 4096 {
			t.Errorf("remembers %d parts", n)
		}
		if time.Since(begin) < 40*time.Hour {
			t.Error("too short a test")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{RecipientsPerDay: 10}
		reserve(t, l, 6).Done(taken, nil)
		time.Sleep(90 * time.Minute)
		reserve(t, l, 3).Done(taken, nil)
		reserve(t, l, 1) // in flight
		refused(t, l, 1, time.Hour, codeRecipients, 22*time.Hour+31*time.Minute)
		refused(t, l, 7, time.Hour, codeRecipients, 24*time.Hour+time.Minute)
		if _, e := l.Reserve(t.Context(), 11); e == nil || e.Kind != KindInvalid || e.Field != "to" {
			t.Errorf("11 recipients: %v", e)
		}
		time.Sleep(22*time.Hour + 31*time.Minute)
		reserve(t, l, 6)
		refused(t, l, 1, time.Hour, codeRecipients, 2*time.Hour-31*time.Minute+time.Minute)
	})
}

// TestLimiterLargeWindow: a window of very many is cut, so that memory stays
// bounded and the limit holds.
func TestLimiterLargeWindow(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rate   int
		most   int
		length time.Duration
	}{
		{30, 30, time.Minute},
		{10_000, 10_000, time.Minute},
		{10_001, 5000, 30 * time.Second},
		{25_000, 8333, 20 * time.Second},
	} {
		if w := newWindow(tt.rate, time.Minute); w.most != tt.most || w.length != tt.length {
			t.Errorf("%d: %d in %v", tt.rate, w.most, w.length)
		}
	}
}

// TestLimiterCostsNothing: who has no limits pays nothing.
func TestLimiterCostsNothing(t *testing.T) {
	for _, l := range []*Limiter{nil, new(Limiter)} {
		ctx := t.Context()
		if n := testing.AllocsPerRun(100, func() {
			r, _ := l.Reserve(ctx, 1)
			r.Done(taken, nil)
		}); n > 0 {
			t.Errorf("%v allocations", n)
		}
	}
	l := new(Limiter)
	l.mu.Lock() // and takes no lock
	defer l.mu.Unlock()
	r, _ := l.Reserve(t.Context(), 1)
	r.Done(taken, nil)
}

func BenchmarkLimiter(b *testing.B) {
	for _, l := range []*Limiter{{}, {Rate: 10_000, Per: time.Microsecond, RecipientsPerDay: 1 << 60}} {
		b.Run(fmt.Sprintf("rate=%d", l.Rate), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, _ := l.Reserve(b.Context(), 1)
				r.Done(taken, nil)
			}
		})
	}
}

func contextWithin(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}

// deadOnArrival is a context that waits for nothing.
func deadOnArrival(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	t.Cleanup(cancel)
	return ctx
}

// TestLimiterSet: other limits forget nothing that was counted.
func TestLimiterSet(t *testing.T) {
	t.Parallel()
	t.Run("rate", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := &Limiter{Rate: 3, Per: time.Minute}
			under := reserve(t, l, 1)
			reserve(t, l, 1).Done(taken, nil)
			time.Sleep(10 * time.Second)
			reserve(t, l, 1).Done(taken, nil)
			l.Set(4, time.Minute, 0, 0)
			if n := atOnce(t, l); n != 1 {
				t.Errorf("%d more of four", n)
			}
			l.Set(2, time.Minute, 0, 0) // there are three
			under.Done(taken, nil)
			refused(t, l, 1, time.Second, codeRate, time.Minute)
			l.Set(2, 30*time.Second, 0, 0)
			refused(t, l, 1, time.Second, codeRate, 30*time.Second)
			time.Sleep(30 * time.Second)
			l.Set(2, 5*time.Minute, 0, 0) // these have left
			if n := atOnce(t, l); n != 2 {
				t.Errorf("%d of two", n)
			}
			l.Set(0, 0, 0, 0)
			if n := atOnce(t, l); n != 100 || !l.eased.Load() {
				t.Errorf("%d of any number", n)
			}
			l.Set(1, time.Second, 0, 0)
			if n := atOnce(t, l); n != 1 {
				t.Errorf("%d of one", n)
			}
		})
	})
	t.Run("day", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := &Limiter{RecipientsPerDay: 10}
			reserve(t, l, 6).Done(taken, nil)
			under := reserve(t, l, 2)
			l.Set(0, 0, 9, 0)
			refused(t, l, 2, time.Second, codeRecipients, 24*time.Hour+time.Minute)
			under.Done(Receipt{}, &Error{Kind: KindTemporary})
			reserve(t, l, 3).Done(taken, nil)
			if e := l.Held(); e == nil || e.Code != codeRecipients {
				t.Errorf("%v", e)
			}
			l.Set(0, 0, 20, 0)
			reserve(t, l, 11).Done(taken, nil)
		})
	})
	t.Run("pause", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := &Limiter{Connections: 4}
			reserve(t, l, 1).Done(Receipt{}, slowDown(432, time.Hour))
			l.Set(0, 0, 0, 2)
			refused(t, l, 1, time.Second, codePaused, time.Hour)
			if l.trouble.connections != 2 || l.trouble.most != 2 {
				t.Errorf("%+v", l.trouble)
			}
			l.Set(0, 0, 0, 8)
			if l.trouble.connections != 2 || l.trouble.most != 8 {
				t.Errorf("%+v", l.trouble)
			}
		})
	})
	t.Run("who waits", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			l := &Limiter{Rate: 1, Per: time.Hour}
			reserve(t, l, 1).Done(taken, nil)
			begin := time.Now()
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if _, e := l.Reserve(t.Context(), 1); e != nil || time.Since(begin) != time.Minute {
						t.Errorf("%v after %v", e, time.Since(begin))
					}
				})
			}
			time.Sleep(time.Minute)
			l.Set(3, time.Hour, 0, 0)
			wg.Wait()
			wg.Go(func() {
				ctx, cancel := contextWithin(t, 2*time.Hour)
				defer cancel()
				if _, e := l.Reserve(ctx, 1); e == nil || e.Code != codeRate || time.Since(begin) != 2*time.Minute {
					t.Errorf("%v after %v", e, time.Since(begin))
				}
			})
			time.Sleep(time.Minute)
			l.Set(3, 12*time.Hour, 0, 0)
			wg.Wait()
		})
	})
}
