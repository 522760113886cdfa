package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// apiKey is a key of the send route, checked and ready to use.
type apiKey struct {
	name   string
	origin origin
	// shown are its settings without the key.
	shown Key
	// hash is the SHA-256 of the key; zero where a user or nobody at all signs in.
	hash [sha256.Size]byte
	// tenant is that of requests that name none; empty where they must.
	tenant string
	// tenants are those that requests may name beside it; anyTenant for all.
	tenants []string
	// scopes are what it may do; none for all.
	scopes []string
	// senders and recipients are those of its messages; nil: any.
	senders, recipients *mailer.Senders
	rate                int
	window              time.Duration
	networks            []netip.Prefix // none: any
	// expires is when it ends; zero: never.
	expires time.Time
	// use is set by attach.
	use *keyUse
}

// keyHashPrefix begins the hash of a key in its place.
const keyHashPrefix = "sha256:"

func isKeyHash(s string) bool { return strings.HasPrefix(s, keyHashPrefix) }

// key checks a key.
func (b *builder) key(name string, s keySettings) {
	at := "key " + name
	if !namePattern.MatchString(name) {
		b.errorf("%s: a name has letters, digits, dots, hyphens and underscores only", at)
		return
	}
	k := &apiKey{
		name: name, origin: s.origin, tenant: s.Tenant, tenants: s.Tenants, scopes: s.Scopes,
		rate: s.Rate.Messages, window: time.Duration(s.Rate.Window),
	}
	k.shown, k.shown.Key = s.Key, ""
	before := len(b.errs)
	b.keyTenants(at, k)
	b.keyLimits(at, s, k)
	k.senders = b.addresses(at+", senders", s.Senders)
	k.recipients = b.addresses(at+", allowed_recipients", s.AllowedRecipients)
	hash, err := keyHash(s.Key)
	if err != nil {
		b.errorf("%s: %w", at, err)
	}
	if len(b.errs) > before {
		return
	}
	b.enterKey(at, s, k, hash)
}

// keyHash returns the SHA-256 of a key; zero where something else is in its place.
func keyHash(s Key) (hash [sha256.Size]byte, err error) {
	key := strings.TrimRight(s.Key, "\r\n") // as files end
	ways := 0
	for _, given := range []bool{key != "", s.User != "", s.Unauthenticated} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return hash, fmt.Errorf("needs one of a key, `user` and `unauthenticated`")
	case key == "":
		return hash, nil
	case isKeyHash(key):
		sum, err := hex.DecodeString(key[len(keyHashPrefix):])
		if err != nil || len(sum) != sha256.Size {
			return hash, fmt.Errorf("after %s come 64 hexadecimal digits, such as `printf %%s <key> | sha256sum` prints", keyHashPrefix)
		}
		return [sha256.Size]byte(sum), nil
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return hash, fmt.Errorf("has characters that no header can carry; use letters, digits and signs")
	case len(key) < minKeyLength:
		return hash, fmt.Errorf("must have at least %d characters, such as `openssl rand -base64 32` prints", minKeyLength)
	}
	return sha256.Sum256([]byte(key)), nil
}

// enterKey enters a key by what finds it.
func (b *builder) enterKey(at string, s keySettings, k *apiKey, hash [sha256.Size]byte) {
	switch {
	case s.Unauthenticated:
		if k.may(scopeRead) {
			b.errorf("%s, scopes: whoever comes without a key could read what all others have sent; write `scopes send`", at)
		}
		if other := b.snapshot.anyone; other != nil {
			b.errorf("%s: key %s is for requests without a key, too", at, other.name)
			return
		}
		b.snapshot.anyone = k
	case s.User != "":
		if other := b.snapshot.logins[s.User]; other != nil {
			b.errorf("%s, user: is the same as that of key %s", at, other.name)
			return
		}
		b.snapshot.logins[s.User] = k
	default:
		if other := b.snapshot.keys[hash]; other != nil {
			b.errorf("%s: is the same as key %s", at, other.name)
			return
		}
		k.hash = hash
		b.snapshot.keys[hash] = k
	}
}

// keyTenants checks the tenants of a key. A mistyped one must not pass for one that
// has no settings.
func (b *builder) keyTenants(at string, k *apiKey) {
	if k.tenant == "" && len(k.tenants) == 0 {
		b.errorf("%s, tenant: missing; name the one that its messages go out with, or with `tenants` those that requests may name", at)
	}
	if k.tenant != "" {
		b.knownTenant(at, k.tenant)
	}
	for _, name := range k.tenants {
		if name != anyTenant {
			b.knownTenant(at+", tenants", name)
		}
	}
}

func (b *builder) keyLimits(at string, s keySettings, k *apiKey) {
	for _, scope := range k.scopes {
		if !slices.Contains(keyScopes, scope) {
			b.errorf("%s, scopes: %q must be one of %s", at, scope, strings.Join(keyScopes, ", "))
		}
	}
	switch {
	case k.rate < 0 || k.window < 0:
		b.errorf("%s, rate: must be above zero", at)
	case (k.rate == 0) != (k.window == 0):
		b.errorf("%s, rate: needs messages and a window", at)
	case k.window > maxRateWindow:
		b.errorf("%s, rate: the window may be 24 hours at most", at)
	}
	for _, text := range s.Networks {
		n, err := parseNetwork(text)
		if err != nil {
			b.errorf("%s, networks: %w", at, err)
			continue
		}
		k.networks = append(k.networks, n)
	}
	if s.Expires == "" {
		return
	}
	day, err := time.Parse(time.DateOnly, s.Expires)
	k.expires = day.AddDate(0, 0, 1)
	if err != nil {
		if k.expires, err = time.Parse(time.RFC3339, s.Expires); err != nil {
			b.errorf("%s, expires: %q must be a day such as 2027-06-30, or a time as in RFC 3339", at, s.Expires)
		}
	}
}

// ended reports whether the key may be used no more.
func (k *apiKey) ended(now time.Time) bool { return !k.expires.IsZero() && !now.Before(k.expires) }

// may reports whether the key has a scope.
func (k *apiKey) may(scope string) bool {
	return len(k.scopes) == 0 || slices.Contains(k.scopes, scope)
}

// owns reports whether requests with the key may name a tenant.
func (k *apiKey) owns(tenant string) bool {
	return tenant == k.tenant || slices.Contains(k.tenants, tenant) || slices.Contains(k.tenants, anyTenant)
}

// allKeys returns all keys, in no order.
func (s *snapshot) allKeys() []*apiKey {
	all := make([]*apiKey, 0, len(s.keys)+len(s.logins)+1)
	for _, k := range s.keys {
		all = append(all, k)
	}
	for _, k := range s.logins {
		all = append(all, k)
	}
	if s.anyone != nil {
		all = append(all, s.anyone)
	}
	return all
}
