//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pattern is one shape of a secret.
type pattern struct{ what, text string }

// canaries are all values that must show nowhere, in all their shapes.
func (s *Stack) canaries() []pattern {
	values := s.proxy.canaries()
	values[s.clientSecret] = "client secret"
	values[url.QueryEscape("mailer")+":"+url.QueryEscape(s.clientSecret)] = "client secret (Basic)"
	values[s.password] = "SMTP password"
	values["\x00"+s.password] = "SMTP password (PLAIN)"
	for tenant, key := range s.keys {
		values[key] = "API key of " + tenant
	}
	var all []pattern
	for value, what := range values {
		for _, text := range shapes(value) {
			all = append(all, pattern{what, text})
		}
	}
	return all
}

// shapes are the texts in which a secret would still be one.
func shapes(secret string) []string {
	all := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret))}
	// In base64 a text looks in three ways, by where it begins. The octets at both
	// ends mix with what stands beside them.
	for skip := range 3 {
		if len(secret) > skip+6 {
			whole := secret[skip:]
			whole = whole[:len(whole)-len(whole)%3]
			all = append(all, base64.RawStdEncoding.EncodeToString([]byte(whole)), base64.RawURLEncoding.EncodeToString([]byte(whole)))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// leaks returns which secrets show in a text.
func leaks(canaries []pattern, text string) []string {
	var found []string
	for _, p := range canaries {
		if !slices.Contains(found, p.what) && strings.Contains(text, p.text) {
			found = append(found, p.what)
		}
	}
	return found
}

func TestLeaksAreFound(t *testing.T) {
	t.Parallel()
	const secret = "abc/def+0123456789=:"
	canaries := []pattern{}
	for _, text := range shapes(secret) {
		canaries = append(canaries, pattern{"secret", text})
	}
	for _, text := range []string{
		secret, "x=" + url.QueryEscape(secret) + "&y", hex.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte("user:" + secret + "!")),
		base64.StdEncoding.EncodeToString([]byte("user=" + secret + "\x01\x01")),
		base64.URLEncoding.EncodeToString([]byte("\x00u\x00" + secret)),
		base64.StdEncoding.EncodeToString([]byte("auth=Bearer " + secret)),
	} {
		if leaks(canaries, "what "+text+" ever") == nil {
			t.Errorf("not found in %s", text)
		}
	}
	if leaks(canaries, "abc/def+012345678 and nothing else") != nil {
		t.Error("found where it is not")
	}
}

// checkSecrets looks for every canary in all that people or programs can see:
// the log, the answers, the pages, the storage, Caddy's own administration.
func (s *Stack) checkSecrets(t testing.TB) {
	t.Helper()
	canaries := s.canaries()
	look := func(where, text string) {
		t.Helper()
		for _, what := range leaks(canaries, text) {
			t.Errorf("the %s shows in %s", what, where)
		}
	}
	for i, line := range strings.Split(s.log(), "\n") {
		for _, what := range leaks(canaries, line) {
			t.Errorf("the %s shows in line %d of Caddy's log: %.500s", what, i+1, line)
		}
	}
	for _, a := range s.answers {
		for _, what := range leaks(canaries, a) {
			// The one place where a ticket is given out.
			if what != "ticket" || !strings.Contains(a, `"expires_at"`) {
				t.Errorf("the %s shows in the answer %.300s", what, a)
			}
		}
	}
	for _, p := range s.pages {
		for _, what := range leaks(canaries, p) {
			if what != "ticket" { // which its own page sends back
				t.Errorf("the %s shows in the page %.300s", what, p)
			}
		}
	}
	look("Caddy's own administration", s.config(t))
	err := filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		// The other folders are the servers', and the mail.
		if err != nil || d.IsDir() || !strings.HasPrefix(name, filepath.Join(s.dir, "storage")) && !strings.HasPrefix(name, filepath.Join(s.dir, "caddy")) {
			return err
		}
		content, err := os.ReadFile(name)
		look("the file "+strings.TrimPrefix(name, s.dir), string(content))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// config is what Caddy's own administration shows of the configuration.
func (s *Stack) config(t testing.TB) string {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.AdminURL+"/config/", nil)
	if err != nil {
		t.Fatal(err)
	}
	a := s.do(t, r)
	if a.status != http.StatusOK || !strings.Contains(a.body, "{env.E2E_CLIENT_SECRET}") {
		t.Fatalf("the configuration: %s", a)
	}
	return a.body
}

// The secrets of a life full of trouble show nowhere.
func TestSecretsShowNowhere(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Servers: []string{onPostfix, onExim, onSMTPServer}})
	b := newBrowser(t)
	show := func(p *webPage) *webPage {
		s.pages = append(s.pages, p.Body)
		return p
	}
	get := func(address string) { show(b.open(t, address)) }

	// Sign-ins: one that is refused, one that is denied, one that works and whose
	// answer is presented again, also at addresses that nearly fit.
	if p := show(s.signIn(t, s.invite(t), "somebody-else@example.com")); p.Status < 400 {
		t.Errorf("somebody else signed in: %s", p.text())
	}
	p := newBrowser(t).open(t, s.invite(t)).submit()
	show(p.b.open(t, p.URL.String()+"/abort"))
	s.proxy.plan(tokenPath, codeGrant, 1, echo)
	show(s.signIn(t, s.invite(t), s.user))
	p = show(s.signIn(t, s.invite(t), s.user))
	if p.Status != http.StatusOK {
		t.Fatalf("the sign-in failed: %s", p.text())
	}
	get(p.URL.String())
	for _, path := range []string{"/oauth/callback/idp/", "/oauth/callback/idp/start", "/oauth/callback/other", "/oauth/callback", "/oauth//callback/idp"} {
		u := *p.URL
		u.Path = path
		get(u.String())
	}
	invitation := s.invite(t)
	for _, path := range []string{"/oauth/callback/idp", "/oauth/callback/idp/start/", "/oauth/callback/other/start"} {
		u, _ := url.Parse(invitation)
		u.Path = path
		get(u.String())
	}

	// Sending by all ways, and with a key that nobody knows.
	for tenant := range s.keys {
		s.Send(t, tenant, note(tenant))
	}
	s.keys["wrong"] = "canary-wrong-key-" + rand.Text()
	if a := s.post(t, "wrong", note("wrong")); a.status != http.StatusForbidden {
		t.Errorf("with a wrong key: %s", a)
	}

	// Renewals that fail in all ways; some authorization servers send back what
	// they were sent.
	for _, f := range []fault{failWith(500, ""), failWith(401, "invalid_client"), garbage, echo, echoPage, redirect("http://localhost:9/?x")} {
		s.proxy.plan(tokenPath, refreshGrant, 1, f)
		if a := s.refresh(t); a.status == http.StatusOK {
			t.Errorf("a refresh went well that could not: %s", a)
		}
		s.account(t)
	}
	if a := s.refresh(t); a.status != http.StatusOK {
		t.Errorf("the last refresh: %s", a)
	}

	// Mail servers that refuse tokens and passwords.
	up := s.proxy.plan(introspectionPath, "", -1, inactive)
	for tenant := range s.keys {
		if strings.HasSuffix(tenant, "-oauthbearer") || tenant == onSMTPServer || tenant == onExim {
			s.post(t, tenant, note("refused"))
		}
	}
	up()
	s.dovecot.stop()
	s.post(t, onPostfix+"-password", note("no SASL server"))
	s.dovecot.start(t)

	// The refresh token dies; a person ends the connection.
	s.proxy.plan(tokenPath, refreshGrant, 2, failWith(400, "invalid_grant"))
	s.refresh(t)
	s.post(t, onExim+"-oauthbearer", note("dead"))
	s.SignIn(t)
	for _, path := range []string{"/accounts", "/tenants", "/providers"} {
		s.admin(t, http.MethodGet, path)
	}
	s.checkSecrets(t)
	if a := s.admin(t, http.MethodPost, "/accounts/idp/"+s.user+"/disconnect"); a.status != http.StatusOK || a.json["revoked_at_provider"] != true {
		t.Errorf("disconnecting: %s", a)
	}
	s.post(t, onExim+"-oauthbearer", note("disconnected"))
	s.caddy.stop()
	for i, line := range strings.Split(s.log(), "\n") {
		for _, what := range leaks(s.canaries(), line) {
			t.Errorf("the %s shows in line %d of Caddy's log: %.500s", what, i+1, line)
		}
	}
	// The test's own eyes: what it looked for was really there to be seen.
	seen := map[string]bool{}
	for _, what := range s.proxy.canaries() {
		seen[what] = true
	}
	for _, what := range []string{"code", "code_verifier", "refresh_token", "access_token", "id_token", "ticket"} {
		if !seen[what] {
			t.Errorf("there was no %s to look for", what)
		}
	}
}

// echo refuses and sends back what it was sent, as an OAuth error.
func echo(x *exchange) {
	x.Header().Set("Content-Type", "application/json")
	x.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(x).Encode(map[string]string{
		"error":             "temporarily_unavailable",
		"error_description": "could not parse " + x.form.Encode() + " with " + x.r.Header.Get("Authorization") + " of " + x.form.Get("refresh_token") + x.form.Get("code"),
	})
}

// echoPage does so with a page.
func echoPage(x *exchange) {
	x.WriteHeader(http.StatusBadGateway)
	_, _ = io.WriteString(x, "<h1>Cannot forward "+x.form.Encode()+x.r.Header.Get("Authorization")+"</h1>")
}
