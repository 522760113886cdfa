package tokens

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestRefreshStoresBeforeUse(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	old := f.expired()
	s := f.source()
	got := f.mustToken(s)
	now := f.stored()
	switch {
	case now.AccessToken.Reveal() != got:
		t.Error("the token handed out is not the stored one")
	case now.Generation != old.Generation+1:
		t.Errorf("generation %d, want %d", now.Generation, old.Generation+1)
	case now.PreviousRefreshToken != old.RefreshToken && now.PreviousRefreshToken.Reveal() != old.RefreshToken.Reveal():
		t.Error("the previous refresh token was not kept")
	case now.RefreshToken.Reveal() == old.RefreshToken.Reveal():
		t.Error("the rotated refresh token was not kept")
	case !now.AuthorizedAt.Equal(old.AuthorizedAt):
		t.Error("a refresh counts as a sign-in")
	}
	if f.storage.Locked() != 0 || f.storage.LostLocks() != 0 {
		t.Errorf("%d locks held, %d lost while held", f.storage.Locked(), f.storage.LostLocks())
	}
	if f.count("refreshed") != 1 {
		t.Errorf("events: %v", f.events)
	}
}

func TestRefreshWithoutRotation(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.server.Steady = true
	old := f.expired()
	f.mustToken(f.source())
	if now := f.stored(); now.RefreshToken.Reveal() != old.RefreshToken.Reveal() || !now.PreviousRefreshToken.IsZero() {
		t.Error("the refresh token was not kept as it was")
	}
}

func TestScopeOnRefresh(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.client.provider.ScopeOnRefresh = true
	expired := *f.expired()
	f.mustToken(f.source())
	if got, want := f.server.Requests()[0].Form.Get("scope"), "smtp.send offline_access openid email"; got != want {
		t.Errorf("scope %q, want %q", got, want)
	}
	// Scopes that were edited since apply with the next sign-in.
	expired.Requested = []string{"smtp.send", "offline_access"}
	expired.RefreshToken = f.stored().RefreshToken
	f.save(&expired)
	f.mustToken(f.source())
	if got, want := f.server.Requests()[1].Form.Get("scope"), "smtp.send offline_access"; got != want {
		t.Errorf("with a sign-in for other scopes: scope %q, want %q", got, want)
	}
}

// Two processes on one storage: whoever is first refreshes, and the other one
// finds its token.
func TestTwoProcessesOneRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		a, b := f.source(), f.source()
		a.early, b.early = 0.2, 0.9
		stop := f.run(a, b)
		for range 24 * 4 {
			time.Sleep(15 * time.Minute)
			f.mustToken(a)
			f.mustToken(b)
		}
		stop()
		if n := f.server.Reused(); n != 0 {
			t.Errorf("%d refresh tokens were presented twice", n)
		}
		if n := f.posts(); n < 24 || n > 36 {
			t.Errorf("%d refreshes in a day of one-hour tokens, want one per life", n)
		}
	})
}

func TestTwoProcessesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		for range 5 {
			s := f.source()
			go f.mustToken(s)
		}
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if n, reused := f.posts(), f.server.Reused(); n != 1 || reused != 0 {
			t.Errorf("%d posts, %d presented twice; want 1 and 0", n, reused)
		}
	})
}

// With a lock that does nothing two processes present the same refresh token.
// Where the provider allows that for a moment, nothing is lost and nobody is
// asked to sign in.
func TestLyingLock(t *testing.T) {
	t.Parallel()
	for name, grace := range map[string]time.Duration{"grace": 30 * time.Second, "the late one is refused": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.server.Grace = grace
				f.storage.Lie()
				f.expired()
				gate := make(chan struct{})
				if grace == 0 {
					// Not the whole grant is ended, as strict servers do.
					f.server.Next(tokenstest.Wait(gate), tokenstest.Fail(400, "invalid_grant", "used before"))
				} else {
					f.server.Next(tokenstest.Wait(gate), tokenstest.Wait(gate))
				}
				a, b := f.source(), f.source()
				go func() { _, _ = a.AccessToken(t.Context()) }()
				synctest.Wait()
				go func() { _, _ = b.AccessToken(t.Context()) }()
				synctest.Wait()
				close(gate)
				time.Sleep(time.Minute)
				f.mustToken(a)
				f.mustToken(b)
				if f.count("needs authorization") != 0 {
					t.Error("a person was asked to sign in")
				}
				if now := f.stored(); now.Revoked {
					t.Error("the grant counts as ended")
				}
				if n := f.posts(); n != 2 {
					t.Errorf("%d posts, want 2", n)
				}
			})
		})
	}
}

// An instance that finds a token dead at the moment in which another one
// refreshes it writes so. The other's token must survive.
func TestRevokedMarkDoesNotBeatASuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.storage.Lie()
		old := f.expired()
		s := f.source()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		go func() { _, _ = s.AccessToken(t.Context()) }()
		synctest.Wait()
		dead := *old
		dead.Revoked = true
		f.save(&dead)
		close(gate)
		synctest.Wait()
		f.mustToken(s)
		if now := f.stored(); now.Revoked || now.Generation != old.Generation+1 {
			t.Errorf("generation %d, revoked %v is stored", now.Generation, now.Revoked)
		}
	})
}

func TestInvalidGrantWithNewerStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		old.PreviousRefreshToken = NewSecret("refresh-older") // not to be presented
		s := f.source()
		// Another instance's refresh becomes visible only after ours was refused.
		next := *f.authorized()
		next.Generation, next.AuthorizedAt = old.Generation+1, old.AuthorizedAt
		f.save(old)
		f.server.End(f.account.User)
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
			if op == tokenstest.OpLoad && f.posts() > 0 && f.stored().Generation == old.Generation {
				plain, _ := encodeToken(&next)
				sealed, _ := f.ring.Seal(key, plain)
				f.storage.Put(key, sealed)
			}
			return nil
		})
		token, err := s.AccessToken(t.Context())
		if err != nil || token != next.AccessToken.Reveal() {
			t.Errorf("AccessToken = %v; want the other instance's token", err)
		}
		if got := f.stored(); got.Revoked {
			t.Error("the grant was marked as ended")
		}
		if n := len(f.events); n != 0 {
			t.Errorf("events: %v", f.events)
		}
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
	})
}

func TestInvalidGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		f.server.End(f.account.User)
		s := f.source()
		stop := f.run(s)
		time.Sleep(time.Hour)
		e := f.mustFail(s, KindNeedsPerson)
		if e.Code != "invalid_grant" {
			t.Errorf("code %q", e.Code)
		}
		stop()
		now := f.stored()
		if !now.Revoked || now.RefreshToken.Reveal() != old.RefreshToken.Reveal() || now.Failure == nil || now.Failure.Code != "invalid_grant" {
			t.Errorf("the record was not kept and marked: %+v", now)
		}
		if n := f.count("needs authorization"); n != 1 {
			t.Errorf("needs authorization was told %d times, want once", n)
		}
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts with a dead refresh token, want 1", n)
		}
		if st := s.Status(t.Context()); st.State != StateUnauthorized {
			t.Errorf("status %v", st)
		}
		// Another process does not ask the provider either.
		f.mustFail(f.source(), KindNeedsPerson)
		if n, events := f.posts(), f.count("needs authorization"); n != 1 || events != 1 {
			t.Errorf("after another process: %d posts, %d events", n, events)
		}
	})
}

// The mark can't be stored: the provider is left alone all the same.
func TestInvalidGrantUnstorable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		f.server.End(f.account.User)
		f.storage.Fail(tokenstest.OpStore, -1, nil)
		s := f.source()
		stop := f.run(s)
		time.Sleep(time.Hour)
		stop()
		if n, events := f.posts(), f.count("needs authorization"); n != 1 || events != 1 {
			t.Errorf("%d posts, %d events, want one of each", n, events)
		}
	})
}

// Whether a refresh token was the newest one can't be known while the storage
// does not answer. That ends no grant.
func TestInvalidGrantWithStorageDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		f.server.Next(tokenstest.Fail(400, "invalid_grant", ""))
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
			if op == tokenstest.OpLoad && f.posts() == 1 {
				return tokenstest.ErrFault
			}
			return nil
		})
		s := f.source()
		f.mustFail(s, KindTransient)
		f.storage.Hook(nil)
		if f.stored().Revoked {
			t.Error("the grant was ended")
		}
		time.Sleep(time.Minute)
		f.mustToken(s)
	})
}

func TestTransientFailure(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]tokenstest.Reply{
		"500":                    tokenstest.Status(500, "<html>"),
		"429":                    tokenstest.Status(429, ""),
		"temporarily":            tokenstest.Fail(400, "temporarily_unavailable", ""),
		"503 saying dead":        tokenstest.Fail(503, "invalid_grant", ""),
		"Entra's passing number": tokenstest.Status(400, `{"error":"invalid_grant","error_codes":[90033]}`),
		"hang":                   tokenstest.Hang(),
		"garbage":                tokenstest.Status(200, "garbage"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.authorized()
				for range 100 {
					f.server.Next(reply)
				}
				writes := f.countWrites()
				s := f.source()
				token := f.mustToken(s)
				stop := f.run(s)
				time.Sleep(58 * time.Minute)
				if got := f.mustToken(s); got != token {
					t.Error("another token while the provider is down")
				}
				if st := s.Status(t.Context()); st.State != StateFailing || st.Failure == nil {
					t.Errorf("status %v", st)
				}
				time.Sleep(3 * time.Hour)
				var e *Error
				if _, err := s.AccessToken(t.Context()); !errors.As(err, &e) || !e.Temporary() {
					t.Errorf("%v is not temporary", err)
				}
				// Two hours and more at one per 15 minutes, and what led there.
				if n := f.posts(); n < 10 || n > 35 {
					t.Errorf("%d posts in four hours", n)
				}
				if f.count("needs authorization") != 0 || f.stored().Revoked {
					t.Error("a passing failure has ended the grant")
				}
				if n := writes.Load(); n > 0 {
					t.Errorf("%d writes because of passing failures", n)
				}
				stop()
			})
		})
	}
}

func TestNoHotLoopOnDemand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		for range 100 {
			f.server.Next(tokenstest.Status(500, ""))
		}
		s := f.source()
		for range 1000 {
			f.mustFail(s, KindTransient)
			time.Sleep(10 * time.Millisecond)
		}
		if n := f.posts(); n > 3 {
			t.Errorf("%d posts in ten seconds", n)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		f.server.Next(tokenstest.Status(503, "", "Retry-After", "1200"))
		s := f.source()
		stop := f.run(s)
		defer stop()
		time.Sleep(19 * time.Minute)
		if e := f.mustFail(s, KindTransient); e.RetryAfter != 20*time.Minute {
			t.Errorf("RetryAfter %v", e.RetryAfter)
		}
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts before the time that the provider named", n)
		}
		time.Sleep(2 * time.Minute)
		f.mustToken(s)
	})
}

func TestInvalidClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		p := f.provider()
		p.Credentials = NewClientSecret("mistyped")
		cell := &Cell{}
		s := f.sourceOf(cell, NewClient(p, f.server))
		stop := f.run(s)
		time.Sleep(time.Hour)
		e := f.mustFail(s, KindConfig)
		if e.Code != "invalid_client" || e.Temporary() {
			t.Errorf("%v", e)
		}
		if n := f.posts(); n > 13 {
			t.Errorf("%d posts with a wrong secret in an hour", n)
		}
		if now := f.stored(); now.Revoked || now.Failure == nil {
			t.Errorf("revoked %v, failure %+v", now.Revoked, now.Failure)
		}
		stop()
		// A new configuration with the right secret does not wait.
		f.mustToken(f.sourceOf(cell, f.client))
		if now := f.stored(); now.Failure != nil {
			t.Errorf("failure %+v is still there", now.Failure)
		}
	})
}

func TestAnswerLostAfterRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Grace = 10 * time.Second
		f.expired()
		f.server.Next(tokenstest.Lose())
		s := f.source()
		stop := f.run(s)
		defer stop()
		synctest.Wait()
		f.mustFail(s, KindAmbiguous)
		time.Sleep(6 * time.Second)
		f.mustToken(s)
		if f.count("needs authorization") != 0 {
			t.Error("a person was asked to sign in")
		}
	})
}

// The stored refresh token is void and the one before is not: a storage lost
// the last write, or the provider never made its last rotation good.
func TestPreviousRefreshToken(t *testing.T) {
	t.Parallel()
	for name, steady := range map[string]bool{"rotating": false, "steady": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.server.Steady = steady
				token := *f.expired()
				good := token.RefreshToken
				token.RefreshToken, token.PreviousRefreshToken = NewSecret("refresh-void"), good
				f.save(&token)
				s := f.source()
				f.mustToken(s)
				now := f.stored()
				if now.RefreshToken.Reveal() == "refresh-void" || now.PreviousRefreshToken.Reveal() == "refresh-void" {
					t.Error("the void refresh token was kept")
				}
				if steady && now.RefreshToken.Reveal() != good.Reveal() {
					t.Error("the refresh token that works was not kept")
				}
				if err := s.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
				if n := f.posts(); n != 3 {
					t.Errorf("%d posts, want 3", n)
				}
			})
		})
	}
}

func TestPreviousRefreshTokenUnanswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		token := *f.expired()
		token.RefreshToken, token.PreviousRefreshToken = NewSecret("refresh-void"), token.RefreshToken
		f.save(&token)
		f.server.Next(tokenstest.Proper(), tokenstest.Status(503, ""))
		s := f.source()
		f.mustFail(s, KindTransient)
		if f.stored().Revoked {
			t.Error("the grant was ended with a refresh token untried")
		}
		time.Sleep(time.Minute)
		f.mustToken(s)
	})
}

func TestStoreFailingAfterRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		f.storage.Fail(tokenstest.OpStore, -1, nil)
		s := f.source()
		stop := f.run(s)
		defer stop()
		first := f.mustToken(s)
		if f.stored().Generation != old.Generation {
			t.Fatal("the storage took it, though it fails")
		}
		time.Sleep(30 * time.Minute)
		if got := f.mustToken(s); got != first {
			t.Error("the token in memory was replaced")
		}
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
		if st := s.Status(t.Context()); st.State != StateFailing {
			t.Errorf("status %v, want the trouble with the storage to show", st)
		}
		// It outlasts the token: mail goes on, and no refresh token is presented
		// twice.
		time.Sleep(2 * time.Hour)
		f.mustToken(s)
		f.storage.Fail(tokenstest.OpStore, 0, nil)
		time.Sleep(20 * time.Minute)
		last := f.mustToken(s)
		if now := f.stored(); now.AccessToken.Reveal() != last || now.Failure != nil {
			t.Error("the token was not stored later")
		}
		if n := f.server.Reused(); n != 0 {
			t.Errorf("%d refresh tokens were presented twice", n)
		}
		if st := s.Status(t.Context()); st.State != StateAuthorized {
			t.Errorf("status %v", st)
		}
		if !strings.Contains(f.log.String(), "kept in memory only") {
			t.Error("the log says nothing")
		}
	})
}

func TestStoreFailingForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		f.storage.Fail(tokenstest.OpStore, 4, nil)
		s := f.source()
		f.mustToken(s)
		if got := f.stored(); got.Generation != old.Generation+1 {
			t.Error("the token was handed out before it was stored")
		}
	})
}

// A refused token that could not be stored is refused all the same.
func TestRejectUnsaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		f.storage.Fail(tokenstest.OpStore, -1, nil)
		s := f.source()
		first := f.mustToken(s)
		s.Reject(first)
		if got := f.mustToken(s); got == first {
			t.Error("the refused token was handed out again")
		}
		if n := f.server.Reused(); n != 0 {
			t.Errorf("%d refresh tokens were presented twice", n)
		}
	})
}

// Some storages answer for a while with what they held before.
func TestStaleLoads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		s := f.source()
		f.mustToken(s)
		f.storage.Stale(1000)
		for range 5 {
			if err := s.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := f.server.Reused(); n != 0 {
			t.Errorf("%d refresh tokens were presented twice", n)
		}
	})
}

func TestStorageDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		f.mustToken(s)
		f.storage.Fail(tokenstest.OpLoad, -1, nil)
		stop := f.run(s)
		defer stop()
		time.Sleep(55 * time.Minute)
		f.mustToken(s)
		time.Sleep(time.Hour)
		f.mustFail(s, KindTransient)
		if n := f.posts(); n != 0 {
			t.Errorf("%d posts with a storage that can't be read", n)
		}
		if n := f.storage.Count(tokenstest.OpLoad); n > 170 { // one every 50 seconds at most, to notice what others do, and few to renew
			t.Errorf("%d loads in two hours", n)
		}
		f.storage.Fail(tokenstest.OpLoad, 0, nil)
		time.Sleep(16 * time.Minute)
		f.mustToken(s)
	})
}

func TestLockThatCannotBeHad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		f.storage.Fail(tokenstest.OpLock, -1, errors.New("lock file is rubbish"))
		s := f.source()
		stop := f.run(s)
		defer stop()
		f.mustFail(s, KindTransient)
		time.Sleep(9 * time.Minute)
		f.mustFail(s, KindTransient)
		if n := f.posts(); n != 0 {
			t.Errorf("%d posts without the lock", n)
		}
		if n := f.storage.Count(tokenstest.OpLock); n < 9 {
			t.Errorf("the lock was asked for %d times only", n)
		}
		time.Sleep(3 * time.Minute)
		f.mustToken(s)
		if !strings.Contains(f.log.String(), "lock is out of reach") {
			t.Error("the log says nothing")
		}
	})
}

// While the lock is another's, its token is waited for.
func TestLockHeldByAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		if err := f.storage.Lock(t.Context(), f.account.lockName()); err != nil {
			t.Fatal(err)
		}
		s := f.source()
		var token string
		go func() { token, _ = s.AccessToken(t.Context()) }()
		time.Sleep(5 * time.Second)
		next := *f.authorized()
		next.Generation, next.AuthorizedAt = old.Generation+1, old.AuthorizedAt
		f.save(&next)
		time.Sleep(lockTimeout)
		synctest.Wait()
		if token != next.AccessToken.Reveal() {
			t.Error("the token of the lock's holder is not used")
		}
		if n := f.posts(); n != 0 {
			t.Errorf("%d posts", n)
		}
	})
}

func TestUnreadableRecord(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil func(*fixture)
		want  error
	}{
		"other key": {func(f *fixture) { f.ring = testRing(f.t, 7) }, ErrUnknownKey},
		"rubbish":   {func(f *fixture) { f.storage.Put(f.account.storageKey(), []byte("rubbish")) }, ErrCorrupt},
		"newer seal": {func(f *fixture) {
			sealed := f.storage.Get(f.account.storageKey())
			sealed[len(sealMagic)]++
			f.storage.Put(f.account.storageKey(), sealed)
		}, ErrNewerFormat},
		"newer record": {func(f *fixture) {
			sealed, err := f.ring.Seal(f.account.storageKey(), []byte(`{"version":2}`))
			if err != nil {
				f.t.Fatal(err)
			}
			f.storage.Put(f.account.storageKey(), sealed)
		}, ErrNewerFormat},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.authorized()
				test.spoil(f)
				before := string(f.storage.Get(f.account.storageKey()))
				s := f.source()
				stop := f.run(s)
				time.Sleep(time.Minute)
				// Its own kind shows through, also in the answers of a pause and of
				// a refresh that is asked for.
				for range 2 {
					if e := f.mustFail(s, KindConfig); !errors.Is(e, test.want) {
						t.Errorf("%v, want %v", e, test.want)
					}
				}
				if err := s.Refresh(t.Context()); !errors.Is(err, test.want) {
					t.Errorf("Refresh: %v, want %v", err, test.want)
				}
				if st := s.Status(t.Context()); st.State != StateUnknown {
					t.Errorf("status %v", st)
				}
				stop()
				if string(f.storage.Get(f.account.storageKey())) != before {
					t.Error("the record was changed")
				}
			})
		})
	}
}

func TestNoRefreshToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		token := *f.expired()
		token.RefreshToken = Secret{}
		f.save(&token)
		s := f.source()
		f.mustFail(s, KindNeedsPerson)
		if n := f.posts(); n != 0 {
			t.Errorf("%d posts", n)
		}
	})
}

// A process that starts with a token that is due uses it while it lasts, and
// waits for no provider.
func TestUsableTokenIsUsed(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]tokenstest.Reply{"down": tokenstest.Status(500, ""), "hanging": tokenstest.Hang()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				token := f.authorized()
				time.Sleep(50 * time.Minute)
				f.server.Next(reply)
				s := f.source()
				began := time.Now()
				if got := f.mustToken(s); got != token.AccessToken.Reveal() || f.posts() != 0 {
					t.Errorf("another token, or %d posts", f.posts())
				}
				f.run(s)
				synctest.Wait()
				if got := f.mustToken(s); got != token.AccessToken.Reveal() || !time.Now().Equal(began) {
					t.Errorf("another token, or waited %v", time.Since(began))
				}
			})
		})
	}
}

// The refresher came first, and its refresh fails: who has joined it gets the
// old token, which is good still.
func TestUsableTokenAfterJoinedFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		token := f.authorized()
		time.Sleep(50 * time.Minute)
		gate := make(chan struct{})
		f.storage.Hook(func(context.Context, tokenstest.Op, string) error { <-gate; return nil })
		f.server.Next(tokenstest.Status(500, ""))
		s := f.source()
		f.run(s)
		synctest.Wait()
		var got string
		go func() { got, _ = s.AccessToken(t.Context()) }()
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if got != token.AccessToken.Reveal() {
			t.Error("the old token was not handed out")
		}
	})
}

// Somebody signs in anew while a refresh of the old grant is under way, and the
// lock does not hold.
func TestRefreshDoesNotOverwriteASignIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.storage.Lie()
		f.expired()
		s := f.source()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		go func() { _, _ = s.AccessToken(t.Context()) }()
		time.Sleep(time.Second)
		fresh := f.authorized()
		close(gate)
		synctest.Wait()
		if got := f.stored(); got.RefreshToken.Reveal() != fresh.RefreshToken.Reveal() {
			t.Error("the refresh was written over the new sign-in")
		}
		if got := f.mustToken(s); got != fresh.AccessToken.Reveal() {
			t.Error("the new sign-in's token is not used")
		}
	})
}

// A lock that somebody holds for longer than one waits is not broken, however
// long ago that was.
func TestContentionIsNoBrokenLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		a := f.source()
		f.store = NewStore(f.storage, f.keys)
		b := f.source()
		for range 2 {
			gate := make(chan struct{})
			f.server.Next(tokenstest.Wait(gate))
			go func() { _ = a.renew(t.Context(), renewal{}) }()
			synctest.Wait()
			go func() { _ = b.renew(t.Context(), renewal{}) }()
			time.Sleep(lockTimeout + 5*time.Second) // the provider is slow
			close(gate)
			time.Sleep(20 * time.Second)
			f.mustToken(a)
			f.mustToken(b)
			time.Sleep(50 * time.Minute)
		}
		if n := f.posts(); n != 2 {
			t.Errorf("%d posts, want one each time", n)
		}
		if n := f.server.Reused(); n != 0 {
			t.Errorf("%d refresh tokens were presented twice", n)
		}
	})
}

// A token that is in memory only is stored soon after the storage is well again,
// whatever keeps the provider from being asked.
func TestUnsavedIsStoredSoon(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		outage time.Duration
		fail   tokenstest.Op
		busy   time.Duration // the provider's
	}{
		"the provider is busy":          {time.Minute, tokenstest.OpStore, 30 * time.Minute},
		"after a long outage":           {80 * time.Minute, tokenstest.OpStore, 0},
		"after a long outage of lookup": {80 * time.Minute, tokenstest.OpLoad, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.server.Life = 12 * time.Hour
				f.expired()
				s := f.source()
				f.storage.Fail(tokenstest.OpStore, -1, nil)
				f.mustToken(s)
				f.storage.Fail(test.fail, -1, nil)
				if test.fail != tokenstest.OpStore {
					f.storage.Fail(tokenstest.OpStore, 0, nil)
				}
				s.pacer().complain(test.busy)
				f.run(s)
				time.Sleep(test.outage)
				f.storage.Fail(test.fail, 0, nil)
				time.Sleep(lockPause + refreshTick)
				if f.stored().Generation != 2 {
					t.Error("the new token is not stored")
				}
				if n := f.posts(); n != 1 {
					t.Errorf("%d posts", n)
				}
			})
		})
	}
}

// A storage that has lost a write that it had acknowledged gets it again with the
// next look.
func TestLostWriteIsMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		before := f.storage.Get(f.account.storageKey())
		s := f.source()
		f.mustToken(s)
		f.storage.Put(f.account.storageKey(), before) // a replica took over
		if err := s.renew(t.Context(), renewal{}); err != nil {
			t.Fatal(err)
		}
		if f.stored().Generation != 2 || f.posts() != 1 {
			t.Errorf("generation %d is stored after %d posts", f.stored().Generation, f.posts())
		}
	})
}

// One answer that a record is missing ends no grant: it may be a replica's.
func TestMissingOnce(t *testing.T) {
	t.Parallel()
	for _, nth := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(nth), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.expired()
				n := 0
				f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
					if op == tokenstest.OpLoad && key == f.account.storageKey() {
						if n++; n == nth {
							return fs.ErrNotExist
						}
					}
					return nil
				})
				s := f.source()
				_, _ = s.AccessToken(t.Context())
				time.Sleep(time.Minute)
				f.mustToken(s)
				for _, r := range f.server.Requests() {
					if r.Path == tokenstest.PathRevoke {
						t.Error("the grant was revoked")
					}
				}
			})
		})
	}
}

// The only copy of a token is not given up because the storage has none.
func TestOnlyCopyIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = 12 * time.Hour
		f.expired()
		s := f.source()
		f.storage.Fail(tokenstest.OpStore, -1, nil)
		token := f.mustToken(s)
		if err := f.storage.Delete(t.Context(), f.account.storageKey()); err != nil {
			t.Fatal(err)
		}
		f.run(s)
		time.Sleep(10 * time.Minute)
		f.storage.Fail(tokenstest.OpStore, 0, nil)
		time.Sleep(2 * lockPause)
		if f.mustToken(s) != token {
			t.Error("another token")
		}
		if got := f.stored(); got == nil || got.Generation != 2 {
			t.Error("the token is not stored")
		}
	})
}
