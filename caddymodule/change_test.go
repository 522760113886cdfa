package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// What becomes of a sign-in whose settings change while its token is in use, as
// docs/settings.md tells it.
func TestSettingsChange(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t, withoutOutbox)
	const nextSecret = "the-secret-after-this-one"
	s.idp.MoreSecrets = []string{nextSecret}
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(elsewhere.Close)
	s.signIn()
	load := func(want int, replacements ...string) string {
		t.Helper()
		status, body := s.reload(replacements...)
		if status != want {
			t.Fatalf("loading: status %d, want %d: %s", status, want, body)
		}
		return body
	}
	send := func() answer {
		t.Helper()
		got := s.send(mailBody)
		for try := 0; got.status == 0 && try < 3; try++ {
			got = s.send(mailBody) // the kernel resets connections that wait at a listener that closes
		}
		return got
	}
	posts := func() (n int) {
		for _, r := range s.idp.Requests() {
			if r.Path == tokenstest.PathToken {
				n++
			}
		}
		return n
	}
	const user = "user " + mailbox
	for _, c := range []struct {
		name         string
		replacements []string
		serves       bool // with the sign-in that was there
		refreshes    bool
	}{
		{"nothing", nil, true, true},
		{"secret", []string{clientSecret, nextSecret}, true, true},
		{"scopes", []string{"smtp.send openid email offline_access", "smtp.send calendar offline_access"}, true, true},
		{"client id", []string{"client_id client", "client_id another"}, false, false},
		{"token endpoint", []string{"client_id client", "client_id client\n\t\t\ttoken_endpoint " + elsewhere.URL + "/token"}, false, false},
		{"issuer", []string{"issuer " + s.idp.Issuer, "issuer " + elsewhere.URL}, false, false},
		{"provider", []string{"auth oauth idp", "auth oauth other"}, false, false},
		{"user", []string{user, "user somebody.else@example.com"}, false, false},
		{"no account", []string{"auth oauth idp", "auth none", user, "from " + mailbox}, false, false},
	} {
		load(200, c.replacements...)
		before := posts()
		// Without an account the mail server wants a sign-in that the tenant has not.
		if got := send(); (got.status == 200) != c.serves || got.status != 200 && got.status != 503 && got.status != 422 {
			t.Errorf("%s: a mail: status %d: %s", c.name, got.status, got.body)
		}
		if got := s.admin("POST", "/accounts/idp/"+mailbox+"/refresh"); (got.status == 200) != c.refreshes {
			t.Errorf("%s: a refresh: status %d: %s", c.name, got.status, got.body)
		}
		if n := posts() - before; (n > 0) != c.refreshes {
			t.Errorf("%s: %d posts to the token endpoint", c.name, n)
		}
		load(200)
		if got := send(); got.status != 200 {
			t.Errorf("%s: a mail after the setting was put back: status %d: %s", c.name, got.status, got.body)
		}
	}
	if n := asked.Load(); n > 1 { // the metadata of the other issuer
		t.Errorf("%d requests came to where the settings had been led", n)
	}
	away := load(400, fmt.Sprintf("server %s", s.mail.Addr), "server smtp.example.org")
	if !strings.Contains(away, "not among the servers that may see tokens of provider idp") {
		t.Errorf("a mail server that may not see the token: %s", away)
	}
	if got := send(); got.status != 200 {
		t.Errorf("after the configuration that was refused: status %d: %s", got.status, got.body)
	}
	for _, m := range s.mail.Logins() {
		if m.User != mailbox {
			t.Errorf("the token was shown for %s", m.User)
		}
	}
	if n := s.idp.Reused(); n != 0 {
		t.Errorf("%d refresh tokens were presented twice", n)
	}
}
