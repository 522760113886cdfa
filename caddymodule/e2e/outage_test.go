//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	introspectionPath = "/token/introspection"
	tokenPath         = "/token"
	revocationPath    = "/token/revocation"
	refreshGrant      = "refresh_token"
	codeGrant         = "authorization_code"
)

// inactive makes the authorization server say that tokens are not valid.
var inactive = rewrite(func(m map[string]any) {
	clear(m)
	m["active"] = false
})

// wantProblem checks how a message was refused.
func wantProblem(t testing.TB, a answer, status int, name string, codes ...string) {
	t.Helper()
	for _, code := range codes {
		if a.status == status && a.name() == name && a.code() == code {
			return
		}
	}
	t.Errorf("the answer is %s\nwant status %d, name %s, detail_code %s", a, status, name, strings.Join(codes, " or "))
}

// wantRefreshes checks how often the refresh token was redeemed. All of them
// were: none was presented twice.
func wantRefreshes(t testing.TB, s *Stack, from, to int) {
	t.Helper()
	if n := s.proxy.count(tokenPath, refreshGrant); n < from || n > to {
		t.Errorf("there were %d refreshes, want %d to %d", n, from, to)
	}
	seen := map[string]bool{}
	for _, c := range s.proxy.called(tokenPath, refreshGrant) {
		if token := c.Form.Get("refresh_token"); seen[token] {
			t.Error("a refresh token was presented twice")
		} else {
			seen[token] = true
		}
	}
}

// wantAlive checks that the grant has survived: sending works without anybody
// signing in again.
func wantAlive(t testing.TB, s *Stack, tenant string) {
	t.Helper()
	if a := s.account(t); a.State == "needs_authorization" {
		t.Fatalf("the account: %s", a)
	}
	before := len(s.mailbox.all())
	s.Send(t, tenant, note("after the trouble"))
	s.mailbox.wait(t, before+1)
	if a := s.refresh(t); a.status != http.StatusOK {
		t.Errorf("the refresh token did not survive: %s", a)
	}
	if a := s.account(t); a.State != "authorized" {
		t.Errorf("the account: %s", a)
	}
}

// The mail server refuses a token, for whatever reason.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	for _, server := range []string{onPostfix, onExim, onSMTPServer} {
		for _, way := range []string{"", "-oauthbearer"} {
			if server == onSMTPServer && way != "" {
				continue
			}
			t.Run(server+way, func(t *testing.T) {
				t.Parallel()
				s := Start(t, Options{Servers: []string{server}})
				s.SignIn(t)
				// One token is refused: the next one is not.
				s.proxy.plan(introspectionPath, "", 1, inactive)
				s.Send(t, server+way, note("a token was refused"))
				s.mailbox.wait(t, 1)
				wantRefreshes(t, s, 1, 1)
				if a := s.account(t); a.State != "authorized" {
					t.Errorf("after one refusal the account is %s", a)
				}
			})
		}
	}
}

// The mail server refuses each token, though the authorization server issues
// them: that costs neither the grant nor a storm of refreshes.
func TestEveryTokenRefused(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Servers: []string{onPostfix, onExim, onSMTPServer}})
	s.SignIn(t)
	allow := s.proxy.plan(introspectionPath, "", -1, inactive)
	for _, tenant := range []string{onPostfix, onPostfix + "-oauthbearer", onExim, onSMTPServer} {
		a := s.post(t, tenant, note("refused"))
		wantProblem(t, a, http.StatusServiceUnavailable, "application_error", "authentication_failed")
		if smtp, _ := a.json["smtp"].(map[string]any); smtp["code"] != 535.0 || smtp["stage"] != "auth" {
			t.Errorf("%s: the mail server's words are missing: %s", tenant, a)
		}
	}
	wantRefreshes(t, s, 1, 1)
	allow()
	wantAlive(t, s, onPostfix)
	if n := len(s.mailbox.all()); n != 1 {
		t.Errorf("%d messages arrived, want 1", n)
	}
}

// The token ends earlier than the authorization server had said.
func TestTokenExpiredEarly(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{TokenLife: 8 * time.Second})
	longer := s.proxy.plan(tokenPath, "", -1, rewrite(func(m map[string]any) {
		if m["expires_in"] != nil {
			m["expires_in"] = 3600
		}
	}))
	defer longer()
	s.SignIn(t)
	<-time.After(9 * time.Second) // the authorization server's clock is not ours to turn
	s.Send(t, onPostfix, note("the token has expired"))
	s.mailbox.wait(t, 1)
	wantRefreshes(t, s, 1, 1)
}

// Short-lived tokens are renewed in the background, without traffic.
func TestShortLife(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{TokenLife: 20 * time.Second})
	s.SignIn(t)
	eventually(t, patience, "refreshed in the background", func() bool { return s.proxy.count(tokenPath, refreshGrant) >= 2 })
	s.Send(t, onPostfix, note("fresh"))
	s.mailbox.wait(t, 1)
	wantRefreshes(t, s, 2, 5)
	if a := s.account(t); a.State != "authorized" || a.Generation < 3 {
		t.Errorf("the account: %s", a)
	}
}

// The person takes the grant back at the provider.
func TestRevoked(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.SignIn(t)
	s.Send(t, onPostfix, note("before"))
	exchange := s.proxy.called(tokenPath, codeGrant)[0]
	token, _ := exchange.Answer["refresh_token"].(string)
	r, err := http.NewRequest(http.MethodPost, s.proxy.URL.JoinPath(revocationPath).String(),
		strings.NewReader(url.Values{"token": {token}, "token_type_hint": {"refresh_token"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape("mailer"), url.QueryEscape(s.clientSecret))
	if a := s.do(t, r); a.status != http.StatusOK {
		t.Fatalf("revoking: %s", a)
	}
	// The other way into Postfix has no connection that is signed in already.
	a := s.post(t, onPostfix+"-oauthbearer", note("after"))
	wantProblem(t, a, http.StatusServiceUnavailable, "application_error", "reauthorization_required")
	if v := s.account(t); v.State != "needs_authorization" || v.kind() != "needs_person" || v.Failure.Code != "invalid_grant" {
		t.Errorf("the account: %s", v)
	}
	wantRefreshes(t, s, 1, 1)
	if !strings.Contains(s.log(), "the account needs authorization") {
		t.Error("the log does not say that somebody must sign in")
	}
	// Signing in again mends it, without a disconnect.
	s.SignIn(t)
	s.Send(t, onPostfix+"-oauthbearer", note("again"))
	s.mailbox.wait(t, 2)
}

// What looks like a refusal is an outage: Postfix and Exim say 535 without any
// 334 when introspection fails.
func TestIntrospectionDown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault fault
	}{
		{"500", failWith(500, "")},
		{"hang", hang},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := Start(t, Options{Servers: []string{onPostfix, onExim}})
			s.SignIn(t)
			up := s.proxy.plan(introspectionPath, "", -1, c.fault)
			for _, tenant := range []string{onPostfix, onPostfix + "-oauthbearer", onExim} {
				a := s.post(t, tenant, note("introspection is down"))
				if a.status != http.StatusServiceUnavailable && a.status != http.StatusGatewayTimeout || a.name() != "application_error" {
					t.Errorf("%s: %s", tenant, a)
				}
				t.Logf("%s: %s", tenant, a)
				if strings.HasPrefix(tenant, onPostfix) && c.name == "500" {
					wantProblem(t, a, http.StatusServiceUnavailable, "application_error", "authentication_failed")
				}
			}
			wantRefreshes(t, s, 0, 1)
			up()
			wantAlive(t, s, onPostfix)
			wantAlive(t, s, onExim)
		})
	}
}

// Postfix without its SASL server sends no greeting, or closes.
func TestSASLServerDown(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Servers: []string{onPostfix, onExim}})
	s.SignIn(t)
	s.dovecot.stop()
	for _, tenant := range []string{onPostfix, onPostfix + "-oauthbearer", onExim} {
		a := s.post(t, tenant, note("Dovecot is down"))
		if a.status == http.StatusGatewayTimeout {
			wantProblem(t, a, http.StatusGatewayTimeout, "application_error", "upstream_timeout")
		} else {
			wantProblem(t, a, http.StatusServiceUnavailable, "application_error", "upstream_unavailable")
		}
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", tenant)
		}
	}
	wantRefreshes(t, s, 0, 0)
	s.dovecot.start(t)
	// Postfix lets a service rest whose process had failed.
	eventually(t, 2*patience, "sent again", func() bool {
		return s.post(t, onPostfix, note("Dovecot is back")).status == http.StatusOK
	})
	wantAlive(t, s, onPostfix)
	wantAlive(t, s, onExim)
}

func TestMailServerDown(t *testing.T) {
	t.Parallel()
	for _, server := range []string{onPostfix, onExim, onSMTPServer} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			s := Start(t, Options{Servers: []string{server}})
			s.SignIn(t)
			sent := 0
			send := func(subject string) {
				s.Send(t, server, note(subject))
				sent++
				s.mailbox.wait(t, sent)
				if server == onPostfix {
					// Stopped sooner it would deliver once more, as it may.
					eventually(t, patience, "out of Postfix's queue", func() bool {
						return strings.Count(s.mail[server].log(), ": removed") >= sent
					})
				}
			}
			send("before")
			s.mail[server].stop()
			a := s.post(t, server, note("it is down"))
			if a.status == http.StatusGatewayTimeout {
				// The connection that was kept died under the message, not before: a
				// server's process may outlive its kill by a moment.
				wantProblem(t, a, http.StatusGatewayTimeout, "application_error", "delivery_unknown")
				a = s.post(t, server, note("it is down"))
			}
			wantProblem(t, a, http.StatusServiceUnavailable, "application_error", "upstream_unavailable")
			s.mail[server].start(t)
			send("restarted")
			// Restarted between two messages: a connection that was kept is dead.
			s.mail[server].stop()
			s.mail[server].start(t)
			send("restarted once more")
			wantAlive(t, s, server)
			if n := len(s.mailbox.wait(t, 4)); n != 4 {
				t.Errorf("%d messages arrived, want 4", n)
			}
			wantRefreshes(t, s, 1, 1) // wantAlive's own
		})
	}
}

// Postfix closes a connection that was kept idle, with a 421.
func TestIdleClosed(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Idle: "2s"})
	s.SignIn(t)
	for i := range 3 {
		s.Send(t, onPostfix, note(fmt.Sprintf("message %d", i)))
		s.mailbox.wait(t, i+1)
		eventually(t, patience, "the connection closed", func() bool {
			log := s.mail[onPostfix].log()
			return strings.Count(log, "disconnect from") >= strings.Count(log, "connect from")-strings.Count(log, "disconnect from")
		})
	}
	wantAlive(t, s, onPostfix)
	wantRefreshes(t, s, 1, 1)
}
