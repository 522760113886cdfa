package caddymodule

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// TestApplicationSends: an application's two mailboxes, without a sign-in, with one
// token; and a secret that is replaced in its file while Caddy runs.
func TestApplicationSends(t *testing.T) {
	t.Parallel()
	idp := tokenstest.NewServer()
	server := httptest.NewServer(idp)
	t.Cleanup(server.Close)
	idp.Issuer, idp.ClientID, idp.ClientSecret = server.URL, "client", clientSecret
	mail := mailertest.NewServer(t)
	mail.AcceptTokens(func(_, token string) bool { _, ok := idp.Owner(token); return ok })
	dir := t.TempDir()
	secret, ca := filepath.Join(dir, "secret"), filepath.Join(dir, "ca.pem")
	writeFile(t, secret, []byte(clientSecret+"\n"))
	writeFile(t, ca, mail.CA)
	const tenant = `
		tenant %[1]s {
			server %[2]s
			auth oauth app
			user %[1]s@example.com
			ca_file %[3]s
		}
		key %[1]s %[4]s-%[1]s %[1]s
`
	p := startCaddy(t, fmt.Sprintf(`
		provider app {
			issuer %s
			grant client_credentials
			client_id client
			client_secret {file.%s}
			scopes smtp.send
			servers 127.0.0.1
		}
`, server.URL, secret)+fmt.Sprintf(tenant, "orders", mail.Addr, ca, testKey)+fmt.Sprintf(tenant, "reports", mail.Addr, ca, testKey))
	s := &oauthSite{caddyProcess: p, idp: idp, mail: mail}
	send := func() {
		t.Helper()
		for _, name := range []string{"orders", "reports"} {
			got := p.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + testKey + "-" + name, "Content-Type": "application/json"},
				`{"from":"`+name+`@example.com","to":"a@example.net","subject":"s","text":"t"}`)
			if got.status != 200 {
				t.Fatalf("%s: status %d: %s", name, got.status, got.body)
			}
		}
	}
	fetched := func() int {
		n := 0
		for _, r := range idp.Requests() {
			if r.Form.Get("grant_type") == "client_credentials" {
				n++
			}
		}
		return n
	}
	send()
	users := map[string]bool{}
	for _, l := range mail.Logins() {
		users[l.User] = true
	}
	if len(mail.Logins()) != 2 || !users["orders@example.com"] || !users["reports@example.com"] {
		t.Errorf("sign-ins at the mail server: %+v", mail.Logins())
	}
	if n := fetched(); n != 1 {
		t.Errorf("%d tokens were fetched for two mailboxes of one application", n)
	}
	if got := s.admin("POST", "/accounts/app/app/refresh"); got.status != 200 {
		t.Errorf("refresh: status %d: %s", got.status, got.body)
	}
	const next = "canary-next-secret"
	idp.ClientSecret = next
	writeFile(t, secret, []byte(next+"\n"))
	if got := s.admin("POST", "/accounts/app/app/refresh"); got.status != 200 {
		t.Errorf("refresh with a new secret: status %d: %s", got.status, got.body)
	}
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	if got := s.admin("POST", "/accounts/app/app/refresh"); got.status != 200 {
		t.Errorf("refresh with the file away: status %d: %s", got.status, got.body)
	}
	send()
	if out := p.output.String(); strings.Contains(out, clientSecret) || strings.Contains(out, next) {
		t.Errorf("a secret is in the log:\n%s", grepLines(out, clientSecret, next))
	}
	p.awaitLog("can't be used; the last good one")
}
