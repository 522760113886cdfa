package caddymodule

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// snapshot is a configuration, checked and ready to use. It is never changed;
// a new one takes its place.
type snapshot struct {
	// redirectBase is the URL under which providers' redirect URIs lie.
	redirectBase *url.URL
	providers    map[string]*provider
	tenants      map[string]*tenant
	// keys are the API keys by their SHA-256.
	keys map[[sha256.Size]byte]*apiKey
	// callbacks are the providers by the path of their redirect URI.
	callbacks map[string]*provider
}

type provider struct {
	name     string
	origin   origin
	settings tokens.Provider
	// client is set by attach.
	client *tokens.Client
}

// apiKey is a key of the send route.
type apiKey struct {
	name   string
	tenant string
}

// namePattern is what providers, tenants and keys may be called: their names
// become parts of paths and labels.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// build makes a snapshot of settings. It is a pure function: no file, no
// network, no clock. Errors name the place, and all of them are reported.
func build(s settings) (*snapshot, error) {
	b := builder{
		settings: s,
		snapshot: &snapshot{
			providers: make(map[string]*provider),
			tenants:   make(map[string]*tenant),
			keys:      make(map[[sha256.Size]byte]*apiKey),
			callbacks: make(map[string]*provider),
		},
	}
	b.redirectBase(s.redirectBase)
	for _, name := range slices.Sorted(maps.Keys(s.providers)) {
		b.provider(name, s.providers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.tenants)) {
		b.tenant(name, s.tenants[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.keys)) {
		b.key(name, s.keys[name])
	}
	if err := errors.Join(b.errs...); err != nil {
		return nil, err
	}
	return b.snapshot, nil
}

type builder struct {
	snapshot *snapshot
	settings settings
	errs     []error
}

func (b *builder) errorf(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

func (b *builder) redirectBase(raw string) {
	if raw == "" {
		return
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		b.errorf("redirect_base: %q must be an absolute URL without query", raw)
		return
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		b.errorf("redirect_base: %q must begin with https:// (http:// is for loopback only)", raw)
		return
	}
	u.Path, u.RawPath = path.Clean("/"+u.Path), ""
	if u.Path == "/" {
		b.errorf("redirect_base: %q needs a path, such as /oauth/callback: everything below it is for sign-ins", raw)
		return
	}
	host, err := asciiHost(u.Hostname())
	if err != nil {
		b.errorf("redirect_base: %q has no valid host", raw)
		return
	}
	u.Host = strings.Replace(u.Host, u.Hostname(), host, 1)
	b.snapshot.redirectBase = u
}

func (b *builder) provider(name string, s providerSettings) {
	at := "provider " + name
	if !namePattern.MatchString(name) {
		b.errorf("%s: a name has letters, digits, dots, hyphens and underscores only", at)
		return
	}
	var p tokens.Provider
	if s.Preset != "" {
		var err error
		if p, err = tokens.FromPreset(s.Preset, s.Directory); err != nil {
			b.errorf("%s: %w", at, err)
			return
		}
	} else if s.Directory != "" {
		b.errorf("%s, directory: has a meaning with `preset microsoft` only", at)
		return
	}
	p.Name = name
	p.DisplayName = s.DisplayName
	p.ClientID = s.ClientID
	p.Credentials = tokens.NewClientSecret(s.ClientSecret)
	override(&p.Issuer, s.Issuer)
	override(&p.AuthorizationEndpoint, s.AuthorizationEndpoint)
	override(&p.TokenEndpoint, s.TokenEndpoint)
	override(&p.RevocationEndpoint, s.RevocationEndpoint)
	if len(s.Scopes) > 0 {
		p.Scopes = s.Scopes
	}
	if s.Preset == "" && slices.Contains(p.Scopes, "offline_access") {
		// OpenID Connect Core, section 11: without consent, no offline access.
		p.Prompt = "consent"
	}
	override(&p.Prompt, s.Prompt)
	if len(s.AuthParams) > 0 {
		params := maps.Clone(p.AuthParams)
		if params == nil {
			params = make(map[string]string)
		}
		maps.Copy(params, s.AuthParams)
		p.AuthParams = params
	}
	switch s.ClientAuth {
	case "":
	case "basic":
		p.AuthStyle = tokens.AuthBasic
	case "post":
		p.AuthStyle = tokens.AuthPost
	default:
		b.errorf("%s, client_auth: %q must be basic or post", at, s.ClientAuth)
	}
	if len(s.Servers) > 0 {
		p.Servers = nil
		for _, host := range s.Servers {
			p.Servers = append(p.Servers, strings.ToLower(strings.TrimSuffix(host, ".")))
		}
	}
	p.RedirectURI = s.RedirectURI
	if p.RedirectURI == "" && b.snapshot.redirectBase != nil {
		p.RedirectURI = b.snapshot.redirectBase.JoinPath(name).String()
	}
	if err := p.Check(); err != nil {
		b.errorf("%s: %w", at, err)
		return
	}
	v := &provider{name: name, origin: s.origin, settings: p}
	b.snapshot.providers[name] = v
	b.callback(at, v)
}

// callback enters a provider's redirect URI.
func (b *builder) callback(at string, p *provider) {
	base := b.snapshot.redirectBase
	if base == nil {
		if b.settings.redirectBase == "" { // else it was reported
			b.errorf("%s: set redirect_base, so that people can sign in", at)
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

func override(s *string, with string) {
	if with != "" {
		*s = with
	}
}

func (b *builder) key(name string, s keySettings) {
	at := "key " + name
	key := strings.TrimRight(s.Key.Key, "\r\n") // as files end
	switch {
	case !namePattern.MatchString(name):
		b.errorf("%s: a name has letters, digits, dots, hyphens and underscores only", at)
		return
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		b.errorf("%s: has characters that no header can carry; use letters, digits and signs", at)
		return
	case len(key) < minKeyLength:
		b.errorf("%s: must have at least %d characters, such as `openssl rand -base64 32` prints", at, minKeyLength)
		return
	}
	if _, known := b.settings.tenants[s.Tenant]; !known {
		b.errorf("%s: there is no tenant %q", at, s.Tenant)
		return
	}
	hash := sha256.Sum256([]byte(key))
	if other, taken := b.snapshot.keys[hash]; taken {
		b.errorf("%s: is the same as key %s", at, other.name)
		return
	}
	b.snapshot.keys[hash] = &apiKey{name: name, tenant: s.Tenant}
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
