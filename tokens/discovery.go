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
)

// discovery is a search for metadata that any number of callers wait for.
type discovery struct {
	done     chan struct{} // closed when the fields below are set
	metadata *metadata
	err      error
}

// metadata is the part of an authorization server's metadata that is used (RFC
// 8414, section 2).
type metadata struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	DeviceEndpoint        string   `json:"device_authorization_endpoint"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	IssSupported          bool     `json:"authorization_response_iss_parameter_supported"`
}

// resolve returns the provider with every endpoint known that its grant needs,
// by discovery where one was not given.
func (c *Client) resolve(ctx context.Context) (Provider, error) {
	p := c.provider
	if p.TokenEndpoint != "" && (p.AuthorizationEndpoint != "" || p.Grant.Unattended()) {
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
	fill(&p.DeviceAuthorizationEndpoint, m.DeviceEndpoint)
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
	for _, e := range []string{m.AuthorizationEndpoint, m.TokenEndpoint, m.RevocationEndpoint, m.DeviceEndpoint} {
		if e == "" {
			continue
		}
		if err := checkEndpoint(e); err != nil {
			return fail(KindConfig, 0, err)
		}
	}
	if m.TokenEndpoint == "" || m.AuthorizationEndpoint == "" && !c.provider.Grant.Unattended() {
		return fail(KindConfig, 0, errors.New("metadata lacks an endpoint"))
	}
	return &m, nil
}
