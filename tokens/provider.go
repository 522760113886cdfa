package tokens

import (
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
	// Bound is what else a grant belongs to, besides the [Provider.Registration]
	// proper: whatever decides who sees its tokens, where others may change that than
	// those who could read the tokens anyway. Empty: nothing.
	Bound string
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
// token endpoint where one is given, the client id, and what Bound says. It is a
// hash, and no secret takes part. Two settings with different ones must not see each
// other's tokens.
func (p Provider) Registration() string {
	if p.Bound != "" {
		return digest(p.Issuer, p.TokenEndpoint, p.ClientID, p.Bound)
	}
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
