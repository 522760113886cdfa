package tokens

import (
	"context"
	"errors"
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
