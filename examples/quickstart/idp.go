package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// idpConfig says what the embedded authorization server is like.
type idpConfig struct {
	issuer       string // its own URL, without a slash at the end
	clientID     string
	clientSecret string
	redirectURI  string
	users        []user
	tokenLife    time.Duration    // of access tokens
	now          func() time.Time // [time.Now] when nil
	broken       bool             // the token endpoint answers 500
}

// An idp is the embedded authorization server: OpenID Connect with discovery, authorization code and PKCE, refresh
// and revocation, by github.com/zitadel/oidc. Here are its memory ([idpStore]), its sign-in page, and the question
// that a mail server asks: whose token is this?
type idp struct {
	issuer   string
	store    *idpStore
	provider *op.Provider
	handler  http.Handler
}

func newIDP(c idpConfig) (*idp, error) {
	if c.now == nil {
		c.now = time.Now
	}
	client := &idpClient{id: c.clientID, redirectURI: c.redirectURI}
	store, err := newIDPStore(client, c.clientSecret, c.users, c.tokenLife, c.now)
	if err != nil {
		return nil, err
	}
	config := &op.Config{
		CodeMethodS256:        true,
		AuthMethodPost:        true,
		GrantTypeRefreshToken: true,
		SupportedScopes:       []string{oidc.ScopeOpenID, oidc.ScopeEmail, oidc.ScopeOfflineAccess},
		SupportedClaims:       []string{"sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "email", "email_verified"},
	}
	_, err = rand.Read(config.CryptoKey[:])
	if err != nil {
		return nil, fmt.Errorf("making a token key: %w", err)
	}
	// No browser script has business here, so nothing is shared across origins.
	provider, err := op.NewProvider(config, store, op.StaticIssuer(c.issuer), op.WithAllowInsecure(), op.WithCORSOptions(nil))
	if err != nil {
		return nil, fmt.Errorf("setting up the authorization server: %w", err)
	}
	p := &idp{issuer: c.issuer, store: store, provider: provider}

	mux := http.NewServeMux()
	mux.Handle("/", provider)
	l := &login{idp: p, returnsTo: originOf(c.redirectURI)}
	mux.HandleFunc("GET /login", l.show)
	mux.HandleFunc("POST /login", l.submit)
	mux.HandleFunc("GET /style.css", serveStyle)
	if c.broken {
		mux.HandleFunc(provider.TokenEndpoint().Relative(), brokenEndpoint)
	}
	p.handler = mux
	return p, nil
}

// ServeHTTP implements [http.Handler].
func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

var errBadToken = errors.New("the access token is unknown, revoked or too old")

// owner answers whose mailbox an access token opens.
func (p *idp) owner(token string) (email string, err error) {
	plain, err := p.provider.Crypto().Decrypt(token)
	if err != nil {
		return "", errBadToken
	}
	id, subject, ok := strings.Cut(plain, ":")
	if !ok {
		return "", errBadToken
	}
	email, ok = p.store.owner(id, subject)
	if !ok {
		return "", errBadToken
	}
	return email, nil
}

// resume is where the browser goes once somebody has signed in; the library then makes the code.
func (p *idp) resume(ctx context.Context, requestID string) string {
	return op.AuthCallbackURL(p.provider)(op.ContextWithIssuer(ctx, p.issuer), url.QueryEscape(requestID))
}

func brokenEndpoint(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusInternalServerError)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"error":             "server_error",
		"error_description": "broken on purpose by -break idp",
	})
}
