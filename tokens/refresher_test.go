package tokens

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// Access tokens of a minute, and nobody sends for five: the token in memory is
// valid all the same, and refresh tokens have rotated.
func TestTokensOfAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = time.Minute
		first := f.authorized()
		s := f.source()
		f.mustToken(s)
		stop := f.run(s)
		for range 10 {
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			loads := f.storage.Count(tokenstest.OpLoad)
			f.mustToken(s)
			if f.storage.Count(tokenstest.OpLoad) != loads {
				t.Error("the token did not come from memory")
			}
		}
		stop()
		now := f.stored()
		if now.RefreshToken.Reveal() == first.RefreshToken.Reveal() {
			t.Error("the refresh token is still the first one")
		}
		f.presentedOnce()
		if n := f.posts(); n < 70 || n > 140 {
			t.Errorf("%d refreshes in 50 minutes", n)
		}
	})
}

// For any life, a token in hand is valid at any moment, with a margin.
func TestNeverNearItsEnd(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{time.Minute, 4 * time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour} {
		t.Run(life.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.server.Life = life
				f.authorized()
				s := f.source()
				stop := f.run(s)
				synctest.Wait()
				for range 150 {
					f.mustToken(s)
					token := s.cell.token.Load()
					if left := time.Until(token.Expiry); left < min(time.Minute, life/10) {
						t.Fatalf("handed out with %v left", left)
					}
					time.Sleep(life / 37)
				}
				stop()
				if n, want := f.posts(), int(150*(life/37)/life); n < want || n > 4*want {
					t.Errorf("%d refreshes in %d lives", n, want)
				}
			})
		})
	}
}

func TestSignInAtAnotherInstance(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*fixture, *Source){
		"nobody had signed in": func(*fixture, *Source) {},
		"the grant had ended": func(f *fixture, s *Source) {
			f.authorized()
			f.server.End(f.account.User)
			_ = s.Refresh(f.t.Context()) // long before it is due
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				s := f.source()
				prepare(f, s)
				stop := f.run(s)
				defer stop()
				before := f.storage.Count(tokenstest.OpLoad)
				time.Sleep(10 * time.Minute)
				f.mustFail(s, KindNeedsPerson)
				if n := f.storage.Count(tokenstest.OpLoad) - before; n > 130 {
					t.Errorf("%d loads in ten minutes of waiting", n)
				}
				f.authorized()
				time.Sleep(2 * refreshTick)
				synctest.Wait()
				loads := f.storage.Count(tokenstest.OpLoad)
				f.mustToken(s)
				if f.storage.Count(tokenstest.OpLoad) != loads {
					t.Error("the refresher had not noticed the sign-in")
				}
			})
		})
	}
}

// Without a refresher a send notices it, too.
func TestSignInIsNoticedOnDemand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		s := f.source()
		for range 100 {
			f.mustFail(s, KindNeedsPerson)
		}
		if n := f.storage.Count(tokenstest.OpLoad); n != 1 {
			t.Errorf("%d loads, want 1", n)
		}
		f.authorized()
		time.Sleep(personPause)
		f.mustToken(s)
	})
}

func TestClockSteps(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		issued time.Duration // relative to this clock, by the one of the issuer
		posts  int
	}{
		"same clock":                {0, 0},
		"issuer a little ahead":     {30 * time.Second, 0},
		"issuer an hour ahead":      {time.Hour, 1},
		"this clock was set back":   {24 * time.Hour, 1},
		"this clock was set ahead":  {-time.Hour, 1},
		"this clock slept for days": {-72 * time.Hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				token := *f.authorized()
				token.IssuedAt = token.IssuedAt.Add(test.issued)
				token.Expiry = token.IssuedAt.Add(time.Hour)
				f.save(&token)
				s := f.source()
				stop := f.run(s)
				time.Sleep(10 * time.Minute)
				stop()
				if n := f.posts(); n != test.posts {
					t.Errorf("%d posts, want %d", n, test.posts)
				}
				f.mustToken(s)
			})
		})
	}
}

// A clock that is set back while a token is in memory makes its end unknown.
func TestClockSetBackUnderway(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.authorized()
	s := f.source()
	f.mustToken(s)
	keep := &upkeep{}
	if at, _, _ := s.turn(s.now(), keep); at == 0 {
		t.Error("a fresh token is due at once")
	}
	s.opts.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	if at, _, _ := s.turn(s.now(), keep); at != 0 {
		t.Errorf("due at %v, want at once", time.Unix(0, at))
	}
	if !s.cell.token.Load().usable(s.now()) {
		t.Error("the token is not used meanwhile")
	}
}

// Over a suspend the monotonic clock stands still, and the provider's does not.
func TestExpiryIsWallTime(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.expired()
	s := f.source()
	f.mustToken(s)
	token := s.cell.token.Load()
	for _, at := range []time.Time{token.IssuedAt, token.Expiry} {
		if at != at.Round(0) {
			t.Errorf("%v has a monotonic part", at)
		}
	}
	s.opts.Now = func() time.Time { return time.Now().Round(0).Add(2 * time.Hour) }
	if token.usable(s.now()) {
		t.Error("a token is usable after a suspend that outlasted it")
	}
}

// A provider that hangs does not keep others' accounts waiting.
func TestProvidersDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		var hanging []*Source
		for _, user := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			g := setUp(t)
			g.account = Account{Provider: "slow", User: user + "@example.com"}
			g.expired()
			for range 1000 {
				g.server.Next(tokenstest.Hang())
			}
			hanging = append(hanging, g.source())
		}
		f.server.Life = time.Minute
		f.authorized()
		s := f.source()
		stop := f.run(append(hanging, s)...)
		for range 60 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if !s.cell.token.Load().usable(time.Now()) {
				t.Fatal("no usable token in memory")
			}
		}
		stop()
	})
}

func TestRefresherStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		ctx, cancel := context.WithCancel(t.Context())
		stopped := false
		go func() {
			(&Refresher{Sources: []*Source{f.source()}}).Run(ctx)
			stopped = true
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if stopped {
			t.Error("Run returned with a refresh under way")
		}
		close(gate)
		synctest.Wait()
		if !stopped || f.stored().Generation != old.Generation+1 {
			t.Errorf("stopped %v, generation %d is stored", stopped, f.stored().Generation)
		}
	})
}

func TestSweepStates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		if err := f.store.SweepStates(t.Context(), time.Now()); err != nil {
			t.Errorf("sweeping nothing: %v", err)
		}
		claim := func(state string) {
			if err := f.store.claimState(t.Context(), state, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		claim("old")
		f.storage.Put(prefixStates+"/12345", []byte("half a temporary file"))
		f.storage.Put(prefixStates+"/folder/x", []byte("?"))
		time.Sleep(markLife + 5*time.Minute)
		claim("new")
		stop := f.run(f.source())
		time.Sleep(10 * time.Second) // the refresher sweeps hourly
		stop()
		if n := len(f.storage.Keys()); n != 4 {
			t.Errorf("swept at start already: %v", f.storage.Keys())
		}
		stop = f.run(f.source())
		time.Sleep(markLife + time.Minute)
		claim("newest")
		stop()
		if err := f.store.SweepStates(t.Context(), time.Now()); err != nil {
			t.Error(err)
		}
		keys := f.storage.Keys()
		if len(keys) != 3 || f.storage.Get(stateKey("newest")) == nil {
			t.Errorf("after sweeping: %v", keys)
		}
		f.storage.Fail(tokenstest.OpList, 1, nil)
		if err := f.store.SweepStates(t.Context(), time.Now()); err == nil {
			t.Error("a failing storage goes unnoticed")
		}
	})
}
