//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// Without a person: client credentials with a secret and with a certificate at
// oidc-provider, and a service account.
func TestAppsSend(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Servers: []string{onPostfix}, Apps: true})
	for i, tenant := range appTenants {
		a := s.Send(t, tenant, note("from "+tenant))
		mail := s.mailbox.wait(t, i+1)[i]
		if mail.From != appUser {
			t.Errorf("%s: %s; the mail came from %s", tenant, a, mail.From)
		}
	}
	// Two secrets: the first was tried once, and the one that is right remembered.
	s.admin(t, http.MethodPost, "/accounts/app_secret/app/refresh")
	if n := s.proxy.count(tokenPath, "client_credentials"); n != 5 {
		t.Errorf("%d posts, want two for the first secret and the second, one for the refresh, one each for the certificate and for the service account", n)
	}
	s.checkSecrets(t)
}

// A secret that is replaced in its file, while Caddy runs.
func TestSecretReplaced(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Servers: []string{onPostfix}, Apps: true})
	s.apps.write(t, "secret-2", "canary-expired-secret")
	a := s.post(t, appSecret, note("with no secret that is right"))
	wantProblem(t, a, http.StatusServiceUnavailable, "application_error", "provider_configuration")
	s.apps.write(t, "secret-1", s.clientSecret)
	if a := s.admin(t, http.MethodPost, "/accounts/app_secret/app/refresh"); a.status != http.StatusOK {
		t.Fatalf("with the new secret: %s", a)
	}
	s.Send(t, appSecret, note("with the new secret"))
	s.mailbox.wait(t, 1)
	s.checkSecrets(t)
}

// A sign-in by device code, on oidc-provider's own pages.
func TestDeviceCode(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	a := s.administer(t, http.MethodPost, "/accounts/idp/"+s.user+"/authorize", map[string]any{"flow": "device"})
	if a.status != http.StatusCreated {
		t.Fatalf("the beginning: %s", a)
	}
	session, _ := a.json["session"].(string)
	code, _ := a.json["user_code"].(string)
	address, _ := a.json["verification_uri"].(string)
	poll := func() answer {
		t.Helper()
		a := s.administer(t, http.MethodPost, "/accounts/idp/"+s.user+"/complete", map[string]any{"session": session})
		if again, ok := a.json["session"].(string); ok {
			session = again
		}
		return a
	}
	if a := poll(); a.status != http.StatusAccepted || a.json["status"] != "pending" {
		t.Errorf("before the person has come: %s", a)
	}
	page := newBrowser(t).open(t, address).submit("user_code", code)
	page = s.consent(t, page.submit(), s.user) // the code is the one that was told
	if page.Status != http.StatusOK {
		t.Fatalf("the provider's last page, status %d: %s", page.Status, page.text())
	}
	eventually(t, 20*time.Second, "the device's sign-in", func() bool { return poll().status == http.StatusOK })
	if v := s.account(t); v.State != "authorized" {
		t.Errorf("the account: %s", v)
	}
	wantAlive(t, s, onPostfix)
	s.checkSecrets(t)
}

// A person whose browser cannot reach this server, and pastes the address.
func TestPaste(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	a := s.administer(t, http.MethodPost, "/accounts/idp/"+s.user+"/authorize", map[string]any{"flow": "paste"})
	if a.status != http.StatusCreated {
		t.Fatalf("the beginning: %s", a)
	}
	start, _ := a.json["url"].(string)
	page := s.consent(t, newBrowser(t).open(t, start), s.user)
	if page.Status < 400 || !strings.Contains(page.URL.RawQuery, "code=") {
		t.Fatalf("the other browser ended at %s, status %d: %s", page.URL.Path, page.Status, page.text())
	}
	s.proxy.keep("code", page.URL.Query().Get("code"))
	a = s.administer(t, http.MethodPost, "/accounts/idp/"+s.user+"/complete", map[string]any{"session": a.json["session"], "url": page.URL.String()})
	if a.status != http.StatusOK {
		t.Fatalf("the end: %s", a)
	}
	wantAlive(t, s, onPostfix)
	s.checkSecrets(t)
}

// A refresh token that was obtained elsewhere, and the revocation of the grant.
func TestImportAndRevoke(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	refreshToken := s.grantElsewhere(t)
	if a := s.administer(t, http.MethodPost, "/accounts/idp/"+s.user+"/import", map[string]any{"refresh_token": refreshToken}); a.status != http.StatusOK {
		t.Fatalf("the import: %s", a)
	}
	wantAlive(t, s, onPostfix)
	if s.refresh(t).status != http.StatusOK {
		t.Error("the imported grant can't be refreshed")
	}
	calls := s.proxy.called(tokenPath, refreshGrant)
	newest, _ := calls[len(calls)-1].Answer["refresh_token"].(string)
	a := s.admin(t, http.MethodPost, "/accounts/idp/"+s.user+"/disconnect")
	if a.status != http.StatusOK || a.json["revoked_at_provider"] != true {
		t.Errorf("disconnecting: %s", a)
	}
	if n := s.proxy.count("/token/revocation", ""); n != 1 {
		t.Errorf("%d revocations", n)
	}
	// The grant is dead at the provider: a copy of its token is of no use.
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {newest}}
	r, _ := http.NewRequest(http.MethodPost, s.proxy.URL.JoinPath(tokenPath).String(), strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("mailer", url.QueryEscape(s.clientSecret))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var said struct{ Error string }
	_ = json.NewDecoder(resp.Body).Decode(&said)
	if said.Error != "invalid_grant" {
		t.Errorf("the provider says %q to the revoked token", said.Error)
	}
	s.checkSecrets(t)
}

// grantElsewhere is another program's sign-in with the same client registration.
// It returns its refresh token.
func (s *Stack) grantElsewhere(t testing.TB) string {
	t.Helper()
	verifier := oauth2.GenerateVerifier()
	program := oauth2.Config{
		ClientID: "mailer", ClientSecret: s.clientSecret, RedirectURL: s.URL + "/oauth/callback/idp",
		Scopes: []string{"openid", "email", "offline_access", "smtp.send"},
		Endpoint: oauth2.Endpoint{
			AuthURL: s.proxy.URL.JoinPath("/auth").String(), TokenURL: s.proxy.URL.JoinPath(tokenPath).String(), AuthStyle: oauth2.AuthStyleInHeader,
		},
	}
	start := program.AuthCodeURL("elsewhere", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("prompt", "consent"))
	page := s.consent(t, newBrowser(t).open(t, start), s.user)
	token, err := program.Exchange(t.Context(), page.URL.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil || token.RefreshToken == "" {
		t.Fatalf("signing in elsewhere: %v", err)
	}
	return token.RefreshToken
}
