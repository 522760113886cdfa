package tokens

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
)

// Client speaks to one provider. It is safe for concurrent use.
type Client struct {
	provider Provider
	// registration is what the tokens that the provider issues belong to.
	registration string
	http         *http.Client
	// now is the clock of assertions.
	now func() time.Time
	// worked is the index of the credential that was last accepted.
	worked atomic.Int64
	// circuit keeps accounts from asking in vain.
	circuit circuit

	mu sync.Mutex
	// metadata is the discovered metadata; nil until it is needed.
	metadata *metadata
	// discovery is the one under way; nil for none.
	discovery *discovery
}

// NewClient returns a client. A nil transport means the default one.
func NewClient(p Provider, transport http.RoundTripper) *Client {
	return &Client{provider: p, registration: p.Registration(), http: newHTTPClient(transport), now: time.Now}
}

// Provider returns the provider's settings, without what discovery adds.
func (c *Client) Provider() Provider { return c.provider }

// authorizationURL returns where a person consents (RFC 6749, section 4.1.1).
func (c *Client) authorizationURL(p Provider, state, nonce, verifier, user, prompt string) string {
	cfg := oauth2.Config{
		ClientID:    p.ClientID,
		Endpoint:    oauth2.Endpoint{AuthURL: p.AuthorizationEndpoint},
		RedirectURL: p.RedirectURI,
		Scopes:      p.Scopes,
	}
	opts := []oauth2.AuthCodeOption{
		oauth2.S256ChallengeOption(verifier),
		oauth2.SetAuthURLParam("login_hint", user),
	}
	if nonce != "" {
		opts = append(opts, oauth2.SetAuthURLParam("nonce", nonce))
	}
	if prompt = joinPrompts(prompt, p.Prompt); prompt != "" {
		opts = append(opts, oauth2.SetAuthURLParam("prompt", prompt))
	}
	for k, v := range p.AuthParams {
		opts = append(opts, oauth2.SetAuthURLParam(k, v))
	}
	return cfg.AuthCodeURL(state, opts...)
}

// joinPrompts returns a prompt that asks for what both ask for (OpenID Connect
// Core, section 3.1.2.1). Google gives a refresh token only with its consent,
// whatever a sign-in wants besides.
func joinPrompts(a, b string) string {
	words := strings.Fields(a)
	for w := range strings.FieldsSeq(b) {
		if !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

// exchange redeems an authorization code, once (RFC 6749, section 4.1.3).
func (c *Client) exchange(ctx context.Context, code, verifier string) (*grant, error) {
	p, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	return c.post(ctx, "code exchange", p, url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {code},
		"redirect_uri":  {p.RedirectURI},
		"code_verifier": {verifier},
	}, code, verifier)
}

// refresh redeems a refresh token, once (RFC 6749, section 6).
// Scopes are those that were asked for at the sign-in: others can't be had this
// way. nil: the provider's.
func (c *Client) refresh(ctx context.Context, refreshToken string, scopes []string) (*grant, error) {
	p, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {refreshToken},
	}
	if p.ScopeOnRefresh {
		if scopes == nil {
			scopes = p.Scopes
		}
		form.Set("scope", strings.Join(scopes, " "))
	}
	return c.post(ctx, "refresh", p, form, refreshToken)
}

// mint gets an access token without a person, for the provider's grant. User is
// the mailbox, for [GrantServiceAccount]. No failure is a person's business.
func (c *Client) mint(ctx context.Context, user string) (*grant, error) {
	p, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	var g *grant
	if p.Grant == GrantServiceAccount {
		g, err = c.bearer(ctx, p, user)
	} else {
		g, err = c.post(ctx, "client credentials", p, url.Values{
			"grant_type": {"client_credentials"},
			"scope":      {strings.Join(p.Scopes, " ")},
		})
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == KindNeedsPerson {
		e.Kind = KindConfig // what is refused is the key, or what it was permitted
	}
	return g, err
}

// bearer presents an assertion of the service account as the grant (RFC 7523,
// section 2.1). It speaks for itself: no client authentication goes with it.
func (c *Client) bearer(ctx context.Context, p Provider, user string) (*grant, error) {
	const op = "service account"
	fail := func(err error) (*grant, error) {
		return nil, &Error{Op: op, Kind: KindConfig, Err: fmt.Errorf("the service account's key: %w", err)}
	}
	key, err := p.ServiceAccount()
	if err != nil {
		return fail(err)
	}
	assertion, err := key.grantAssertion(p, user, c.now())
	if err != nil {
		return fail(err)
	}
	p.ClientID, p.Credentials = "", nil
	return c.post(ctx, op, p, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"},
		"assertion":  {assertion},
	}, assertion, signatureOf(assertion))
}

// revoke tells the provider that a refresh token is no longer needed (RFC
// 7009). It reports whether the provider has such an endpoint.
func (c *Client) revoke(ctx context.Context, refreshToken string) (bool, error) {
	p, err := c.resolve(ctx)
	if err != nil {
		return false, err
	}
	if p.RevocationEndpoint == "" || refreshToken == "" {
		return false, nil
	}
	_, _, err = c.postForm(ctx, "revocation", p, p.RevocationEndpoint, url.Values{
		"token":           {refreshToken},
		"token_type_hint": {"refresh_token"},
	}, refreshToken)
	return true, err
}
