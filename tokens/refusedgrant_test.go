package tokens

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

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
