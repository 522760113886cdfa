package tokens

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestAccessTokenFromStorage(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	want := f.authorized().AccessToken.Reveal()
	s := f.source()
	for range 3 {
		if got := f.mustToken(s); got != want {
			t.Errorf("AccessToken is not the stored one")
		}
	}
	if n := f.posts(); n != 0 {
		t.Errorf("%d posts for a token that was fresh", n)
	}
	if n := f.storage.Count(tokenstest.OpLoad); n != 1 {
		t.Errorf("the storage was read %d times, want once", n)
	}
	if st := s.Status(t.Context()); st.State != StateAuthorized || st.LastUsed.IsZero() {
		t.Errorf("status %v, last used %v", st, st.LastUsed)
	}
}

func TestAccessTokenAllocatesNothing(t *testing.T) {
	f := setUp(t)
	f.authorized()
	s, ctx := f.source(), t.Context()
	f.mustToken(s)
	if n := testing.AllocsPerRun(1000, func() { _, _ = s.AccessToken(ctx) }); n != 0 {
		t.Errorf("AccessToken makes %v allocations", n)
	}
}

func BenchmarkAccessToken(b *testing.B) {
	storage := tokenstest.NewStorage()
	ring := testRing(b, 1)
	store := NewStore(storage, func() (*KeyRing, error) { return ring, nil })
	a := Account{Provider: "lab", User: "noreply@example.com"}
	now := time.Now().UTC()
	err := store.Save(b.Context(), &Token{
		Account: a, AccessToken: NewSecret("access"), RefreshToken: NewSecret("refresh"),
		IssuedAt: now, Expiry: now.Add(24 * time.Hour),
	})
	if err != nil {
		b.Fatal(err)
	}
	s := NewSource(a, NewClient(Provider{}, tokenstest.NewServer()), store, &Cell{}, nil)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.AccessToken(ctx); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func TestSingleFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		s := f.source()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		var mu sync.Mutex
		seen := map[string]int{}
		for range 100 {
			go func() {
				token, err := s.AccessToken(t.Context())
				if err != nil {
					t.Errorf("AccessToken: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				seen[token]++
			}()
		}
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
		if len(seen) != 1 {
			t.Errorf("%d different tokens, want 1", len(seen))
		}
	})
}

func TestCallerGoingAwayCutsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		s := f.source()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		ctx, cancel := context.WithCancel(t.Context())
		var err error
		go func() { _, err = s.AccessToken(ctx) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the caller got %v, want its context's error", err)
		}
		close(gate)
		synctest.Wait()
		if got := f.stored(); got.Generation != old.Generation+1 {
			t.Errorf("generation %d is stored, want %d", got.Generation, old.Generation+1)
		}
		f.mustToken(s)
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
	})
}

func TestReject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		first := f.mustToken(s)
		s.Reject("not a token of ours")
		if got := f.mustToken(s); got != first {
			t.Error("another token's refusal replaced this one")
		}
		s.Reject(first)
		s.Reject(first) // two connections may report the same
		second := f.mustToken(s)
		if second == first {
			t.Error("a refused token was handed out again")
		}
		s.Reject(first) // late
		s.Reject(second)
		if got := f.mustToken(s); got != second {
			t.Error("a second refusal within five minutes caused a refresh")
		}
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
		time.Sleep(refusalPause)
		s.Reject(second)
		if got := f.mustToken(s); got == second {
			t.Error("a refusal after five minutes was ignored")
		}
	})
}

// A refused token lies in the storage like any other. Neither a look there nor
// a provider that is down may bring it back.
func TestRejectedTokenStaysAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		first := f.mustToken(s)
		s.Reject(first)
		f.server.Next(tokenstest.Status(503, ""))
		f.mustFail(s, KindTransient)
		f.mustFail(s, KindTransient)
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
		time.Sleep(failurePause)
		if got := f.mustToken(s); got == first {
			t.Error("the refused token came back")
		}
	})
}

// Some providers issue the same access token again while it lasts.
func TestRejectedTokenIssuedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		first := f.mustToken(s)
		s.Reject(first)
		f.server.Next(tokenstest.Set(map[string]any{"access_token": first}))
		for range 10 {
			if got := f.mustToken(s); got != first {
				t.Fatal("what the provider issued is not handed out")
			}
			s.Reject(first)
		}
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
	})
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source() // nothing is in memory yet
		for want := uint64(2); want < 4; want++ {
			if err := s.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := f.stored().Generation; got != want {
				t.Errorf("generation %d, want %d", got, want)
			}
		}
		f.presentedOnce()
	})
}

// A forced refresh is not content with a renewal that was under way, and many
// forced ones are one.
func TestRefreshJoinsOnlyItsLike(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		gate := make(chan struct{})
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
			if op == tokenstest.OpLoad {
				<-gate
			}
			return nil
		})
		go func() { _, _ = s.AccessToken(t.Context()) }()
		synctest.Wait()
		for range 5 {
			go func() {
				if err := s.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
	})
}

// A renewal that was under way and asked the provider is as good as a forced
// one.
func TestRefreshJoinsWhatRefreshes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		s := f.source()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		go func() { _, _ = s.AccessToken(t.Context()) }()
		synctest.Wait()
		go func() {
			if err := s.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
	})
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*fixture)
		revoked bool
	}{
		"as it should be":           {func(*fixture) {}, true},
		"the provider is down":      {func(f *fixture) { f.server.Next(tokenstest.Status(503, "")) }, false},
		"the lock cannot be had":    {func(f *fixture) { f.storage.Fail(tokenstest.OpLock, -1, nil) }, true},
		"the record is damaged":     {func(f *fixture) { f.storage.Put(f.account.storageKey(), []byte("rubbish")) }, true},
		"the record is gone":        {func(f *fixture) { _ = f.store.Delete(f.t.Context(), f.account) }, true},
		"no revocation endpoint":    {func(f *fixture) { f.client.provider.RevocationEndpoint = "" }, false},
		"the key is not configured": {func(f *fixture) { f.ring = testRing(f.t, 9) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.authorized()
				s := f.source()
				access := f.mustToken(s)
				test.prepare(f)
				revoked, err := s.Disconnect(t.Context())
				if err != nil || revoked != test.revoked {
					t.Errorf("Disconnect = %v, %v, want %v", revoked, err, test.revoked)
				}
				if f.storage.Get(f.account.storageKey()) != nil {
					t.Error("the record is still there")
				}
				if n := f.storage.Locked(); n != 0 {
					t.Errorf("%d locks are still held", n)
				}
				if f.count("disconnected") != 1 {
					t.Errorf("events: %v", f.events)
				}
				if e := f.mustFail(s, KindNeedsPerson); !errors.Is(e, ErrNotAuthorized) {
					t.Errorf("AccessToken: %v, want ErrNotAuthorized", e)
				}
				if st := s.Status(t.Context()); st.State != StateUnauthorized {
					t.Errorf("status %v", st)
				}
				_ = access
			})
		})
	}
}

func TestDisconnectLeavesWhatItCannotJudge(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.authorized()
	s := f.source()
	f.storage.Fail(tokenstest.OpLoad, 1, nil)
	if _, err := s.Disconnect(t.Context()); err == nil {
		t.Error("disconnected without having read the token")
	}
	f.mustToken(s)
	f.storage.Fail(tokenstest.OpDelete, 1, nil)
	if _, err := s.Disconnect(t.Context()); err == nil || f.count("disconnected") != 0 {
		t.Error("a token that could not be deleted counts as deleted")
	}
}

// A refresh that is under way when an account is disconnected does not bring it
// back, in this process or, where the lock does not hold, in another.
func TestDisconnectDuringRefresh(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"same process": true, "another process": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.expired()
				f.storage.Lie()
				s := f.source()
				disconnecting := s
				if !same {
					disconnecting = f.source()
				}
				gate := make(chan struct{})
				// The revocation goes astray.
				f.server.Next(tokenstest.Wait(gate), tokenstest.Status(503, ""))
				go func() { _, _ = s.AccessToken(t.Context()) }()
				synctest.Wait()
				go func() { _, _ = disconnecting.Disconnect(t.Context()) }()
				synctest.Wait()
				if n := len(f.server.Requests()); same && n != 1 {
					t.Errorf("%d requests: the refresh was not waited for", n)
				}
				close(gate)
				synctest.Wait()
				if f.stored() != nil {
					t.Error("the refresh has brought the record back")
				}
				f.mustFail(s, KindNeedsPerson)
			})
		})
	}
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		s := f.source()
		gate := make(chan struct{})
		f.server.End(f.account.User)
		f.server.Next(tokenstest.Wait(gate))
		// The old grant is dead, as a refresh will find out in a moment.
		go func() { _, _ = s.AccessToken(t.Context()) }()
		synctest.Wait()
		time.Sleep(time.Second)
		fresh := *f.authorized()
		fresh.Generation = old.Generation + 1
		f.save(&fresh)
		s.Adopt(&fresh)
		close(gate)
		time.Sleep(time.Minute)
		if got := f.mustToken(s); got != fresh.AccessToken.Reveal() {
			t.Error("the new sign-in's token is not the one handed out")
		}
		if st := s.Status(t.Context()); st.State != StateAuthorized {
			t.Errorf("status %v: %+v", st, st.Failure)
		}
		if got := f.stored(); got.Revoked || !got.AuthorizedAt.Equal(fresh.AuthorizedAt) {
			t.Error("the old grant's end was written over the new sign-in")
		}
		if f.count("needs authorization") != 0 || f.count("authorized") != 1 {
			t.Errorf("events: %v", f.events)
		}
		other := fresh
		other.Account.User = "other@example.com"
		s.Adopt(&other)
		if got := f.mustToken(s); got != fresh.AccessToken.Reveal() {
			t.Error("another account's token was adopted")
		}
	})
}

// How a renewal went that began before a sign-in says nothing of what came
// after.
func TestAdoptDuringAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.storage.Fail(tokenstest.OpLoad, 1, nil)
		gate := make(chan struct{})
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
			if op == tokenstest.OpLoad {
				<-gate
			}
			return nil
		})
		s := f.source()
		var got string
		go func() { got, _ = s.AccessToken(t.Context()) }()
		synctest.Wait()
		token := f.authorized()
		s.Adopt(token)
		close(gate)
		synctest.Wait()
		if got != token.AccessToken.Reveal() {
			t.Error("who waited did not get the new token")
		}
		if st := s.Status(t.Context()); st.State != StateAuthorized {
			t.Errorf("status %v: %+v", st, st.Failure)
		}
	})
}

func TestPublishKeepsTheNewest(t *testing.T) {
	t.Parallel()
	at := time.Now()
	older := &Token{AuthorizedAt: at, Generation: 1, AccessToken: NewSecret("a")}
	newer := &Token{AuthorizedAt: at, Generation: 2, AccessToken: NewSecret("b")}
	c := &Cell{}
	c.publish(newer, false)
	c.publish(older, true)
	if c.token.Load() != newer || c.newest != newer || !c.unsaved {
		t.Error("an older token took the place of a newer one")
	}
	c.publish(newer, true)
	if c.unsaved {
		t.Error("what was saved counts as unsaved")
	}
}

func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		boom := true
		f.storage.Hook(func(context.Context, tokenstest.Op, string) error {
			if boom {
				panic("boom")
			}
			return nil
		})
		f.mustFail(s, KindTransient)
		boom = false
		time.Sleep(failurePause)
		f.mustToken(s)
	})
}
