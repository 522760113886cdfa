package caddymodule

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// snapshot is a configuration, checked and ready to use. It is never changed;
// a new one takes its place.
type snapshot struct {
	// redirectBase is the URL under which providers' redirect URIs lie.
	redirectBase *url.URL
	// refresh says which tokens are kept fresh.
	refresh tokens.Policy
	// keepSent and keepFailed say how long the outbox remembers messages; zero: as it
	// does by default.
	keepSent, keepFailed time.Duration
	providers            map[string]*provider
	tenants              map[string]*tenant
	// users are the tenants of each account, by name; set by attach.
	users map[tokens.Account][]*tenant
	// keys are the API keys by their SHA-256.
	keys map[[sha256.Size]byte]*apiKey
	// logins are those of users whom Caddy authenticates, by their names, and anyone
	// is that of requests without a key; nil for none.
	logins map[string]*apiKey
	anyone *apiKey
	// domains are the tenants that send for a domain in lower case.
	domains map[string]*tenant
	// callbacks are the providers by the path of their redirect URI.
	callbacks map[string]*provider
	// smtp are the SMTP entrances.
	smtp []*smtpEntrance
	// trust is shared by all snapshots of a configuration.
	trust *trust
	// entries are what was made at run time, and problems why some of it is not in
	// force.
	entries  map[entryRef]*entry
	problems map[entryRef]string
}

// trust is what verifies servers' certificates. There may be very many tenants, and few
// authorities.
type trust struct {
	mu sync.Mutex
	// pools are authorities by the hash of what they were read from.
	pools map[[sha256.Size]byte]*x509.CertPool
	// caches are the TLS sessions of the servers that the same authorities verify.
	caches map[[sha256.Size]byte]*mailer.Sessions
}

// authorities returns those in a text; nil where there is none.
func (t *trust) authorities(hash [sha256.Size]byte, pem []byte) *x509.CertPool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if pool := t.pools[hash]; pool != nil {
		return pool
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil
	}
	if t.pools == nil {
		t.pools = make(map[[sha256.Size]byte]*x509.CertPool)
	}
	t.pools[hash] = pool
	return pool
}

// sessions returns the TLS sessions of servers that authorities verify.
func (t *trust) sessions(hash [sha256.Size]byte) *mailer.Sessions {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cache := t.caches[hash]; cache != nil {
		return cache
	}
	if t.caches == nil {
		t.caches = make(map[[sha256.Size]byte]*mailer.Sessions)
	}
	t.caches[hash] = new(mailer.Sessions)
	return t.caches[hash]
}

type provider struct {
	name   string
	origin origin
	// entry is what it was made of, with [originRuntime].
	entry    *entry
	settings tokens.Provider
	// credentials are those in settings, with their ends.
	credentials []credential
	// transport is how its endpoints are reached.
	transport transportSettings
	// client is set by attach.
	client *tokens.Client
}

// namePattern is what providers, tenants and keys may be called: their names
// become parts of paths and labels.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// build makes a snapshot of settings. It is a pure function: no file, no
// network, no clock. Errors name the place, and all of them are reported.
func build(s settings) (*snapshot, error) {
	b := builder{
		settings:  s,
		mailboxes: make(map[mailboxKey]*tenant),
		listens:   make(map[string]string),
		snapshot: &snapshot{
			providers: make(map[string]*provider),
			tenants:   make(map[string]*tenant),
			keys:      make(map[[sha256.Size]byte]*apiKey),
			logins:    make(map[string]*apiKey),
			domains:   make(map[string]*tenant),
			callbacks: make(map[string]*provider),
			trust:     new(trust),
		},
	}
	b.redirectBase(s.redirectBase)
	if s.refresh != "" && !slices.Contains(refreshPolicies, s.refresh) {
		b.errorf("refresh: %q must be one of %s", s.refresh, strings.Join(refreshPolicies, ", "))
	}
	b.snapshot.refresh = tokens.Policy(s.refresh)
	b.retention(s)
	for _, name := range slices.Sorted(maps.Keys(s.providers)) {
		b.provider(name, s.providers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.tenants)) {
		b.tenant(name, s.tenants[name])
	}
	for _, name := range slices.Sorted(maps.Keys(b.snapshot.tenants)) {
		b.failover(b.snapshot.tenants[name])
		b.tenantDomains(b.snapshot.tenants[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.keys)) {
		b.key(name, s.keys[name])
	}
	for _, e := range s.smtp {
		b.smtp(e)
	}
	if err := errors.Join(b.errs...); err != nil {
		return nil, err
	}
	return b.snapshot, nil
}

// refreshPolicies are the words for which tokens are kept fresh.
var refreshPolicies = []string{string(tokens.PolicyAuto), string(tokens.PolicyAlways), string(tokens.PolicyOnUse)}

type builder struct {
	snapshot *snapshot
	settings settings
	// mailboxes has one tenant for each mailbox.
	mailboxes map[mailboxKey]*tenant
	// fileKeys are the names of the keys of the configuration file, while a layer is
	// laid over it.
	fileKeys map[string]bool
	// listens are the SMTP entrances by the addresses that they listen at.
	listens map[string]string
	errs    []error
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

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
