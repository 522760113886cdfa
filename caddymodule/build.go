package caddymodule

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
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

type tenant struct {
	name   string
	origin origin
	// account is whose token signs in; zero with other methods.
	account tokens.Account
	auth    Auth
	server  mailer.Server
	// authorities is the hash of the certificates that verify the server; zero
	// for the system's.
	authorities [sha256.Size]byte
	from        mailer.Address
	senders     mailer.Senders
	senderRules []string
	connections int
	// source and mail are set by attach. Source is nil without an account.
	source *tokens.Source
	mail   *mailer.Tenant
}

// apiKey is a key of the send route.
type apiKey struct {
	name   string
	origin origin
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
	u.Path = strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	u.RawPath = ""
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
	p.ClientSecret = tokens.NewSecret(s.ClientSecret)
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
	if p.RedirectURI == "" {
		b.errorf("%s: set redirect_base, so that people can sign in", at)
		return
	}
	u, err := url.Parse(p.RedirectURI)
	if err != nil {
		b.errorf("%s, redirect_uri: %q is no URL", at, p.RedirectURI)
		return
	}
	if other, taken := b.snapshot.callbacks[u.Path]; taken {
		// One redirect URI each: an answer must not be taken for another
		// provider's (RFC 9700, section 4.4).
		b.errorf("%s, redirect_uri: provider %s has the same path", at, other.name)
		return
	}
	b.snapshot.callbacks[u.Path] = v
}

// newAccount names an account. Mailboxes differ in more than case.
func newAccount(provider, user string) tokens.Account {
	return tokens.Account{Provider: provider, User: strings.ToLower(user)}
}

func override(s *string, with string) {
	if with != "" {
		*s = with
	}
}

func (b *builder) tenant(name string, s tenantSettings) {
	at := "tenant " + name
	if !namePattern.MatchString(name) {
		b.errorf("%s: a name has letters, digits, dots, hyphens and underscores only", at)
		return
	}
	t := &tenant{name: name, origin: s.origin, auth: s.Auth, connections: s.Connections}
	if t.connections == 0 {
		t.connections = defaultConnections
	}
	p, ok := b.tenantAuth(at, s, t)
	if !ok {
		return
	}
	address := s.Server
	if address == "" && p != nil {
		address = p.settings.Servers[0]
	}
	server, err := parseServer(address)
	if err != nil {
		b.errorf("%s, server: %w", at, err)
		return
	}
	if p != nil && !p.settings.AllowsServer(server.Host) {
		b.errorf("%s, server: %s is not among the servers that may see tokens of provider %s (%s); name it there with `servers` if it may",
			at, server.Host, p.name, strings.Join(p.settings.Servers, ", "))
	}
	if s.CAFile != "" {
		server.RootCAs = x509.NewCertPool()
		t.authorities = sha256.Sum256(s.authorities)
		if !server.RootCAs.AppendCertsFromPEM(s.authorities) {
			b.errorf("%s, ca_file: %s has no certificate in PEM form", at, s.CAFile)
		}
	}
	if b.snapshot.redirectBase != nil {
		server.LocalName = b.snapshot.redirectBase.Hostname()
	}
	t.server = server
	b.tenantSenders(at, s, t)
	b.snapshot.tenants[name] = t
}

// tenantAuth checks how a tenant signs in. It returns the provider whose tokens
// it uses, if any.
func (b *builder) tenantAuth(at string, s tenantSettings, t *tenant) (p *provider, ok bool) {
	switch s.Auth.Method {
	case "oauth":
		p = b.snapshot.providers[s.Auth.Provider]
		if p == nil {
			b.errorf("%s, auth: there is no provider %q", at, s.Auth.Provider)
			return nil, false
		}
		if s.User == "" {
			b.errorf("%s, user: missing; it is the mailbox that signs in", at)
			return nil, false
		}
		if _, err := mailer.ParseAddress(s.User); err != nil {
			b.errorf("%s, user: %w", at, err)
			return nil, false
		}
		t.account = newAccount(p.name, s.User)
		return p, true
	case "password", "none":
		if s.Server == "" {
			b.errorf("%s, server: missing", at)
			return nil, false
		}
		return nil, true
	case "":
		b.errorf("%s, auth: missing; it is `oauth <provider>`, `password <username> <password>` or `none`", at)
	default:
		b.errorf("%s, auth: unknown method %q", at, s.Auth.Method)
	}
	return nil, false
}

func (b *builder) tenantSenders(at string, s tenantSettings, t *tenant) {
	from := s.From
	if from == "" {
		from = s.User
	}
	rules := s.Senders
	if from != "" {
		address, err := mailer.ParseAddress(from)
		if err != nil {
			b.errorf("%s, from: %w", at, err)
			return
		}
		t.from = address
		if len(s.Senders) == 0 {
			rules = []string{address.Mailbox()}
			if s.User != "" && !strings.EqualFold(s.User, address.Mailbox()) {
				rules = append(rules, s.User)
			}
		}
	}
	if len(rules) == 0 {
		b.errorf("%s, senders: missing; name the addresses that may send, or give `from`", at)
		return
	}
	senders, err := mailer.ParseSenders(rules...)
	if err != nil {
		b.errorf("%s, senders: %w", at, err)
		return
	}
	if from != "" && !senders.Allows(t.from) {
		b.errorf("%s, from: %s is not among the tenant's senders", at, t.from.Mailbox())
	}
	t.senders, t.senderRules = senders, rules
}

func (b *builder) key(name string, s keySettings) {
	at := "key " + name
	switch {
	case !namePattern.MatchString(name):
		b.errorf("%s: a name has letters, digits, dots, hyphens and underscores only", at)
		return
	case len(s.Key.Key) < minKeyLength:
		b.errorf("%s: must have at least %d characters, such as `openssl rand -base64 32` prints", at, minKeyLength)
		return
	}
	if _, known := b.settings.tenants[s.Tenant]; !known {
		b.errorf("%s: there is no tenant %q", at, s.Tenant)
		return
	}
	hash := sha256.Sum256([]byte(s.Key.Key))
	if other, taken := b.snapshot.keys[hash]; taken {
		b.errorf("%s: is the same as key %s", at, other.name)
		return
	}
	b.snapshot.keys[hash] = &apiKey{name: name, origin: s.origin, tenant: s.Tenant}
}

// parseServer reads `[scheme://]host[:port]`.
func parseServer(s string) (mailer.Server, error) {
	server := mailer.Server{Security: mailer.StartTLS}
	port := "587"
	rest := s
	if scheme, after, found := strings.Cut(s, "://"); found {
		rest = after
		switch scheme {
		case "smtp":
		case "smtps":
			server.Security, port = mailer.ImplicitTLS, "465"
		case "plaintext":
			server.Security, port = mailer.Plaintext, "25"
		default:
			return server, fmt.Errorf("unknown scheme %q: write smtps:// for TLS from the start, plaintext:// for none, or no scheme for STARTTLS", scheme)
		}
	}
	host := rest
	if h, p, err := net.SplitHostPort(rest); err == nil {
		host, port = h, p
	}
	host = strings.Trim(host, "[]")
	n, err := net.LookupPort("tcp", port)
	if err != nil || n < 1 {
		return server, fmt.Errorf("%q has no valid port", s)
	}
	if host == "" || strings.ContainsAny(host, "/ @?#") {
		return server, fmt.Errorf("%q must be [smtps://|plaintext://]host[:port]", s)
	}
	server.Host, server.Port = strings.ToLower(host), n
	return server, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
