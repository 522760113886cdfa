//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// elsewhere is a server that must not be asked.
func elsewhere(t testing.TB) (address string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(server.Close)
	return server.URL + "/token", asked
}

// The authorization server fails when a token is to be renewed.
func TestRefreshFails(t *testing.T) {
	t.Parallel()
	away, asked := elsewhere(t)
	for _, c := range []struct {
		name  string
		fault fault
		// kind is how the administration classes it; empty for no failure.
		kind string
	}{
		{"500", failWith(500, ""), "transient"},
		{"500 that blames the grant", failWith(500, "invalid_grant"), "transient"},
		{"503 with Retry-After", failWith(503, "", "Retry-After", "120"), "transient"},
		{"429 with Retry-After", failWith(429, "", "Retry-After", "120"), "transient"},
		{"temporarily_unavailable", failWith(400, "temporarily_unavailable"), "transient"},
		{"invalid_client", failWith(401, "invalid_client"), "configuration"},
		{"redirect", redirect(away), "configuration"},
		{"garbage", garbage, "ambiguous"},
		{"hang", hang, "ambiguous"},
		{"no expires_in", rewrite(func(m map[string]any) { delete(m, "expires_in") }), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := Start(t, Options{})
			s.SignIn(t)
			s.proxy.plan(tokenPath, refreshGrant, 1, c.fault)
			began := time.Now()
			a := s.refresh(t)
			if ok := a.status == http.StatusOK; ok != (c.kind == "") {
				t.Errorf("the administration answers: %s", a)
			}
			if n := s.proxy.count(tokenPath, refreshGrant); n != 1 {
				t.Errorf("%d posts for one refresh (took %v)", n, time.Since(began))
			}
			v := s.account(t)
			switch {
			case v.kind() != c.kind:
				t.Errorf("the account: %s, want failure %q", v, c.kind)
			case c.kind != "" && v.State != "failing", c.kind == "" && v.State != "authorized":
				t.Errorf("the account: %s", v)
			}
			if c.kind == "" && time.Until(v.ExpiresAt) < 50*time.Minute {
				t.Errorf("without expires_in the token ends at %v, want in an hour", v.ExpiresAt)
			}
			// The token at hand is still good, and so is the grant.
			s.Send(t, onPostfix, note("in spite of it"))
			s.mailbox.wait(t, 1)
			if strings.Contains(c.name, "Retry-After") {
				// Whoever asks for patience gets it: the refresher ticks in between.
				<-time.After(7 * time.Second)
			}
			if n := s.proxy.count(tokenPath, refreshGrant); strings.Contains(c.name, "Retry-After") && n != 1 {
				t.Errorf("%d posts, before the time that the provider had asked for", n)
			}
			if a := s.refresh(t); a.status != http.StatusOK {
				t.Errorf("the refresh token did not survive: %s", a)
			}
			if v := s.account(t); v.State != "authorized" || v.Failure != nil {
				t.Errorf("afterwards the account: %s", v)
			}
			s.checkSecrets(t)
			if c.name == "redirect" && asked.Load() != 0 {
				t.Error("the redirect was followed, with the refresh token")
			}
		})
	}
}

// An answer that gets lost after the authorization server has rotated the
// refresh token: with reuse detection the grant is lost, and that is found out
// by the next try and not by a guess.
func TestRotationLost(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.SignIn(t)
	s.proxy.plan(tokenPath, refreshGrant, 1, lost)
	s.refresh(t)
	if n := s.proxy.count(tokenPath, refreshGrant); n != 1 {
		t.Errorf("%d posts for one refresh: net/http or the plugin has repeated it", n)
	}
	if v := s.account(t); v.State != "failing" || v.kind() != "ambiguous" {
		t.Errorf("after the loss the account: %s", v)
	}
	s.Send(t, onPostfix, note("the access token is still good"))
	a := s.refresh(t)
	if v := s.account(t); v.State != "needs_authorization" || v.kind() != "needs_person" {
		t.Errorf("after the reuse the account: %s (answer %s)", v, a)
	}
	a = s.post(t, onPostfix+"-oauthbearer", note("no token"))
	wantProblem(t, a, http.StatusServiceUnavailable, "application_error", "reauthorization_required")
	s.SignIn(t)
	wantAlive(t, s, onPostfix+"-oauthbearer")
	s.checkSecrets(t)
}

// The authorization server fails when a code is redeemed: the sign-in fails with
// a page that says what to do, and what was there before stays.
func TestExchangeFails(t *testing.T) {
	t.Parallel()
	away, asked := elsewhere(t)
	for _, c := range []struct {
		name  string
		fault fault
		ok    bool
	}{
		{"500", failWith(500, ""), false},
		{"503 with Retry-After", failWith(503, "", "Retry-After", "120"), false},
		{"invalid_client", failWith(401, "invalid_client"), false},
		{"redirect", redirect(away), false},
		{"garbage", garbage, false},
		{"hang", hang, false},
		{"lost answer", lost, false},
		{"no refresh token", rewrite(func(m map[string]any) { delete(m, "refresh_token") }), false},
		{"too few scopes", rewrite(func(m map[string]any) { m["scope"] = "openid email" }), false},
		{"no expires_in", rewrite(func(m map[string]any) { delete(m, "expires_in") }), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := Start(t, Options{})
			for _, authorized := range []bool{false, true} {
				before := s.proxy.count(tokenPath, codeGrant)
				s.proxy.plan(tokenPath, codeGrant, 1, c.fault)
				page := s.signIn(t, s.invite(t), s.user)
				s.pages = append(s.pages, page.Body)
				if n := s.proxy.count(tokenPath, codeGrant) - before; n != 1 {
					t.Errorf("the code was posted %d times", n)
				}
				v := s.account(t)
				if c.ok {
					if page.Status != http.StatusOK || v.State != "authorized" || time.Until(v.ExpiresAt) < 50*time.Minute {
						t.Errorf("status %d: %s; the account: %s until %v", page.Status, page.text(), v, v.ExpiresAt)
					}
					continue
				}
				if page.Status < 400 || len(page.text()) < 40 || page.URL.Host == s.proxy.URL.Host {
					t.Errorf("the page after the failure, status %d: %s", page.Status, page.text())
				}
				if !authorized {
					t.Logf("status %d: %s", page.Status, page.text())
					if v.State != "needs_authorization" {
						t.Errorf("without a sign-in the account: %s", v)
					}
					s.SignIn(t)
					continue
				}
				if v.State != "authorized" {
					t.Errorf("the failure has cost the old sign-in: %s", v)
				}
			}
			// A code exchange whose answer is lost has ended nothing but itself.
			s.Send(t, onPostfix, note("with the sign-in that worked"))
			s.mailbox.wait(t, 1)
			s.checkSecrets(t)
			if c.name == "redirect" && asked.Load() != 0 {
				t.Error("the redirect was followed, with the code")
			}
		})
	}
}

// Without metadata there is no sign-in and no refresh, but no harm either.
func TestDiscoveryFails(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	up := s.proxy.plan("/.well-known/openid-configuration", "", -1, failWith(503, ""))
	page := newBrowser(t).open(t, s.invite(t)).submit()
	if page.Status < 500 || page.URL.Host == s.proxy.URL.Host {
		t.Errorf("without metadata the page is, status %d: %s", page.Status, page.text())
	}
	up()
	s.SignIn(t)
	wantAlive(t, s, onPostfix)
}
