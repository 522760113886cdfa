package tokens

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Provider is an authorization server and our client registration there (RFC
// 6749, section 2), as plain values.
type Provider struct {
	// Name is the provider's name in the configuration.
	Name string
	// DisplayName is what people see. Empty: Name.
	DisplayName string
	// Issuer identifies the server (RFC 8414). Endpoints that are not given are
	// discovered from it.
	Issuer                string
	AuthorizationEndpoint string
	TokenEndpoint         string
	RevocationEndpoint    string
	// DeviceAuthorizationEndpoint is where a sign-in by device code begins (RFC
	// 8628).
	DeviceAuthorizationEndpoint string
	// DeviceCode allows such sign-ins. They can be begun in one place and ended
	// by somebody who was talked into it elsewhere, so they are off by default.
	DeviceCode bool
	// AdminConsentEndpoint is a page where an administrator consents for the
	// whole organization; empty where there is none.
	AdminConsentEndpoint string
	ClientID             string
	// Credentials prove the client, tried in their order; none for a public
	// client.
	Credentials []Credential
	// RSAOnly: the server takes assertions of RSA keys only, which concerns
	// certificates among the Credentials.
	RSAOnly bool
	// Public: the server knows public clients only, which have no Credentials.
	Public bool
	// AuthStyle is how a client secret is sent to the token endpoint.
	AuthStyle AuthStyle
	// Grant is how access tokens are obtained.
	Grant Grant
	// ServiceAccount reads the key that speaks for mailboxes, with
	// [GrantServiceAccount].
	ServiceAccount func() (*SigningKey, error)
	// Scopes are asked for at authorization.
	Scopes []string
	// ScopeOnRefresh repeats the scopes when refreshing.
	ScopeOnRefresh bool
	// Prompt is the value of the prompt parameter; empty sends none.
	Prompt string
	// PickerPrompt is the prompt that makes the provider ask which account to
	// use, after a wrong one has signed in. Empty: login, which every OpenID
	// provider must know, while some refuse select_account.
	PickerPrompt string
	// AuthParams are further parameters of the authorization request.
	AuthParams map[string]string
	// IssRule is what to make of the iss parameter (RFC 9207).
	IssRule IssRule
	// RedirectURI is registered with the provider, exactly like this.
	RedirectURI string
	// Servers are the mail servers that may see this provider's tokens: host
	// names in lower case.
	Servers []string
	// Mechanism is the SASL mechanism that its mail servers know best, in lower
	// case; empty for what they offer.
	Mechanism string
	// Limits are what its mail servers allow a mailbox.
	Limits Limits
	// Margin is how long before its end an access token is renewed, where a
	// quarter of its life is not less. Zero: 15 minutes.
	Margin time.Duration
	// Rotation says whether a refresh token is good for one use only.
	Rotation Rotation
	// RefreshRate is the most refreshes a second that are made in the background
	// at the token endpoint's host. Zero: 10. Below zero: no limit.
	RefreshRate float64
}

// Limits are what a mail server allows one mailbox. Zero: not known.
type Limits struct {
	// Connections at a time.
	Connections int
	// MessagesPerMinute and RecipientsPerDay are counted by the server in a
	// window that slides.
	MessagesPerMinute, RecipientsPerDay int
	// MessageSize is the largest message, in octets.
	MessageSize int64
}

// Grant is how access tokens are obtained (RFC 6749, section 1.3).
type Grant int

// The grants.
const (
	// GrantAuthorizationCode: a person signs in once, and a refresh token keeps
	// that up. Device codes and imported refresh tokens end in the same.
	GrantAuthorizationCode Grant = iota
	// GrantClientCredentials: the client itself is authorized, for every mailbox
	// that an administrator permits (RFC 6749, section 4.4).
	GrantClientCredentials
	// GrantServiceAccount: the client signs an assertion that names the mailbox
	// (RFC 7523, section 2.1).
	GrantServiceAccount
)

// String returns the grant's word in configurations.
func (g Grant) String() string {
	switch g {
	case GrantAuthorizationCode:
		return "authorization_code"
	case GrantClientCredentials:
		return "client_credentials"
	case GrantServiceAccount:
		return "service_account"
	}
	return "unknown"
}

// Unattended reports whether tokens are obtained without a person.
func (g Grant) Unattended() bool { return g != GrantAuthorizationCode }

// AppUser is the user of the one account that a provider with
// [GrantClientCredentials] has: its token is no mailbox's.
const AppUser = "app"

// Rotation says whether a refresh token is good for one use only (RFC 9700,
// section 4.14).
type Rotation int

// The kinds of rotation.
const (
	RotationUnknown Rotation = iota // assume the worst
	RotationNone                    // the old one stays good
	RotationStrict                  // the old one ends
)

// AuthStyle is how a client authenticates at the token endpoint (RFC 6749,
// section 2.3.1). It is decided before the first request and never tried out:
// a second try would present a refresh token twice.
type AuthStyle int

// The ways of client authentication.
const (
	AuthFromMetadata AuthStyle = iota // post where the server lists it, else basic
	AuthPost                          // client_secret_post
	AuthBasic                         // client_secret_basic
)

// IssRule is what to make of the iss parameter of an authorization response
// (RFC 9207).
type IssRule int

// The rules.
const (
	IssIfPresent IssRule = iota // a wrong one is refused, a missing one is not
	IssRequired                 // a missing one is refused, too
	IssIgnored                  // the provider sends odd ones
)

// Title is the name to show to people.
func (p *Provider) Title() string {
	if p.DisplayName != "" {
		return p.DisplayName
	}
	return p.Name
}

// Registration identifies what a grant belongs to (RFC 6749, section 6: a
// refresh token is bound to the client that it was issued to): the issuer, the
// token endpoint where one is given, and the client id. It is a hash, and no
// secret takes part. Two settings with different ones must not see each other's
// tokens.
func (p Provider) Registration() string {
	return digest(p.Issuer, p.TokenEndpoint, p.ClientID)
}

// Picker is the prompt for a sign-in after a wrong account had signed in.
func (p *Provider) Picker() string {
	if p.PickerPrompt != "" {
		return p.PickerPrompt
	}
	return "login"
}

// AllowsServer reports whether a mail server may see this provider's tokens.
func (p *Provider) AllowsServer(host string) bool {
	return slices.Contains(p.Servers, strings.ToLower(strings.TrimSuffix(host, ".")))
}

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
	for _, u := range []struct{ word, value string }{
		{"issuer", p.Issuer},
		{"authorization_endpoint", p.AuthorizationEndpoint},
		{"token_endpoint", p.TokenEndpoint},
		{"revocation_endpoint", p.RevocationEndpoint},
		{"device_authorization_endpoint", p.DeviceAuthorizationEndpoint},
		{"admin_consent_endpoint", p.AdminConsentEndpoint},
		{"redirect_uri", p.RedirectURI},
	} {
		if u.value == "" {
			continue
		}
		if err := checkEndpoint(u.value); err != nil {
			return fmt.Errorf("%s: %w", u.word, err)
		}
	}
	return nil
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
