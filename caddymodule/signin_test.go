package caddymodule

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

const (
	mailbox      = "sender@example.com"
	clientSecret = "canary-client-secret"
)

// oauthSite is Caddy with one tenant that signs in with a token, the
// authorization server and the mail server.
type oauthSite struct {
	*caddyProcess
	idp  *tokenstest.Server
	mail *mailertest.Server
	// switchedOff makes the mail server let nobody in.
	switchedOff atomic.Bool
}

// withoutOutbox is for tests of what is answered where nothing is kept.
const withoutOutbox = "outbox off\n"

// startOAuthSite starts a site. More is added to the content of the global option.
func startOAuthSite(t *testing.T, more ...string) *oauthSite {
	t.Helper()
	idp := tokenstest.NewServer()
	server := httptest.NewServer(idp)
	t.Cleanup(server.Close)
	idp.Issuer, idp.ClientID, idp.ClientSecret = server.URL, "client", clientSecret
	mail := mailertest.NewServer(t)
	site := &oauthSite{idp: idp, mail: mail}
	mail.AcceptTokens(func(user, token string) bool {
		owner, ok := idp.Owner(token)
		return ok && owner == user && !site.switchedOff.Load()
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, mail.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startCaddy(t, fmt.Sprintf(`
		provider idp {
			issuer %s
			client_id client
			client_secret %s
			scopes smtp.send openid email offline_access
			servers 127.0.0.1
		}
		provider other {
			issuer %s
			client_id client
			client_secret %s
			scopes smtp.send offline_access
			servers 127.0.0.1
		}
		tenant default {
			server %s
			auth oauth idp
			user %s
			senders *@example.com
			ca_file %s
		}
		key web %s default
`, server.URL, clientSecret, server.URL, clientSecret, mail.Addr, mailbox, ca, testKey)+strings.Join(more, ""))
	site.caddyProcess = p
	return site
}

// admin makes a call of the administration as the operator.
func (s *oauthSite) admin(method, path string) answer { return s.adminBody(method, path, "{}") }

func (s *oauthSite) adminBody(method, path, body string) answer {
	s.t.Helper()
	header := map[string]string{
		"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA==", "Content-Type": "application/json",
	}
	got := s.do(method, "/admin"+path, header, body)
	if got.status == 0 { // Caddy drops a connection that comes in the midst of a reload
		got = s.do(method, "/admin"+path, header, body)
	}
	return got
}

// state is the account's state as the administration tells it.
func (s *oauthSite) state() string {
	s.t.Helper()
	var v struct{ State string }
	got := s.admin("GET", "/accounts/idp/"+mailbox)
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != 200 {
		s.t.Fatalf("status %d: %s", got.status, got.body)
	}
	return v.State
}

// invite returns the path and query of a fresh link to the start page.
func (s *oauthSite) invite() string {
	s.t.Helper()
	var v struct{ URL string }
	got := s.admin("POST", "/accounts/idp/"+mailbox+"/authorize")
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != 201 {
		s.t.Fatalf("status %d: %s", got.status, got.body)
	}
	target, ok := strings.CutPrefix(v.URL, s.URL)
	if !ok {
		s.t.Fatalf("link %s does not lead to %s", v.URL, s.URL)
	}
	return target
}

var ticketField = regexp.MustCompile(`name="ticket" value="([^"]+)"`)

// begin opens the start page and presses the button. It returns the address of
// the provider and the cookie.
func (s *oauthSite) begin(target string) (address, cookie string) {
	s.t.Helper()
	got := s.do("GET", target, nil, "")
	if got.status != 200 || !strings.Contains(got.body, mailbox) {
		s.t.Fatalf("start page: status %d: %s", got.status, got.body)
	}
	return s.press(got)
}

// press presses the button of a page.
func (s *oauthSite) press(pg answer) (address, cookie string) {
	s.t.Helper()
	m := ticketField.FindStringSubmatch(pg.body)
	if m == nil {
		s.t.Fatalf("no ticket in %s", pg.body)
	}
	got := s.do("POST", "/oauth/callback/idp/start", map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin",
	}, url.Values{"ticket": {html.UnescapeString(m[1])}}.Encode())
	if got.status != 303 {
		s.t.Fatalf("start: status %d: %s", got.status, got.body)
	}
	c, err := http.ParseSetCookie(got.header.Get("Set-Cookie"))
	if err != nil {
		s.t.Fatal(err)
	}
	if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" {
		s.t.Errorf("cookie %v", c)
	}
	return got.header.Get("Location"), c.Name + "=" + c.Value
}

// consent signs in at the provider and comes back.
func (s *oauthSite) consent(address, cookie, user string) answer {
	s.t.Helper()
	response, err := s.idp.Consent(address, user)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.callback(response, cookie)
}

func (s *oauthSite) callback(response url.Values, cookie string) answer {
	s.t.Helper()
	return s.do("GET", "/oauth/callback/idp?"+response.Encode(), map[string]string{"Cookie": cookie}, "")
}

func (s *oauthSite) signIn() {
	s.t.Helper()
	address, cookie := s.begin(s.invite())
	if got := s.consent(address, cookie, mailbox); got.status != 200 || !strings.Contains(got.body, "is connected") {
		s.t.Fatalf("callback: status %d: %s\n%s", got.status, got.body, s.output)
	}
}

const mailBody = `{"from":"sender@example.com","to":"a@example.net","subject":"s","text":"t"}`

// TestKilledCaddySendsAgain: a sign-in, a mail, kill -9, a new start, a mail
// without a sign-in.
func TestKilledCaddySendsAgain(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t, withoutOutbox)
	if got := s.send(mailBody); got.status != 503 || !strings.Contains(got.body, "reauthorization_required") {
		t.Fatalf("before the sign-in: status %d: %s", got.status, got.body)
	}
	if got := s.state(); got != "needs_authorization" {
		t.Errorf("state %s before the sign-in", got)
	}
	s.signIn()
	if got := s.state(); got != "authorized" {
		t.Errorf("state %s after the sign-in", got)
	}
	if got := s.send(mailBody); got.status != 200 {
		t.Fatalf("status %d: %s\n%s", got.status, got.body, s.output)
	}
	s.kill()
	s.start()
	if got := s.send(mailBody); got.status != 200 {
		t.Fatalf("after kill -9: status %d: %s\n%s", got.status, got.body, s.output)
	}
	if n := len(s.mail.Messages()); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
	if got := s.admin("POST", "/accounts/idp/"+mailbox+"/refresh"); got.status != 200 {
		t.Errorf("refresh: status %d: %s", got.status, got.body)
	}
	if n := s.idp.Reused(); n != 0 {
		t.Errorf("%d refresh tokens were presented twice", n)
	}
	if got := s.admin("POST", "/accounts/idp/"+mailbox+"/disconnect"); got.status != 200 || !strings.Contains(got.body, "true") {
		t.Errorf("disconnect: status %d: %s", got.status, got.body)
	}
	if got := s.send(mailBody); got.status != 503 {
		t.Errorf("after the disconnection: status %d: %s", got.status, got.body)
	}
}

// TestRefusedSignIns: whatever goes wrong, a page says so, and the token from
// before stays.
func TestRefusedSignIns(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.signIn()
	tests := []struct {
		name string
		run  func() answer
		want string
	}{
		{"somebody else signs in", func() answer {
			address, cookie := s.begin(s.invite())
			return s.consent(address, cookie, "somebody@example.com")
		}, "Another account signed in"},
		{"somebody else signs in, and again", func() answer {
			address, cookie := s.begin(s.invite())
			first := s.consent(address, cookie, "somebody@example.com")
			address, cookie = s.press(first)
			if u, err := url.Parse(address); err != nil || u.Query().Get("prompt") != "login consent" {
				t.Errorf("the second time the provider is asked at %s", address)
			}
			return s.consent(address, cookie, "somebody@example.com")
		}, "Another account signed in"},
		{"no cookie", func() answer {
			address, _ := s.begin(s.invite())
			return s.consent(address, "", mailbox)
		}, "begun in another browser, or is over"},
		{"cookie of another sign-in under this one's name", func() answer {
			address, cookie := s.begin(s.invite())
			_, other := s.begin(s.invite())
			name, _, _ := strings.Cut(cookie, "=")
			_, value, _ := strings.Cut(other, "=")
			return s.consent(address, name+"="+value, mailbox)
		}, "belongs to no sign-in"},
		{"foreign state", func() answer {
			_, cookie := s.begin(s.invite())
			return s.callback(url.Values{"code": {"x"}, "state": {"y"}}, cookie)
		}, "begun in another browser, or is over"},
		{"wrong issuer", func() answer {
			address, cookie := s.begin(s.invite())
			response, err := s.idp.Consent(address, mailbox)
			if err != nil {
				t.Fatal(err)
			}
			response.Set("iss", "https://evil.example")
			return s.callback(response, cookie)
		}, "belongs to no sign-in"},
		{"denied", func() answer {
			address, cookie := s.begin(s.invite())
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			return s.callback(url.Values{
				"error": {"access_denied"}, "error_description": {"<script>alert(1)</script>"}, "state": {u.Query().Get("state")}, "iss": {s.idp.Issuer},
			}, cookie)
		}, "did not grant access"},
		{"refused for its settings", func() answer {
			address, cookie := s.begin(s.invite())
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			return s.callback(url.Values{"error": {"invalid_scope"}, "state": {u.Query().Get("state")}, "iss": {s.idp.Issuer}}, cookie)
		}, "The provider refuses this server"},
		{"a word that nobody knows", func() answer {
			address, cookie := s.begin(s.invite())
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			return s.callback(url.Values{"error": {"app_not_approved"}, "state": {u.Query().Get("state")}, "iss": {s.idp.Issuer}}, cookie)
		}, "did not grant access"},
		{"answer without a provider", func() answer {
			return s.do("GET", "/oauth/callback?code=x&state=y", nil, "")
		}, "There is no such page"},
		{"another provider's callback", func() answer {
			address, cookie := s.begin(s.invite())
			response, err := s.idp.Consent(address, mailbox)
			if err != nil {
				t.Fatal(err)
			}
			return s.do("GET", "/oauth/callback/other?"+response.Encode(), map[string]string{"Cookie": cookie}, "")
		}, "belongs to no sign-in"},
		{"answer used twice", func() answer {
			address, cookie := s.begin(s.invite())
			response, err := s.idp.Consent(address, mailbox)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.callback(response, cookie); got.status != 200 {
				t.Fatalf("first use: status %d", got.status)
			}
			return s.callback(response, cookie)
		}, "completed before"},
		{"broken ticket", func() answer {
			return s.do("GET", "/oauth/callback/idp/start?ticket=AAAA", nil, "")
		}, "cannot be used any more"},
		{"ticket at another provider's page", func() answer {
			return s.do("GET", strings.Replace(s.invite(), "/idp/", "/other/", 1), nil, "")
		}, "cannot be used any more"},
		{"unknown provider", func() answer {
			return s.do("GET", "/oauth/callback/nobody?code=x&state=y", nil, "")
		}, ""},
		{"posted from another site", func() answer {
			return s.do("POST", "/oauth/callback/idp/start", map[string]string{
				"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "cross-site",
			}, "ticket=x")
		}, "own page"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.run()
			if got.status < 400 || !strings.Contains(got.body, tt.want) {
				t.Errorf("status %d, want a page with %q:\n%s", got.status, tt.want, got.body)
			}
			if strings.Contains(got.body, "<script") {
				t.Errorf("the provider's text is not escaped:\n%s", got.body)
			}
			if tt.want != "" && !strings.Contains(got.header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("policy %q", got.header.Get("Content-Security-Policy"))
			}
			if mail := s.send(mailBody); mail.status != 200 {
				t.Errorf("a send afterwards: status %d: %s", mail.status, mail.body)
			}
		})
	}
	if log := s.output.String(); strings.Contains(log, "code=") || strings.Contains(log, "ticket=") {
		t.Errorf("a code or a ticket is in the log:\n%s", grepLines(log, "code=", "ticket="))
	}
}

// TestHTTPSCookie: on a real site the cookie belongs to this host alone.
func TestHTTPSCookie(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	if status, body := s.reload("redirect_base http://", "redirect_base https://"); status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	var v struct{ URL string }
	if err := json.Unmarshal([]byte(s.admin("POST", "/accounts/idp/"+mailbox+"/authorize").body), &v); err != nil {
		t.Fatal(err)
	}
	target, ok := strings.CutPrefix(v.URL, strings.Replace(s.URL, "http:", "https:", 1))
	if !ok {
		t.Fatalf("link %s", v.URL)
	}
	got := s.do("POST", "/oauth/callback/idp/start", map[string]string{
		"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin",
	}, strings.TrimPrefix(target, "/oauth/callback/idp/start?"))
	c, err := http.ParseSetCookie(got.header.Get("Set-Cookie"))
	if err != nil {
		t.Fatalf("status %d: %v: %s", got.status, err, got.body)
	}
	if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.MaxAge < 500 || c.MaxAge > 600 {
		t.Errorf("cookie %v", c)
	}
}

// TestMailServerRefuses: the right person signs in, and the mail server does not
// let the mailbox in yet. The sign-in need not be made again.
func TestMailServerRefuses(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t, withoutOutbox)
	s.switchedOff.Store(true)
	address, cookie := s.begin(s.invite())
	got := s.consent(address, cookie, mailbox)
	if got.status != 200 || !strings.Contains(got.body, "is signed in, but the mail server refuses it") || !strings.Contains(got.body, "535") {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	if got := s.send(mailBody); got.status != 503 || !strings.Contains(got.body, "authentication_failed") {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	s.switchedOff.Store(false)
	if got := s.send(mailBody); got.status != 200 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
}

// TestPastedSignIn: the browser ends where nobody began anything, and the
// address it arrived at is handed in. What is sent meanwhile uses the old token,
// and what is sent afterwards the new one.
func TestPastedSignIn(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.signIn()
	var begun struct {
		Flow, URL, Session string
		RedirectURI        string `json:"redirect_uri"`
	}
	account := "/accounts/idp/" + mailbox
	got := s.adminBody("POST", account+"/authorize", `{"flow":"paste"}`)
	if err := json.Unmarshal([]byte(got.body), &begun); err != nil || got.status != 201 || begun.Flow != "paste" {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	response, err := s.idp.Consent(begun.URL, mailbox)
	if err != nil {
		t.Fatal(err)
	}
	// The browser shows a page that tells what to do, and nothing of the address.
	page := s.callback(response, "")
	if page.status != 400 || !strings.Contains(page.body, "copy it now") {
		t.Errorf("status %d: %s", page.status, page.body)
	}
	for _, secret := range []string{response.Get("code"), response.Get("state"), mailbox} {
		if strings.Contains(page.body, secret) {
			t.Errorf("the page shows %q", secret)
		}
	}
	if got := s.send(mailBody); got.status != 200 {
		t.Errorf("meanwhile: status %d: %s", got.status, got.body)
	}
	final := begun.RedirectURI + "?" + response.Encode()
	hand, err := json.Marshal(map[string]string{"session": begun.Session, "url": final})
	if err != nil {
		t.Fatal(err)
	}
	got = s.adminBody("POST", account+"/complete", string(hand))
	if got.status != 200 || !strings.Contains(got.body, `"completed"`) || !strings.Contains(got.body, `"generation":2`) || !strings.Contains(got.body, `"authorized_by":"ops"`) {
		t.Fatalf("complete: status %d: %s", got.status, got.body)
	}
	if got := s.send(mailBody); got.status != 200 {
		t.Errorf("afterwards: status %d: %s", got.status, got.body)
	}
	if got := s.adminBody("POST", account+"/complete", string(hand)); got.status != 409 || !strings.Contains(got.body, `"reason":"spent"`) {
		t.Errorf("again: status %d: %s", got.status, got.body)
	}

	// A refresh token from elsewhere.
	_, refreshToken := s.idp.Issue(mailbox, "smtp.send")
	got = s.adminBody("POST", account+"/import", `{"refresh_token":"`+refreshToken+`"}`)
	if got.status != 200 || !strings.Contains(got.body, `"generation":3`) || strings.Contains(got.body, "refresh-") {
		t.Fatalf("import: status %d: %s", got.status, got.body)
	}
	if got := s.admin("POST", account+"/refresh"); got.status != 200 {
		t.Errorf("refresh: status %d: %s", got.status, got.body)
	}
	if got := s.send(mailBody); got.status != 200 {
		t.Errorf("after the import: status %d: %s", got.status, got.body)
	}
	for _, secret := range []string{response.Get("code"), refreshToken, begun.Session, "refresh-", "access-"} {
		if strings.Contains(s.output.String(), secret) {
			t.Errorf("%q is in the log:\n%s", secret, grepLines(s.output.String(), secret))
		}
	}
}

// TestFirstStart: what waits for a person is named, with the call to make.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t, withoutOutbox)
	if got := s.admin("POST", "/accounts/idp/"+mailbox+"/refresh"); got.status != 409 || !strings.Contains(got.body, "/authorize") {
		t.Errorf("refresh: status %d: %s", got.status, got.body)
	}
	if got := s.send(mailBody); got.status != 503 {
		t.Errorf("send: status %d", got.status)
	}
	if n := len(s.mail.Logins()); n != 0 {
		t.Errorf("the mail server was asked %d times", n)
	}
	s.awaitLog("POST /accounts/idp/" + mailbox + "/authorize")
}

// TestAdminDoor: who may come in.
func TestAdminDoor(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	ops := "Basic b3BzOm9wcy1wYXNzd29yZA=="
	authorize := "/accounts/idp/" + mailbox + "/authorize"
	tests := []struct {
		name, method, target string
		header               map[string]string
		status               int
	}{
		{"no user", "GET", "/closed/accounts", nil, 401},
		{"no user, change", "POST", "/closed" + authorize, map[string]string{"Content-Type": "application/json"}, 401},
		{"wrong password", "GET", "/admin/accounts", map[string]string{"Authorization": "Basic b3BzOng="}, 401},
		{"user", "GET", "/admin/accounts", map[string]string{"Authorization": ops}, 200},
		{"only the head", "HEAD", "/admin/accounts", map[string]string{"Authorization": ops}, 200},
		{"providers", "GET", "/admin/providers", map[string]string{"Authorization": ops}, 200},
		{"tenants", "GET", "/admin/tenants", map[string]string{"Authorization": ops}, 200},
		{"form", "POST", "/admin" + authorize, map[string]string{"Authorization": ops, "Content-Type": "application/x-www-form-urlencoded"}, 415},
		{"another site", "POST", "/admin" + authorize, map[string]string{"Authorization": ops, "Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 403},
		{"another origin", "POST", "/admin" + authorize, map[string]string{"Authorization": ops, "Content-Type": "application/json", "Origin": "https://evil.example"}, 403},
		{"wrong method", "GET", "/admin" + authorize, map[string]string{"Authorization": ops}, 405},
		{"unknown account", "POST", "/admin/accounts/idp/nobody@example.com/authorize", map[string]string{"Authorization": ops, "Content-Type": "application/json"}, 404},
		{"unknown call", "GET", "/admin/nothing", map[string]string{"Authorization": ops}, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := s.do(tt.method, tt.target, tt.header, "{}")
			if got.status != tt.status {
				t.Errorf("status %d, want %d: %s", got.status, tt.status, got.body)
			}
			if strings.Contains(got.body, clientSecret) || strings.Contains(got.body, testKey) {
				t.Errorf("a secret is in the answer: %s", got.body)
			}
		})
	}
}
