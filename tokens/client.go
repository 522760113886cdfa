package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"golang.org/x/oauth2"
)

// Client speaks to one provider. It is safe for concurrent use.
type Client struct {
	provider Provider
	// registration is what the tokens that the provider issues belong to.
	registration string
	http         *http.Client

	mu sync.Mutex
	// metadata is the discovered metadata; nil until it is needed.
	metadata *metadata
	// discovery is the one under way; nil for none.
	discovery *discovery
}

// discovery is a search for metadata that any number of callers wait for.
type discovery struct {
	done     chan struct{} // closed when the fields below are set
	metadata *metadata
	err      error
}

// NewClient returns a client. A nil transport means the default one.
func NewClient(p Provider, transport http.RoundTripper) *Client {
	return &Client{provider: p, registration: p.Registration(), http: newHTTPClient(transport)}
}

// Provider returns the provider's settings, without what discovery adds.
func (c *Client) Provider() Provider { return c.provider }

// metadata is the part of an authorization server's metadata that is used (RFC
// 8414, section 2).
type metadata struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	IssSupported          bool     `json:"authorization_response_iss_parameter_supported"`
}

// resolve returns the provider with every endpoint known, by discovery where
// some were not given.
func (c *Client) resolve(ctx context.Context) (Provider, error) {
	p := c.provider
	if p.AuthorizationEndpoint != "" && p.TokenEndpoint != "" {
		if p.AuthStyle == AuthFromMetadata {
			p.AuthStyle = AuthBasic // which every server must know (RFC 6749)
		}
		return p, nil
	}
	m, err := c.discovered(ctx)
	if err != nil {
		return Provider{}, err
	}
	fill := func(field *string, discovered string) {
		if *field == "" {
			*field = discovered
		}
	}
	fill(&p.AuthorizationEndpoint, m.AuthorizationEndpoint)
	fill(&p.TokenEndpoint, m.TokenEndpoint)
	fill(&p.RevocationEndpoint, m.RevocationEndpoint)
	if p.AuthStyle == AuthFromMetadata {
		p.AuthStyle = AuthBasic
		if slices.Contains(m.AuthMethods, "client_secret_post") {
			p.AuthStyle = AuthPost
		}
	}
	if m.IssSupported && p.IssRule == IssIfPresent {
		p.IssRule = IssRequired
	}
	return p, nil
}

// discovered returns the metadata, fetching it where it isn't known yet. One
// caller's impatience does not end it for the others.
func (c *Client) discovered(ctx context.Context) (*metadata, error) {
	c.mu.Lock()
	if m := c.metadata; m != nil {
		c.mu.Unlock()
		return m, nil
	}
	d := c.discovery
	if d == nil {
		d = &discovery{done: make(chan struct{})}
		c.discovery = d
		go func(ctx context.Context) {
			defer survive(slog.Default(), "a discovery")
			d.err = &Error{Op: "discovery", Kind: KindTransient, Err: errors.New("the discovery crashed")}
			defer func() {
				c.mu.Lock()
				c.discovery, c.metadata = nil, d.metadata
				c.mu.Unlock()
				close(d.done)
			}()
			d.metadata, d.err = c.discover(ctx)
		}(context.WithoutCancel(ctx))
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.metadata, d.err
	case <-ctx.Done():
		return nil, &Error{Op: "discovery", Kind: KindTransient, Err: ctx.Err()}
	}
}

// discover fetches the metadata: OpenID Connect's place first, then RFC 8414's.
func (c *Client) discover(ctx context.Context) (*metadata, error) {
	issuer, err := url.Parse(c.provider.Issuer)
	if err != nil {
		return nil, &Error{Op: "discovery", Kind: KindConfig, Err: fmt.Errorf("issuer %q is no URL", c.provider.Issuer)}
	}
	path := strings.TrimSuffix(issuer.Path, "/")
	oidc, oauth := *issuer, *issuer
	oidc.Path = path + "/.well-known/openid-configuration"
	oauth.Path = "/.well-known/oauth-authorization-server" + path
	m, err := c.fetchMetadata(ctx, oidc.String())
	if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotFound {
		m, err = c.fetchMetadata(ctx, oauth.String())
	}
	return m, err
}

func (c *Client) fetchMetadata(ctx context.Context, address string) (*metadata, error) {
	fail := func(kind Kind, status int, err error) (*metadata, error) {
		return nil, &Error{Op: "discovery", Kind: kind, Status: status, Err: fmt.Errorf("%s: %w", address, err)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fail(KindConfig, 0, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fail(KindTransient, 0, networkError(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fail(KindTransient, resp.StatusCode, networkError(err))
	}
	if resp.StatusCode != http.StatusOK {
		return fail(kindOf("", resp.StatusCode), resp.StatusCode, errors.New("no metadata there"))
	}
	var m metadata
	if err := json.Unmarshal(body, &m); err != nil {
		return fail(KindConfig, resp.StatusCode, errors.New("metadata is no JSON object"))
	}
	// RFC 8414, section 3.3: otherwise one server could speak for another.
	if m.Issuer != c.provider.Issuer {
		return fail(KindConfig, 0, fmt.Errorf("metadata is of issuer %q, the configuration says %q", tidy(m.Issuer), c.provider.Issuer))
	}
	for _, e := range []string{m.AuthorizationEndpoint, m.TokenEndpoint, m.RevocationEndpoint} {
		if e == "" {
			continue
		}
		if err := checkEndpoint(e); err != nil {
			return fail(KindConfig, 0, err)
		}
	}
	if m.AuthorizationEndpoint == "" || m.TokenEndpoint == "" {
		return fail(KindConfig, 0, errors.New("metadata lacks an endpoint"))
	}
	return &m, nil
}

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
func (c *Client) refresh(ctx context.Context, refreshToken string) (*grant, error) {
	p, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {refreshToken},
	}
	if p.ScopeOnRefresh {
		form.Set("scope", strings.Join(p.Scopes, " "))
	}
	return c.post(ctx, "refresh", p, form, refreshToken)
}

// mint gets an access token without a person, for the provider's grant. User is
// the mailbox, for [GrantServiceAccount].
func (c *Client) mint(ctx context.Context, user string) (*grant, error) {
	p, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	return c.post(ctx, "client credentials", p, url.Values{
		"grant_type": {"client_credentials"},
		"scope":      {strings.Join(p.Scopes, " ")},
	})
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
