package tokens

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
		"the provider is down":        {before: func(f *fixture) { f.server.Next(tokenstest.Status(503, "")) }, reason: ReasonExchange, posts: 1, void: true},
		"a gateway gives up":          {before: func(f *fixture) { f.server.Next(tokenstest.Status(504, "<html>")) }, reason: ReasonExchange, posts: 1, void: true},
		"too many requests":           {before: func(f *fixture) { f.server.Next(tokenstest.Status(429, "")) }, reason: ReasonExchange, posts: 1},
		"records can't be listed":     {before: func(f *fixture) { f.storage.Fail(tokenstest.OpList, -1, nil) }, reason: ReasonStorage},
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

// imports imports a refresh token at another instance, and returns the reason
// why not.
func (f *fixture) imports(a Account, given string) (*Completed, Reason) {
	f.t.Helper()
	flow := &Flow{Store: NewStore(f.storage, f.keys), Keys: f.keys}
	done, err := flow.Import(f.t.Context(), f.client, a, NewSecret(given), "ops")
	if err == nil {
		return done, ""
	}
	var fe *FlowError
	if !errors.As(err, &fe) {
		f.t.Fatal(err)
	}
	return nil, fe.Reason
}

// However often a script is repeated, a token that was imported is not presented
// again while what came of it is in use.
func TestImportAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		_, given := f.server.Issue(f.account.User, "smtp.send")
		done, reason := f.imports(f.account, given)
		if reason != "" {
			t.Fatal(reason)
		}
		s := f.source()
		s.Adopt(done.Token)
		for range 3 {
			time.Sleep(time.Minute)
			posts := f.posts()
			if _, reason := f.imports(f.account, given); reason != ReasonSpent || f.posts() != posts {
				t.Errorf("again: reason %q, %d posts", reason, f.posts()-posts)
			}
			if err := s.Refresh(t.Context()); err != nil {
				t.Errorf("the grant: %v", err)
			}
		}
		if f.server.Reused() != 0 {
			t.Error("a used refresh token was presented")
		}
		// Once the account is disconnected, the provider is to say.
		if _, err := s.Disconnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, reason := f.imports(f.account, given); reason != ReasonExchange {
			t.Errorf("after the disconnection: reason %q", reason)
		}
	})
}

// A provider that was in trouble may be asked again.
func TestImportTriedAgain(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	_, given := f.server.Issue(f.account.User, "smtp.send")
	flow := f.flow()
	f.server.Next(tokenstest.Status(503, ""))
	for _, fails := range []bool{true, false} {
		if _, err := flow.Import(t.Context(), f.client, f.account, NewSecret(given), "ops"); (err != nil) != fails {
			t.Error(err)
		}
	}
}

func TestImportAtOnce(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]string{"for one account": "noreply@example.com", "for two": "bob@example.com"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				_, given := f.server.Issue(f.account.User, "smtp.send")
				gate := make(chan struct{})
				f.server.Next(tokenstest.Wait(gate))
				flow := f.flow()
				var first error
				var wg sync.WaitGroup
				wg.Go(func() { _, first = flow.Import(t.Context(), f.client, f.account, NewSecret(given), "ops") })
				synctest.Wait()
				_, err := flow.Import(t.Context(), f.client, Account{Provider: "lab", User: second}, NewSecret(given), "ops")
				var fe *FlowError
				if !errors.As(err, &fe) || fe.Reason != ReasonSpent {
					t.Errorf("the second: %v", err)
				}
				close(gate)
				wg.Wait()
				if first != nil || f.posts() != 1 || f.server.Reused() != 0 {
					t.Errorf("the first: %v; %d posts", first, f.posts())
				}
				time.Sleep(time.Minute)
				if err := f.source().Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Another account's token stays its own.
func TestImportOfAnothers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		alice := f.authorized()
		bob := Account{Provider: "lab", User: "bob@example.com"}
		unreadable := Account{Provider: "lab", User: "carol@example.com"}
		f.storage.Put(unreadable.storageKey(), []byte("rubbish"))
		time.Sleep(time.Minute)
		given := alice.RefreshToken.Reveal()
		if _, reason := f.imports(bob, given); reason != ReasonSpent || f.posts() != 0 {
			t.Errorf("reason %q, %d posts", reason, f.posts())
		}
		if err := f.source().Refresh(t.Context()); err != nil {
			t.Errorf("alice's: %v", err)
		}
		// Another client's may have any.
		p := f.provider()
		p.Issuer = "" // another registration
		other := *f.stored()
		other.Registration, other.RefreshToken = p.Registration(), NewSecret("x")
		f.save(&other)
		if _, reason := f.imports(bob, "x"); reason != ReasonExchange {
			t.Errorf("of another registration: reason %q", reason)
		}
	})
}
