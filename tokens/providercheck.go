package tokens

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Check reports what is missing or wrong, without touching a network.
func (p *Provider) Check() error {
	if p.ClientID == "" && p.Grant != GrantServiceAccount {
		return errors.New("client_id is missing")
	}
	if len(p.Servers) == 0 {
		return errors.New("servers is missing: name the mail servers that may see this provider's tokens")
	}
	for _, check := range []func() error{p.checkEndpoints, p.checkGrant, p.checkScopes} {
		if err := check(); err != nil {
			return err
		}
	}
	for _, name := range ownParams {
		if _, set := p.AuthParams[name]; set {
			return fmt.Errorf("authorization parameter %s is set here and can't be given", name)
		}
	}
	return nil
}

func (p *Provider) checkEndpoints() error {
	switch {
	case p.Issuer != "": // what is not given is discovered
	case p.Grant.Unattended() && p.TokenEndpoint == "":
		return errors.New("give a preset, an issuer, or token_endpoint")
	case !p.Grant.Unattended() && (p.AuthorizationEndpoint == "" || p.TokenEndpoint == ""):
		return errors.New("give a preset, an issuer, or authorization_endpoint and token_endpoint")
	}
	for word, value := range p.Endpoints() {
		if err := checkEndpoint(value); err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
	}
	if p.RedirectURI != "" {
		if err := checkEndpoint(p.RedirectURI); err != nil {
			return fmt.Errorf("redirect_uri: %w", err)
		}
	}
	return nil
}

// Endpoints yields the addresses at the authorization server that are set, by the words
// of the configuration.
func (p *Provider) Endpoints() iter.Seq2[string, string] {
	return func(yield func(word, url string) bool) {
		for _, u := range []struct{ word, url string }{
			{"issuer", p.Issuer},
			{"authorization_endpoint", p.AuthorizationEndpoint},
			{"token_endpoint", p.TokenEndpoint},
			{"revocation_endpoint", p.RevocationEndpoint},
			{"device_authorization_endpoint", p.DeviceAuthorizationEndpoint},
			{"admin_consent_endpoint", p.AdminConsentEndpoint},
		} {
			if u.url != "" && !yield(u.word, u.url) {
				return
			}
		}
	}
}

// checkGrant reports what the grant lacks to prove itself with.
func (p *Provider) checkGrant() error {
	switch {
	case p.Public && len(p.Credentials) > 0:
		return errors.New("its clients are public ones: remove client_secret, client_certificate and federated_token")
	case p.Grant == GrantClientCredentials && len(p.Credentials) == 0:
		return errors.New("the grant client_credentials needs a secret, a certificate or a federated token: a public client can't use it")
	case p.Grant == GrantServiceAccount && p.ServiceAccount == nil:
		return errors.New("the grant of a service account needs its key")
	}
	for _, c := range p.Credentials {
		if err := c.check(); err != nil {
			return err
		}
		if c.Key == nil {
			continue
		}
		// One that can't be read now may be readable when it is needed.
		if key, err := c.Key(); err == nil && key != nil {
			if err := key.suits(p); err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
		}
	}
	return nil
}

// checkScopes reports scopes that no token can be had for.
func (p *Provider) checkScopes() error {
	if p.Grant.Unattended() && len(p.Scopes) == 0 {
		return errors.New("scopes is missing: without a person, nothing else says what the token is for")
	}
	all, named := 0, 0
	for _, s := range p.Scopes {
		switch {
		case strings.HasSuffix(s, "/.default"):
			all++
		case !slices.Contains(signInScopes, s):
			named++
		}
	}
	if all > 1 || all == 1 && named > 0 {
		return errors.New("scopes: .default stands for every permission of one resource; it can't be mixed with others")
	}
	return nil
}

// signInScopes concern the sign-in and not what a token is for (OpenID Connect
// Core, sections 5.4 and 11).
var signInScopes = []string{"offline_access", "openid", "email", "profile"}

// ownParams are parameters of the authorization request that the sign-in's
// safety rests on.
var ownParams = []string{
	"response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method",
}

// checkEndpoint accepts https URLs, and http ones on loopback, which serve
// trials and tests.
func checkEndpoint(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("%q is no URL", raw)
	}
	if u.User != nil || u.Fragment != "" || u.Host == "" {
		return fmt.Errorf("%q must be an absolute URL without user and fragment", raw)
	}
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%q must begin with https:// (http:// is for loopback only)", raw)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
