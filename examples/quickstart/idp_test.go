package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/oauth2"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the authorization server reports each refusal that a test wants
	os.Exit(m.Run())
}

// A clock goes only when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// testIDP starts an authorization server on a free port.
func testIDP(t *testing.T, change func(*idpConfig)) (*idp, *oauth2.Config) {
	t.Helper()
	listeners, err := listenLoopback(0, "test")
	if err != nil {
		t.Fatal(err)
	}
	c := idpConfig{
		issuer:       urlOf(listeners),
		clientID:     clientID,
		clientSecret: clientSecret,
		redirectURI:  "http://localhost:1/oauth/callback/quickstart",
		users:        []user{{"user-1", mailbox}, {"user-2", stranger}},
		tokenLife:    time.Hour,
	}
	if change != nil {
		change(&c)
	}
	p, err := newIDP(c)
	if err != nil {
		t.Fatal(err)
	}
	stop := serveHTTP(p, listeners)
	t.Cleanup(func() {
		err := stop(context.Background())
		if err != nil {
			t.Error(err)
		}
	})
	return p, &oauth2.Config{
		ClientID:     clientID,
		ClientSecret: clientSecret,
		RedirectURL:  c.redirectURI,
		Scopes:       []string{"openid", "email", "offline_access"},
		Endpoint: oauth2.Endpoint{
			AuthURL:   c.issuer + "/authorize",
			TokenURL:  c.issuer + "/oauth/token",
			AuthStyle: oauth2.AuthStyleInHeader,
		},
	}
}

// signIn goes through the sign-in page and answers the query that comes back to the application.
func signIn(t *testing.T, p *idp, authURL string, press button) url.Values {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	trip := &trip{issuer: p.issuer, plugin: &plugin{}, out: io.Discard, client: &http.Client{
		Jar:           jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	at, err := trip.open(t.Context(), authURL)
	if err != nil {
		t.Fatal(err)
	}
	for at.next != "" {
		if originOf(at.next) != p.issuer {
			return query(t, at.next)
		}
		at, err = trip.open(t.Context(), at.next)
		if err != nil {
			t.Fatal(err)
		}
	}
	forms := formsOf(at.body)
	if len(forms) != 1 {
		t.Fatalf("sign-in page: %s", at)
	}
	at, err = trip.submit(t.Context(), at, forms[0], &press)
	for err == nil && at.next != "" && originOf(at.next) == p.issuer {
		at, err = trip.open(t.Context(), at.next)
	}
	if err != nil {
		t.Fatal(err)
	}
	if at.next == "" {
		t.Fatalf("sign-in does not lead back: %s", at)
	}
	return query(t, at.next)
}

func query(t *testing.T, link string) url.Values {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

// tokensFor signs in and redeems the code.
func tokensFor(t *testing.T, p *idp, c *oauth2.Config, email string) *oauth2.Token {
	t.Helper()
	verifier := oauth2.GenerateVerifier()
	back := signIn(t, p, c.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), button{"user", email})
	token, err := c.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// refresh exchanges a refresh token and answers the error code of the server, if it refuses.
func refresh(t *testing.T, c *oauth2.Config, refreshToken string) (*oauth2.Token, string) {
	t.Helper()
	token, err := c.TokenSource(t.Context(), &oauth2.Token{RefreshToken: refreshToken}).Token()
	return token, errorCode(t, err)
}

func errorCode(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	refused, ok := err.(*oauth2.RetrieveError)
	if !ok {
		t.Fatalf("not an answer of the server: %v", err)
	}
	return refused.ErrorCode
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	for name, style := range map[string]oauth2.AuthStyle{
		"client authentication in the header": oauth2.AuthStyleInHeader,
		"client authentication in the form":   oauth2.AuthStyleInParams,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, c := testIDP(t, nil)
			c.Endpoint.AuthStyle = style
			// The library's own client reads discovery, the keys and the ID token as strictly as any.
			party, err := rp.NewRelyingPartyOIDC(t.Context(), p.issuer, c.ClientID, c.ClientSecret, c.RedirectURL, c.Scopes,
				rp.WithVerifierOpts(rp.WithNonce(func(context.Context) string { return "n" })))
			if err != nil {
				t.Fatal(err)
			}
			verifier := oauth2.GenerateVerifier()
			back := signIn(t, p, c.AuthCodeURL("a state", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("nonce", "n")),
				button{"user", stranger})
			if back.Get("state") != "a state" {
				t.Errorf("state = %q", back.Get("state"))
			}
			token, err := c.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
			if err != nil {
				t.Fatal(err)
			}
			raw, _ := token.Extra("id_token").(string)
			claims, err := rp.VerifyIDToken[*oidc.IDTokenClaims](t.Context(), raw, party.IDTokenVerifier())
			if err != nil {
				t.Fatal(err)
			}
			if claims.Email != stranger || !bool(claims.EmailVerified) || claims.Subject != "user-2" || claims.Nonce != "n" {
				t.Errorf("ID token: email %q, verified %v, sub %q, nonce %q", claims.Email, claims.EmailVerified, claims.Subject, claims.Nonce)
			}
			if left := time.Until(token.Expiry); left < 58*time.Minute || left > time.Hour {
				t.Errorf("the token lives for %v, want an hour", left)
			}
			if token.RefreshToken == "" {
				t.Error("no refresh token")
			}
			owner, err := p.owner(token.AccessToken)
			if err != nil || owner != stranger {
				t.Errorf("owner = %q, %v", owner, err)
			}
		})
	}
}

func TestSignInRefused(t *testing.T) {
	t.Parallel()
	good := oauth2.S256ChallengeOption(oauth2.GenerateVerifier())
	tests := []struct {
		name    string
		options []oauth2.AuthCodeOption
		press   button
		want    string
	}{
		{"user presses Refuse", []oauth2.AuthCodeOption{good}, button{"refuse", "1"}, "access_denied"},
		{"no PKCE", nil, button{}, "invalid_request"},
		{"plain PKCE", []oauth2.AuthCodeOption{
			oauth2.SetAuthURLParam("code_challenge", "c"), oauth2.SetAuthURLParam("code_challenge_method", "plain"),
		}, button{}, "invalid_request"},
		{"prompt none", []oauth2.AuthCodeOption{good, oauth2.SetAuthURLParam("prompt", "none")}, button{}, "login_required"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, c := testIDP(t, nil)
			back := signIn(t, p, c.AuthCodeURL("s", tt.options...), tt.press)
			if back.Get("error") != tt.want || back.Has("code") || back.Get("state") != "s" {
				t.Errorf("got %v, want error %s", back, tt.want)
			}
		})
	}
}

func TestCodeRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*oauth2.Config, *clock) (verifier string) // "" keeps the right one
		want   string
	}{
		{"wrong verifier", func(*oauth2.Config, *clock) string { return oauth2.GenerateVerifier() }, "invalid_grant"},
		{"wrong secret", func(c *oauth2.Config, _ *clock) string { c.ClientSecret = "wrong"; return "" }, "invalid_client"},
		{"unknown client", func(c *oauth2.Config, _ *clock) string { c.ClientID = "wrong"; return "" }, "invalid_client"},
		{"other redirect URI", func(c *oauth2.Config, _ *clock) string { c.RedirectURL += "x"; return "" }, "invalid_grant"},
		{"code too old", func(_ *oauth2.Config, k *clock) string { k.advance(codeLife); return "" }, "invalid_grant"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newClock()
			p, c := testIDP(t, func(c *idpConfig) { c.now = k.now })
			verifier := oauth2.GenerateVerifier()
			back := signIn(t, p, c.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), button{"user", mailbox})
			if other := tt.change(c, k); other != "" {
				verifier = other
			}
			_, err := c.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
			if got := errorCode(t, err); got != tt.want {
				t.Errorf("error %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCodeWorksOnce(t *testing.T) {
	t.Parallel()
	p, c := testIDP(t, nil)
	verifier := oauth2.GenerateVerifier()
	back := signIn(t, p, c.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), button{"user", mailbox})
	for i, want := range []string{"", "invalid_grant"} {
		_, err := c.Exchange(t.Context(), back.Get("code"), oauth2.VerifierOption(verifier))
		if got := errorCode(t, err); got != want {
			t.Errorf("try %d: error %q, want %q", i+1, got, want)
		}
	}
}

// Two requests with one code, or one refresh token, may both be found good before either has got its tokens.
func TestGrantsWorkOnceAtATime(t *testing.T) {
	t.Parallel()
	s, err := newIDPStore(&idpClient{id: clientID}, clientSecret, []user{{"user-1", mailbox}}, time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	req, err := s.CreateAuthRequest(t.Context(), &oidc.AuthRequest{
		ClientID: clientID, CodeChallenge: "c", CodeChallengeMethod: oidc.CodeChallengeMethodS256,
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	err = s.signIn(req.GetID(), mailbox)
	if err != nil {
		t.Fatal(err)
	}
	err = s.SaveAuthCode(t.Context(), req.GetID(), "code")
	if err != nil {
		t.Fatal(err)
	}
	token := ""
	for _, kind := range []string{"code", "refresh token"} {
		var found [2]op.TokenRequest
		for i := range found {
			if kind == "code" {
				found[i], err = s.AuthRequestByCode(t.Context(), "code")
			} else {
				found[i], err = s.TokenRequestByRefreshToken(t.Context(), token)
			}
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
		}
		_, next, _, err := s.CreateAccessAndRefreshTokens(t.Context(), found[0], token)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		_, _, _, err = s.CreateAccessAndRefreshTokens(t.Context(), found[1], token)
		var refused *oidc.Error
		if !errors.As(err, &refused) || refused.ErrorType != oidc.InvalidGrant {
			t.Errorf("%s again: %v, want invalid_grant", kind, err)
		}
		token = next
	}
}

func TestRefreshRotates(t *testing.T) {
	t.Parallel()
	p, c := testIDP(t, nil)
	first := tokensFor(t, p, c, mailbox)

	second, code := refresh(t, c, first.RefreshToken)
	if code != "" {
		t.Fatalf("refresh: %s", code)
	}
	if second.RefreshToken == "" || second.RefreshToken == first.RefreshToken {
		t.Error("the refresh token did not change")
	}
	if second.AccessToken == first.AccessToken {
		t.Error("the access token did not change")
	}
	for name, token := range map[string]*oauth2.Token{"first": first, "second": second} {
		owner, err := p.owner(token.AccessToken)
		if err != nil || owner != mailbox {
			t.Errorf("%s access token: owner %q, %v", name, owner, err)
		}
	}
	if _, code = refresh(t, c, first.RefreshToken); code != "invalid_grant" {
		t.Errorf("used refresh token: error %q, want invalid_grant", code)
	}
	if _, code = refresh(t, c, second.RefreshToken); code != "" {
		t.Errorf("new refresh token: error %q", code)
	}
}

func TestAccessTokenExpires(t *testing.T) {
	t.Parallel()
	k := newClock()
	p, c := testIDP(t, func(c *idpConfig) { c.now, c.tokenLife = k.now, time.Minute })
	token := tokensFor(t, p, c, mailbox)

	k.advance(59 * time.Second)
	if _, err := p.owner(token.AccessToken); err != nil {
		t.Errorf("after 59 seconds: %v", err)
	}
	k.advance(time.Second)
	if _, err := p.owner(token.AccessToken); err == nil {
		t.Error("still valid after its minute")
	}
	fresh, code := refresh(t, c, token.RefreshToken)
	if code != "" {
		t.Fatalf("refresh: %s", code)
	}
	if _, err := p.owner(fresh.AccessToken); err != nil {
		t.Errorf("fresh token: %v", err)
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		token       func(*oauth2.Token) string
		hint        string
		wantRefresh string
	}{
		{"access token", func(t *oauth2.Token) string { return t.AccessToken }, "access_token", ""},
		{"access token without hint", func(t *oauth2.Token) string { return t.AccessToken }, "", ""},
		{"refresh token takes the access token along", func(t *oauth2.Token) string { return t.RefreshToken }, "refresh_token", "invalid_grant"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, c := testIDP(t, nil)
			token := tokensFor(t, p, c, mailbox)
			form := url.Values{"token": {tt.token(token)}}
			if tt.hint != "" {
				form.Set("token_type_hint", tt.hint)
			}
			if status := postAsClient(t, p.issuer+"/revoke", form); status != http.StatusOK {
				t.Fatalf("revocation answered %d", status)
			}
			if _, err := p.owner(token.AccessToken); err == nil {
				t.Error("the access token is still good")
			}
			if _, code := refresh(t, c, token.RefreshToken); code != tt.wantRefresh {
				t.Errorf("refresh: error %q, want %q", code, tt.wantRefresh)
			}
		})
	}
}

func TestRevocationOfUnknownToken(t *testing.T) {
	t.Parallel()
	p, _ := testIDP(t, nil)
	if status := postAsClient(t, p.issuer+"/revoke", url.Values{"token": {"nonsense"}}); status != http.StatusOK {
		t.Errorf("revocation answered %d, want 200 (RFC 7009 section 2.2)", status)
	}
}

func postAsClient(t *testing.T, link string, form url.Values) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, link, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(clientID, clientSecret)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	p, c := testIDP(t, nil)
	res, err := http.Get(p.issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var d oidc.DiscoveryConfiguration
	err = json.NewDecoder(res.Body).Decode(&d)
	if err != nil {
		t.Fatal(err)
	}
	if d.Issuer != p.issuer || d.AuthorizationEndpoint != c.Endpoint.AuthURL || d.TokenEndpoint != c.Endpoint.TokenURL {
		t.Errorf("endpoints: %q %q %q", d.Issuer, d.AuthorizationEndpoint, d.TokenEndpoint)
	}
	if d.RevocationEndpoint == "" || len(d.CodeChallengeMethodsSupported) != 1 || d.CodeChallengeMethodsSupported[0] != "S256" {
		t.Errorf("revocation %q, challenge methods %v", d.RevocationEndpoint, d.CodeChallengeMethodsSupported)
	}
}

func TestLoginPageEscapes(t *testing.T) {
	t.Parallel()
	p, _ := testIDP(t, nil)
	res, err := http.PostForm(p.issuer+"/login", url.Values{"id": {"x"}, "user": {"<script>alert(1)</script>"}})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusBadRequest || strings.Contains(string(body), "<script") {
		t.Errorf("%d: %s", res.StatusCode, body)
	}
}
