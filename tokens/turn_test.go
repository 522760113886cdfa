package tokens

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// Which tokens are kept fresh when nobody uses them, or did a while ago.
func TestPolicy(t *testing.T) {
	t.Parallel()
	const week = 7
	for name, test := range map[string]struct {
		policy     Policy
		many       bool
		unattended bool
		used       bool // once, at the start
		days       int
		least      int
		most       int
	}{
		"few, unused":               {days: 2, least: 48, most: 72},
		"many, unused":              {many: true, days: 2, most: 0},
		"many, unused for a week":   {many: true, days: week, least: 1, most: 1},
		"many, used":                {many: true, used: true, days: 2, least: 24, most: 40},
		"few, on use, unused":       {policy: PolicyOnUse, days: 2, most: 0},
		"few, on use, used":         {policy: PolicyOnUse, used: true, days: 2, least: 24, most: 40},
		"few, unattended":           {unattended: true, days: 2, least: 24, most: 40},
		"many, unattended":          {unattended: true, many: true, days: 2, most: 0},
		"many, unattended and used": {unattended: true, many: true, used: true, days: 2, least: 24, most: 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				p := f.provider()
				if test.unattended {
					p.Grant = GrantClientCredentials
				}
				f.client = NewClient(p, f.server)
				f.authorized()
				s := f.source()
				if test.used {
					f.mustToken(s)
				}
				if test.unattended { // the server knows no such grant
					for range 500 {
						f.server.Next(tokenstest.Status(200, `{"access_token":"a","expires_in":3600}`))
					}
				}
				sources := []*Source{s}
				if test.many {
					sources = append(sources, f.nobodies(manyAccounts)...)
				}
				cancel, done := f.refresher(&Refresher{Sources: sources, Store: f.store, Policy: test.policy})
				time.Sleep(time.Duration(test.days) * 24 * time.Hour)
				cancel()
				<-done
				if n := f.posts(); n < test.least || n > test.most {
					t.Errorf("%d refreshes in %d days, want %d to %d", n, test.days, test.least, test.most)
				}
				if test.many != (s.cell.newest == nil) {
					t.Errorf("record in memory: %v", s.cell.newest != nil)
				}
				if !test.unattended {
					f.mustToken(s)
				}
			})
		})
	}
}

// What is not stored is never dropped.
func TestUnsavedIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = 24 * time.Hour
		f.expired()
		s := f.source()
		f.storage.Fail(tokenstest.OpStore, -1, nil)
		first := f.mustToken(s)
		stop := f.run(append(f.nobodies(manyAccounts), s)...)
		defer stop()
		time.Sleep(3 * time.Hour)
		s.cell.mu.Lock()
		kept := s.cell.newest != nil
		s.cell.mu.Unlock()
		if !kept || f.mustToken(s) != first {
			t.Error("the only copy of a token was dropped")
		}
	})
}

// However many accounts wait for a person, the storage is asked 200 times a
// second at most; and who signs in here needs not wait for that.
func TestManyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		var sources []*Source
		for i := range 3000 {
			f.account.User = fmt.Sprintf("user-%d@example.com", i)
			sources = append(sources, f.source())
		}
		stop := f.run(sources...)
		time.Sleep(10 * time.Second) // all are known
		before := f.storage.Count(tokenstest.OpLoad)
		time.Sleep(time.Minute)
		if n := f.storage.Count(tokenstest.OpLoad) - before; n < 3000 || n > 200*60 {
			t.Errorf("%d loads in a minute", n)
		}
		f.server.Life = time.Minute
		sources[len(sources)-1].Adopt(f.authorized())
		f.mustToken(sources[len(sources)-1])
		time.Sleep(40 * time.Second)
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want the new account's", n)
		}
		stop()
	})
}

// The records are looked at in small steps, and a send waits for none of that.
func TestStartOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		var sources []*Source
		for i := range 5000 {
			f.account.User = fmt.Sprintf("user-%d@example.com", i)
			f.expired()
			sources = append(sources, f.source())
		}
		began, loads := time.Now(), f.storage.Count(tokenstest.OpLoad)
		stop := f.run(sources...)
		f.mustToken(sources[4321])
		if took := time.Since(began); took > 0 {
			t.Errorf("a send waited %v", took)
		}
		time.Sleep(time.Second)
		if n := f.storage.Count(tokenstest.OpLoad) - loads; n < 1000 || n > 2500 {
			t.Errorf("%d loads in the first second", n)
		}
		time.Sleep(9 * time.Second)
		stop()
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want the one that somebody waits for", n)
		}
	})
}

// All are due at once: the provider sees no more than its rate.
func TestManyDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		var sources []*Source
		for i := range 600 {
			f.account.User = fmt.Sprintf("user-%d@example.com", i)
			f.expired()
			sources = append(sources, f.source())
		}
		stop := f.run(sources...)
		defer stop()
		for range 30 {
			before := f.posts()
			time.Sleep(time.Second)
			if n := f.posts() - before; n < 9 || n > 11 {
				t.Errorf("%d refreshes in a second, want 10", n)
			}
		}
		began := time.Now()
		f.mustToken(sources[599])
		if took := time.Since(began); took > 0 {
			t.Errorf("a send waited %v behind the background", took)
		}
		time.Sleep(time.Minute)
		if n := f.server.Reused(); n != 0 || f.posts() != 600 {
			t.Errorf("%d posts, %d presented twice", f.posts(), n)
		}
	})
}

// The clock jumps while tokens are in memory: no mass refresh, no early one.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		by    time.Duration
		posts int // within a minute, of 100 accounts
	}{
		"a little":    {30 * time.Second, 0},
		"ahead":       {25 * time.Minute, 0},
		"a day ahead": {24 * time.Hour, 11 * 10}, // all have ended; paced
		"back":        {-30 * time.Second, 0},
		"a day back":  {-24 * time.Hour, 11 * 10}, // when they end isn't known
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				var by atomic.Int64
				clock := func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
				var sources []*Source
				for i := range 100 {
					f.account.User = fmt.Sprintf("user-%d@example.com", i)
					f.authorized()
					s := f.source()
					s.opts.Now = clock
					f.mustToken(s)
					sources = append(sources, s)
				}
				stop, done := f.refresher(&Refresher{Sources: sources, Store: f.store, Now: clock, Logger: f.logger})
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				by.Store(int64(test.by))
				loads := f.storage.Count(tokenstest.OpLoad)
				busiest := 0
				for range 60 {
					before := f.posts()
					time.Sleep(time.Second)
					synctest.Wait()
					busiest = max(busiest, f.posts()-before)
				}
				if n := f.posts(); n > test.posts || test.posts > 0 && n < 100 {
					t.Errorf("%d posts", n)
				}
				if busiest > 11 {
					t.Errorf("%d posts in one second", busiest)
				}
				if n := f.storage.Count(tokenstest.OpLoad) - loads; n > 100*(2+4*min(test.posts, 1)) {
					t.Errorf("%d loads in a minute", n)
				}
				for _, s := range sources {
					f.mustToken(s)
				}
				stop()
				<-done
			})
		})
	}
}

// After a jump back, what was planned before it is not put off by it.
func TestClockJumpsBackReplans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = time.Minute
		f.authorized()
		var by atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
		s := f.source()
		s.opts.Now = clock
		stop, done := f.refresher(&Refresher{Sources: []*Source{s}, Store: f.store, Now: clock})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		by.Store(-int64(2 * time.Hour))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts after the jump, want 1", n)
		}
		stop()
		<-done
	})
}

// That a person must sign in is told once, and each day again.
func TestReminder(t *testing.T) {
	t.Parallel()
	for name, many := range map[string]int{"few": 0, "many": manyAccounts} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.expired()
				f.server.End(f.account.User)
				s := f.source()
				f.mustFail(s, KindNeedsPerson)
				others := f.nobodies(many)
				stop := f.run(append(others, s)...)
				for day := range 2 {
					if n := f.count("needs authorization"); n != 1+day {
						t.Errorf("told %d times on day %d", n, day)
					}
					time.Sleep(24 * time.Hour)
					synctest.Wait()
				}
				stop()
				// A restart tells nothing twice.
				time.Sleep(time.Hour)
				stop = f.run(append(f.nobodies(many), f.source())...)
				time.Sleep(time.Hour)
				if n := f.count("needs authorization"); n != 3 {
					t.Errorf("told %d times with a restart", n)
				}
				stop()
				if n := f.posts(); n != 1 {
					t.Errorf("%d posts of a dead refresh token", n)
				}
				if many > 0 && s.cell.newest != nil {
					t.Error("the dead record is in memory")
				}
			})
		})
	}
}

// TestUnauthorized: an account that waits for a person when the refresher begins is
// told once.
func TestUnauthorized(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before func(f *fixture)
		after  func(f *fixture, s *Source)
		// want is how often it is told, and reloaded how often with a reload.
		want, reloaded int
	}{
		"nobody has signed in": {want: 1, reloaded: 2},
		"the grant has ended": {before: func(f *fixture) {
			f.expired()
			f.server.End(f.account.User)
			f.mustFail(f.source(), KindNeedsPerson)
		}, want: 1, reloaded: 2},
		"signed in at another provider": {before: func(f *fixture) {
			moved := *f.authorized()
			moved.Registration = "another"
			f.save(&moved)
		}, want: 1, reloaded: 2},
		"the storage was away": {before: func(f *fixture) {
			f.storage.Fail(tokenstest.OpLoad, 3, errors.New("away"))
		}, want: 1, reloaded: 2},
		"signed in": {before: func(f *fixture) { f.authorized() }},
		"disconnected later": {before: func(f *fixture) { f.authorized() }, after: func(f *fixture, s *Source) {
			if _, err := s.Disconnect(f.t.Context()); err != nil {
				f.t.Error(err)
			}
		}, reloaded: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				if test.before != nil {
					test.before(f)
				}
				cell := &Cell{}
				run := func() {
					t.Helper()
					s := f.sourceOf(cell, f.client)
					cancel, done := f.refresher(&Refresher{Sources: []*Source{s}, Store: f.store, Unauthorized: func(a Account) {
						if a != f.account {
							t.Errorf("told of %v", a)
						}
						f.note("unauthorized")
					}})
					time.Sleep(time.Minute)
					if test.after != nil {
						test.after(f, s)
					}
					time.Sleep(20 * time.Minute)
					cancel()
					<-done
				}
				run()
				if n := f.count("unauthorized"); n != test.want {
					t.Errorf("told %d times", n)
				}
				test.after = nil
				run()
				if n := f.count("unauthorized"); n != test.reloaded {
					t.Errorf("told %d times with a reload", n)
				}
			})
		})
	}
}

// A recovery is told once.
func TestRecovered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		stop := f.run(s)
		defer stop()
		time.Sleep(2 * time.Hour)
		if n := f.count("recovered"); n != 0 {
			t.Errorf("recovered %d times from nothing", n)
		}
		for range 3 {
			f.server.Next(tokenstest.Status(500, ""))
		}
		time.Sleep(6 * time.Hour)
		if n := f.count("recovered"); n != 1 || f.count("refreshed") < 7 {
			t.Errorf("recovered %d times, refreshed %d times", n, f.count("refreshed"))
		}
	})
}

// idle returns a duty that looks after accounts that have been looked at and are
// not in use. Their work is done in no time.
func idle(n int, now time.Time, k upkeep) *duty {
	r := &Refresher{Policy: PolicyAuto}
	client := NewClient(Provider{Name: "lab", TokenEndpoint: "https://idp.example.net/token"}, tokenstest.NewServer())
	store := NewStore(tokenstest.NewStorage(), nil)
	for i := range n {
		a := Account{Provider: "lab", User: fmt.Sprintf("user-%d@example.com", i)}
		r.Sources = append(r.Sources, NewSource(a, client, store, &Cell{}, nil))
	}
	r.Now = func() time.Time { return now }
	d := r.duty(nil) //nolint:staticcheck // nothing is run
	d.upkeep.Store(&k)
	for i, s := range r.Sources {
		s.cell.publish(&Token{
			Account: s.account, IssuedAt: now.Add(-time.Duration(i) * (5 * 24 * time.Hour / time.Duration(n))), Expiry: now.Add(time.Minute),
			AccessToken: NewSecret("access"), RefreshToken: NewSecret("refresh"),
		}, true)
		at, _, _ := s.turn(now, d.upkeep.Load())
		d.plan.put(s, at)
	}
	return d
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What an idle account costs in memory: source, cell and plan together.
func TestIdleMemory(t *testing.T) { //nolint:paralleltest // it measures the heap
	const n = 100_000
	now := time.Now()
	before := heap()
	d := idle(n, now, PolicyAuto.of(n, now))
	each := (heap() - before) / n
	t.Logf("%d bytes an account", each)
	if each > 500 {
		t.Errorf("%d bytes an account, want at most 500", each)
	}
	for _, s := range *d.sources.Load() {
		if s.cell.newest != nil {
			t.Fatal("a record is in memory")
		}
	}
	runtime.KeepAlive(d)
}

// The plan costs at most 200 bytes an account, and no goroutine.
func TestPlanMemory(t *testing.T) { //nolint:paralleltest // it measures the heap
	const n = 100_000
	sources := make([]Source, n)
	goroutines, before := runtime.NumGoroutine(), heap()
	p := newPlan(0)
	for i := range sources {
		p.put(&sources[i], int64(i))
	}
	if each := (heap() - before) / n; each > 100 {
		t.Errorf("%d bytes an account", each)
	}
	if more := runtime.NumGoroutine() - goroutines; more > 0 {
		t.Errorf("%d goroutines", more)
	}
	runtime.KeepAlive(p)
}

// What looking after 100,000 idle accounts costs in a second: 1 ms would be 0.1 %
// of a core.
func BenchmarkIdlePlan(b *testing.B) {
	const n = 100_000
	now := time.Now()
	before := heap()
	d := idle(n, now, PolicyAuto.of(n, now))
	b.ReportMetric(float64(heap()-before)/n, "B/account")
	turns := 0
	d.hand = func(s *Source, _ errand) {
		turns++
		s.cell.mu.Lock()
		s.cell.rest = now.Add(keepAlive).UnixNano()
		s.cell.mu.Unlock()
		d.plan.put(s, s.cell.rest)
	}
	d.step(now, now)
	b.ResetTimer()
	for b.Loop() { // a second each, stepped as often as Run does at least
		now = now.Add(time.Second)
		d.step(now, now)
	}
	b.ReportMetric(float64(turns)/float64(b.N), "turns/op")
}

// Access tokens that live on for months keep no refresh token alive, and are no
// reason to look at them without end.
func TestKeepAliveOfLongLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = 60 * 24 * time.Hour
		first := *f.authorized()
		first.IssuedAt = first.IssuedAt.Add(-keepAlive + time.Hour)
		f.save(&first)
		s := f.source()
		cancel, done := f.refresher(&Refresher{Sources: []*Source{s}, Store: f.store, Policy: PolicyOnUse})
		time.Sleep(2 * time.Hour)
		if f.stored().RefreshToken.Reveal() == first.RefreshToken.Reveal() || f.posts() != 1 {
			t.Errorf("%d posts in the week's last hour and the one after", f.posts())
		}
		before := f.storage.Count(tokenstest.OpLoad)
		time.Sleep(time.Hour)
		if n := f.storage.Count(tokenstest.OpLoad) - before; n > 120 {
			t.Errorf("%d loads in an hour", n)
		}
		cancel()
		<-done
	})
}
