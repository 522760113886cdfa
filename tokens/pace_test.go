package tokens

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func newPacer(rate float64) *pacer {
	p := &pacer{}
	p.setRate(rate)
	return p
}

// pass makes background refreshes that take a time each for as long as told,
// and returns when they began.
func pass(t *testing.T, p *pacer, hands int, each, during time.Duration) []time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), during)
	defer cancel()
	var mu sync.Mutex
	var began []time.Time
	var wg sync.WaitGroup
	for range hands {
		wg.Go(func() {
			for {
				turn, err := p.background(ctx)
				if err != nil {
					return
				}
				mu.Lock()
				began = append(began, time.Now())
				mu.Unlock()
				time.Sleep(each)
				turn.spent = true
				turn.release()
			}
		})
	}
	wg.Wait()
	return began
}

// busiest is the most of the times that fall into one second.
func busiest(times []time.Time) int {
	most := 0
	for i := range times {
		n := i
		for n < len(times) && times[n].Sub(times[i]) < time.Second {
			n++
		}
		most = max(most, n-i)
	}
	return most
}

func TestPacerRate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rate          float64
		least, busies int
	}{
		"default": {0, 590, 11},
		"slow":    {0.5, 29, 1},
		"fast":    {100, 5900, 110},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := pass(t, newPacer(test.rate), 8, 10*time.Millisecond, time.Minute)
				if n := len(began); n < test.least {
					t.Errorf("%d in a minute, want %d", n, test.least)
				}
				if n := busiest(began); n > test.busies {
					t.Errorf("%d in one second, want at most %d", n, test.busies)
				}
			})
		})
	}
}

func TestPacerParallel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := pass(t, newPacer(-1), 20, time.Second, 10500*time.Millisecond)
		if n := len(began); n != 11*paceParallel {
			t.Errorf("%d of a second each in 10.5 seconds, want %d", n, 11*paceParallel)
		}
	})
}

// Refreshes on demand pass the background, are paid back by it, and are not
// without limit.
func TestPacerOnDemand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(10)
		done := make(chan []time.Time)
		go func() { done <- pass(t, p, 8, 0, 20*time.Second) }()
		time.Sleep(5*time.Second + 50*time.Millisecond)
		var longest time.Duration
		for range 30 {
			wait, err := p.onDemand()
			if err != nil {
				t.Fatal(err)
			}
			longest = max(longest, wait)
		}
		if longest < time.Second || longest > 2100*time.Millisecond {
			t.Errorf("the last of 30 at once waits %v, want about two seconds", longest)
		}
		if wait, _ := newPacer(10).onDemand(); wait != 0 {
			t.Errorf("a single one waits %v", wait)
		}
		background := <-done
		if n := len(background) + 30; n > 210 {
			t.Errorf("%d in all in 20 seconds, want at most 200", n)
		}
		p = newPacer(1)
		var err error
		for range 100 {
			if _, e := p.onDemand(); e != nil {
				err = e
			}
		}
		if !errors.Is(err, errCrowded) {
			t.Errorf("100 at once: %v, want errCrowded", err)
		}
	})
}

func TestPacerComplaints(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(10)
		for range 4 {
			p.complain(0) // of one moment
		}
		if n := len(pass(t, p, 4, 0, 10*time.Second)); n < 45 || n > 60 {
			t.Errorf("%d in the ten seconds after a complaint, want about 50", n)
		}
		for range 10 {
			time.Sleep(paceComplaints)
			p.complain(0)
		}
		if rate := p.perSecond(); rate != 10*paceFloor {
			t.Errorf("rate %v after many complaints, want the floor", rate)
		}
		time.Sleep(paceRecovery / 2)
		if n := len(pass(t, p, 4, 0, 10*time.Second)); n < 50 || n > 70 {
			t.Errorf("%d in ten seconds halfway through the recovery", n)
		}
		time.Sleep(paceRecovery)
		if n := len(pass(t, p, 4, 0, 10*time.Second)); n < 95 {
			t.Errorf("%d in ten seconds after the recovery", n)
		}
		p.complain(time.Minute)
		began := pass(t, p, 4, 0, time.Minute+time.Second)
		if len(began) == 0 || time.Since(began[0]) > time.Second {
			t.Errorf("%d within the Retry-After", len(began))
		}
		p.complain(time.Minute)
		if wait, err := p.onDemand(); wait != 0 || err != nil {
			t.Errorf("on demand within the Retry-After: %v, %v", wait, err)
		}
	})
}

// What was not made after all does not count.
func TestPermitUnspent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, began := newPacer(1), time.Now()
		for range 100 {
			turn, err := p.background(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			turn.release()
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("waited %v for nothing", took)
		}
	})
}

func TestPacersAreByHost(t *testing.T) {
	t.Parallel()
	var all pacers
	a := all.of(&Provider{Name: "a", TokenEndpoint: "https://idp.example.net/a/token", RefreshRate: 3})
	if b := all.of(&Provider{Name: "b", TokenEndpoint: "https://idp.example.net/b/token"}); a != b {
		t.Error("two pacers for one host")
	}
	if c := all.of(&Provider{Name: "a", TokenEndpoint: "https://idp.example.org/a/token"}); a == c {
		t.Error("one pacer for two hosts")
	}
	if d := all.of(&Provider{Name: "d", Issuer: "https://idp.example.net"}); a != d {
		t.Error("an issuer's host is another one")
	}
	if rate := a.perSecond(); rate != 3 {
		t.Errorf("rate %v, want 3", rate)
	}
}

// One answer must not hold a host's accounts back for a day.
func TestComplaintEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pacer{}
		p.setRate(1)
		p.complain(24 * time.Hour)
		time.Sleep(failurePauseMax - time.Second)
		if wait, _ := p.tryBackground(time.Now()); wait <= 0 {
			t.Error("the Retry-After is not kept to")
		}
		time.Sleep(2 * time.Second)
		if wait, _ := p.tryBackground(time.Now()); wait != 0 {
			t.Errorf("still to wait %v", wait)
		}
	})
}
