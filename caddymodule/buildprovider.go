package caddymodule

import (
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// grants are the words for grants.
var grants = map[string]tokens.Grant{
	"":                   tokens.GrantAuthorizationCode,
	"authorization_code": tokens.GrantAuthorizationCode,
	"client_credentials": tokens.GrantClientCredentials,
	"service_account":    tokens.GrantServiceAccount,
}

// rotations are the words for what becomes of a refresh token that was used.
var rotations = map[string]tokens.Rotation{
	"strict": tokens.RotationStrict,
	"none":   tokens.RotationNone,
}

func (b *builder) provider(name string, s providerSettings) {
	at := "provider " + name
	if !namePattern.MatchString(name) {
		b.errorf("%s: a name has letters, digits, dots, hyphens and underscores only", at)
		return
	}
	p, ok := b.preset(at, s)
	if !ok {
		return
	}
	p.Name = name
	p.DisplayName = s.DisplayName
	p.ClientID = s.ClientID
	for _, o := range []struct {
		to   *string
		with string
	}{
		{&p.Issuer, s.Issuer},
		{&p.AuthorizationEndpoint, s.AuthorizationEndpoint},
		{&p.TokenEndpoint, s.TokenEndpoint},
		{&p.RevocationEndpoint, s.RevocationEndpoint},
		{&p.DeviceAuthorizationEndpoint, s.DeviceAuthorizationEndpoint},
		{&p.AdminConsentEndpoint, s.AdminConsentEndpoint},
		{&p.Prompt, s.Prompt},
	} {
		if o.with != "" {
			*o.to = o.with
		}
	}
	if len(s.Scopes) > 0 {
		p.Scopes = s.Scopes
	}
	if s.Preset == "" && s.Prompt == "" && slices.Contains(p.Scopes, "offline_access") {
		// OpenID Connect Core, section 11: without consent, no offline access.
		p.Prompt = "consent"
	}
	if len(s.AuthParams) > 0 {
		params := maps.Clone(p.AuthParams)
		if params == nil {
			params = make(map[string]string)
		}
		maps.Copy(params, s.AuthParams)
		p.AuthParams = params
	}
	if len(s.Servers) > 0 {
		p.Servers = nil
		for _, host := range s.Servers {
			p.Servers = append(p.Servers, strings.ToLower(strings.TrimSuffix(host, ".")))
		}
	}
	b.tuning(at, s, &p)
	if !b.proof(at, s, &p) || !b.signIn(at, s, &p) {
		return
	}
	transport, ok := b.transport(at, s)
	if !ok {
		return
	}
	if err := p.Check(); err != nil {
		b.errorf("%s: %w", at, err)
		return
	}
	if s.origin == originRuntime {
		if !b.runtimeProvider(at, s, &p) {
			return
		}
		p.Bound = boundTo(p, transport)
	}
	v := &provider{name: name, origin: s.origin, entry: s.entry, settings: p, credentials: s.credentials, transport: transport}
	b.snapshot.providers[name] = v
	if !p.Grant.Unattended() {
		b.callback(at, v)
	}
}

// preset begins a provider with what its vendor's preset says for the grant.
func (b *builder) preset(at string, s providerSettings) (p tokens.Provider, ok bool) {
	grant, known := grants[s.Grant]
	switch {
	case !known:
		b.errorf("%s, grant: %q must be authorization_code, client_credentials or service_account", at, s.Grant)
	case s.Preset != "":
		p, err := tokens.FromPreset(s.Preset, s.Directory, grant)
		if err != nil {
			b.errorf("%s: %w", at, err)
		}
		return p, err == nil
	case s.Directory != "":
		b.errorf("%s, directory: has a meaning with Microsoft's presets only, such as `preset microsoft`", at)
	case grant == tokens.GrantServiceAccount:
		b.errorf("%s, grant: service accounts are Google's; add `preset google`", at)
	default:
		return tokens.Provider{Grant: grant}, true
	}
	return p, false
}

// tuning reads what is a matter of taste.
func (b *builder) tuning(at string, s providerSettings, p *tokens.Provider) {
	switch s.ClientAuth {
	case "":
	case "basic":
		p.AuthStyle = tokens.AuthBasic
	case "post":
		p.AuthStyle = tokens.AuthPost
	default:
		b.errorf("%s, client_auth: %q must be basic or post", at, s.ClientAuth)
	}
	if s.Rotation != "" {
		rotation, known := rotations[s.Rotation]
		if !known {
			b.errorf("%s, rotation: %q must be strict or none", at, s.Rotation)
		}
		p.Rotation = rotation
	}
	if s.Margin < 0 {
		b.errorf("%s, margin: must be above zero", at)
	}
	if s.Margin > 0 {
		p.Margin = time.Duration(s.Margin)
	}
	if s.RefreshRate < 0 {
		b.errorf("%s, refresh_rate: must be above zero", at)
	}
	if s.RefreshRate > 0 {
		p.RefreshRate = s.RefreshRate
	}
}

// proof checks what the client proves itself with.
func (b *builder) proof(at string, s providerSettings, p *tokens.Provider) bool {
	if p.Grant != tokens.GrantServiceAccount && s.ServiceAccount != "" {
		b.errorf("%s, service_account: has a meaning with `grant service_account` only; add that, or remove this", at)
		return false
	}
	if p.Grant == tokens.GrantServiceAccount {
		switch {
		case s.serviceAccount == nil:
			b.errorf("%s, service_account: missing; it is the service account's key file in JSON", at)
		case len(s.credentials) > 0:
			b.errorf("%s, %s: has no meaning with `grant service_account`: the key in the service account's file proves it; remove this", at, s.credentials[0].Name)
		case s.ClientID != "":
			b.errorf("%s, client_id: has no meaning with `grant service_account`: the service account's file names it; remove this", at)
		default:
			p.ServiceAccount = s.serviceAccount
			return true
		}
		return false
	}
	if p.Grant == tokens.GrantClientCredentials && len(s.credentials) == 0 {
		b.errorf("%s, grant: client_credentials needs something that proves the client: add client_secret, client_certificate or federated_token", at)
		return false
	}
	for _, c := range s.credentials {
		p.Credentials = append(p.Credentials, c.Credential)
	}
	return true
}

// signIn checks what concerns people's sign-ins, where there are any.
func (b *builder) signIn(at string, s providerSettings, p *tokens.Provider) bool {
	if p.Grant.Unattended() {
		for _, w := range []struct {
			word  string
			given bool
		}{
			{"prompt", s.Prompt != ""},
			{"auth_param", len(s.AuthParams) > 0},
			{"redirect_uri", s.RedirectURI != ""},
			{"device_code", s.DeviceCode},
			{"rotation", s.Rotation != ""},
		} {
			if w.given {
				b.errorf("%s, %s: has no meaning with `grant %s`, where nobody signs in; remove it", at, w.word, p.Grant)
				return false
			}
		}
		return true
	}
	p.DeviceCode = s.DeviceCode
	if s.DeviceCode && p.DeviceAuthorizationEndpoint == "" && (s.Preset != "" || p.Issuer == "") {
		if s.Preset != "" {
			b.errorf("%s, device_code: %s has no sign-in by device code for mail; remove it", at, s.Preset)
		} else {
			b.errorf("%s, device_code: needs device_authorization_endpoint, or an issuer to discover it from", at)
		}
		return false
	}
	p.RedirectURI = s.RedirectURI
	if p.RedirectURI == "" && b.snapshot.redirectBase != nil {
		p.RedirectURI = b.snapshot.redirectBase.JoinPath(p.Name).String()
	}
	return true
}

// callback enters a provider's redirect URI.
func (b *builder) callback(at string, p *provider) {
	base := b.snapshot.redirectBase
	if base == nil {
		if b.settings.redirectBase == "" { // else it was reported
			b.errorf("%s: set redirect_base in the global option oauth_mail, so that people can sign in", at)
		}
		return
	}
	u, err := url.Parse(p.settings.RedirectURI)
	switch {
	case err != nil:
		b.errorf("%s, redirect_uri: %q is no URL", at, p.settings.RedirectURI)
		return
	case u.Scheme != base.Scheme || u.Host != base.Host:
		// The cookie that binds a sign-in to its browser is of this host alone.
		b.errorf("%s, redirect_uri: %s must be on the host of redirect_base, %s://%s", at, p.settings.RedirectURI, base.Scheme, base.Host)
		return
	case u.Path != path.Clean("/"+u.Path) || u.Path == "/":
		b.errorf("%s, redirect_uri: the path %q must have names between single slashes, and no slash at the end", at, u.Path)
		return
	case strings.HasPrefix(u.Path, base.Path+"/") && strings.HasSuffix(u.Path, "/"+startSegment):
		b.errorf("%s, redirect_uri: the path %q is that of a start page", at, u.Path)
		return
	}
	if other, taken := b.snapshot.callbacks[u.Path]; taken {
		// One redirect URI each: an answer must not be taken for another
		// provider's (RFC 9700, section 4.4).
		b.errorf("%s, redirect_uri: provider %s has the same path", at, other.name)
		return
	}
	b.snapshot.callbacks[u.Path] = p
}

// callbackPath is the path of the redirect URI; empty where nobody signs in.
func (p *provider) callbackPath() string {
	if p.settings.Grant.Unattended() {
		return ""
	}
	u, err := url.Parse(p.settings.RedirectURI)
	if err != nil {
		return ""
	}
	return u.Path
}
