package tokens

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestImport(t *testing.T) {
	t.Parallel()
	for name, steady := range map[string]bool{"rotating": false, "steady": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setUp(t)
			f.server.Steady = steady
			_, given := f.server.Issue(f.account.User, "smtp.send")
			flow := f.flow()
			tried := 0
			flow.Verify = func(_ context.Context, _ Account, token string) error {
				tried++
				if !f.server.Valid(token) {
					t.Error("the token to verify is not valid")
				}
				return nil
			}
			f.server.Next(tokenstest.Set(map[string]any{"id_token": idToken(f, f.account.User)}))
			done, err := flow.Import(t.Context(), f.client, f.account, NewSecret(given), "ops")
			if err != nil {
				t.Fatal(err)
			}
			stored := f.stored()
			switch {
			case (stored.RefreshToken.Reveal() == given) != steady || done.Token.RefreshToken.Reveal() != stored.RefreshToken.Reveal():
				t.Error("the wrong refresh token was saved")
			case stored.AuthorizedBy != "ops" || stored.Identity.Subject != "subject of "+f.account.User || stored.Generation != 1:
				t.Errorf("saved %+v", stored)
			case tried != 1:
				t.Errorf("the mail server was asked %d times", tried)
			}
			s := f.source()
			s.Adopt(done.Token)
			if err := s.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whether the token that was given may be void is said where it may be, and
// only there.
func TestImportThatFails(t *testing.T) {
	t.Parallel()
	const void = "may be void now"
	failStore := func(f *fixture) {
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
			if op == tokenstest.OpStore && strings.HasPrefix(key, prefixTokens) {
				return tokenstest.ErrFault
			}
			return nil
		})
	}
	for name, test := range map[string]struct {
		before func(*fixture)
		verify error
		reason Reason
		posts  int
		void   bool
	}{
		"the storage is down":         {before: func(f *fixture) { f.storage.Fail(tokenstest.OpLoad, -1, nil) }, reason: ReasonStorage},
		"a record that can't be read": {before: func(f *fixture) { f.storage.Put(f.account.storageKey(), []byte("rubbish")) }, reason: ReasonStorage},
		"the last save fails":         {before: failStore, reason: ReasonStorage, posts: 1, void: true},
		"the same, steady":            {before: func(f *fixture) { f.server.Steady = true; failStore(f) }, reason: ReasonStorage, posts: 1},
		"the answer is lost":          {before: func(f *fixture) { f.server.Next(tokenstest.Lose()) }, reason: ReasonExchange, posts: 1, void: true},
		"the provider is down":        {before: func(f *fixture) { f.server.Next(tokenstest.Status(503, "")) }, reason: ReasonExchange, posts: 1},
		"it is void":                  {before: func(f *fixture) { f.server.Next(tokenstest.Fail(400, "invalid_grant", "")) }, reason: ReasonExchange, posts: 1},
		"the mail server refuses it":  {verify: ErrRefused, reason: ReasonMailServer, posts: 1, void: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				_, given := f.server.Issue(f.account.User, "smtp.send")
				flow := f.flow()
				if test.verify != nil {
					flow.Verify = func(context.Context, Account, string) error { return test.verify }
				}
				if test.before != nil {
					test.before(f)
				}
				_, err := flow.Import(t.Context(), f.client, f.account, NewSecret(given), "")
				var fe *FlowError
				if !errors.As(err, &fe) || fe.Reason != test.reason {
					t.Fatalf("error %v", err)
				}
				if strings.Contains(err.Error(), void) != test.void {
					t.Errorf("void: %v", err)
				}
				if strings.Contains(err.Error(), given) || strings.Contains(err.Error(), "refresh-") {
					t.Errorf("a token shows in %v", err)
				}
				if n := f.posts(); n != test.posts {
					t.Errorf("%d posts", n)
				}
			})
		})
	}
}
