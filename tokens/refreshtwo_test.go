package tokens

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

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
		f.presentedOnce()
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
		f.presentedOnce()
	})
}
