package main

import (
	"crypto/rsa"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// An authRequest is one sign-in on its way, as the browser brought it and with what has become of it since.
// It implements [op.AuthRequest].
type authRequest struct {
	oidc.AuthRequest
	id       string
	expires  time.Time
	subject  string    // empty until somebody has signed in
	signedIn time.Time // zero until then
}

func (r *authRequest) copy() *authRequest {
	c := *r
	return &c
}

func (r *authRequest) GetID() string          { return r.id }
func (r *authRequest) GetACR() string         { return "" }
func (r *authRequest) GetAMR() []string       { return nil }
func (r *authRequest) GetAudience() []string  { return []string{r.ClientID} }
func (r *authRequest) GetAuthTime() time.Time { return r.signedIn }
func (r *authRequest) GetClientID() string    { return r.ClientID }
func (r *authRequest) GetNonce() string       { return r.Nonce }
func (r *authRequest) GetScopes() []string    { return slices.Clone(r.Scopes) }
func (r *authRequest) GetSubject() string     { return r.subject }
func (r *authRequest) Done() bool             { return !r.signedIn.IsZero() }

func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: r.CodeChallenge, Method: r.CodeChallengeMethod}
}

// A refreshToken is what a sign-in has left behind. It implements [op.RefreshTokenRequest].
type refreshToken struct {
	token    string
	grant    string // the same for all tokens that descend from one sign-in
	subject  string
	client   string
	scopes   []string // granted
	current  []string // asked for this time
	signedIn time.Time
}

func (t *refreshToken) GetAMR() []string                 { return nil }
func (t *refreshToken) GetAudience() []string            { return []string{t.client} }
func (t *refreshToken) GetAuthTime() time.Time           { return t.signedIn }
func (t *refreshToken) GetClientID() string              { return t.client }
func (t *refreshToken) GetScopes() []string              { return slices.Clone(t.current) }
func (t *refreshToken) GetSubject() string               { return t.subject }
func (t *refreshToken) SetCurrentScopes(scopes []string) { t.current = scopes }

// The idpClient is the one application that is registered at the authorization server. It implements [op.Client].
type idpClient struct {
	id          string
	redirectURI string
}

func (c *idpClient) GetID() string                       { return c.id }
func (c *idpClient) RedirectURIs() []string              { return []string{c.redirectURI} }
func (c *idpClient) PostLogoutRedirectURIs() []string    { return nil }
func (c *idpClient) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c *idpClient) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }
func (c *idpClient) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c *idpClient) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeBearer }
func (c *idpClient) IDTokenLifetime() time.Duration       { return 10 * time.Minute }
func (c *idpClient) DevMode() bool                        { return false }
func (c *idpClient) IsScopeAllowed(string) bool           { return false }
func (c *idpClient) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c *idpClient) ClockSkew() time.Duration             { return 0 }
func (c *idpClient) LoginURL(requestID string) string {
	return "/login?id=" + url.QueryEscape(requestID)
}

func (c *idpClient) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}

func (c *idpClient) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

func (c *idpClient) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

// A signingKey signs ID tokens. It implements [op.SigningKey].
type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) ID() string                                  { return k.id }

// A publicKey is a signingKey as the world may see it. It implements [op.Key].
type publicKey signingKey

func (k publicKey) ID() string                         { return k.id }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return &k.key.PublicKey }
