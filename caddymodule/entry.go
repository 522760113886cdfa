package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// entryKind is what was made at run time.
type entryKind string

// The kinds, in the order in which they build upon each other.
const (
	kindProvider entryKind = "provider"
	kindTenant   entryKind = "tenant"
	kindKey      entryKind = "key"
)

var entryKinds = []entryKind{kindProvider, kindTenant, kindKey}

// entryRef names what was made at run time.
type entryRef struct {
	kind entryKind
	name string
}

func (r entryRef) String() string { return string(r.kind) + " " + r.name }

func (r entryRef) compare(o entryRef) int {
	return cmp.Or(slices.Index(entryKinds, r.kind)-slices.Index(entryKinds, o.kind), strings.Compare(r.name, o.name))
}

// entry is a provider, a tenant or a key that was made at run time. It is never
// changed; a new one takes its place.
type entry struct {
	entryRef
	// revision grows with each change, over all entries.
	revision uint64
	// changed is when it was, in Unix seconds, and by whom.
	changed int64
	by      string
	// settings are in JSON as they were given, without secrets. No placeholder in them
	// is ever expanded.
	settings json.RawMessage
	// secrets are apart, so that nothing that shows settings shows them.
	secrets []entrySecret
}

// entrySecret is a secret and where in the settings it belongs.
type entrySecret struct {
	Place string `json:"place"`
	Value string `json:"value"`
}

func (e *entry) changedAt() time.Time { return time.Unix(e.changed, 0).UTC() }

// secret returns the secret of a place; empty for none.
func (e *entry) secret(place string) string {
	for _, s := range e.secrets {
		if s.Place == place {
			return s.Value
		}
	}
	return ""
}

// The places of secrets.
const (
	placeCredential     = "credentials." // and its id
	placeServiceAccount = "service_account_key"
	placeProxy          = "proxy"
	placePassword       = "auth.password"
	placeKey            = "key"
)

// providerInput is a provider as the administration takes it. Files of this machine are
// named by the configuration file alone: in their place is what is in them.
type providerInput struct {
	Provider
	// Credentials are what the client proves itself with.
	Credentials []credentialInput `json:"credentials,omitempty"`
	// ServiceAccountKey is the content of a service account's key file.
	ServiceAccountKey string `json:"service_account_key,omitempty"`
	// CA are authorities in PEM form.
	CA string `json:"ca,omitempty"`
}

// credentialInput is a client's credential as the administration takes it: a secret, or
// a certificate with its private key in PEM form. One that has neither is kept by its
// id.
type credentialInput struct {
	ID          string `json:"id,omitempty"`
	Kind        string `json:"kind,omitempty"`
	Secret      string `json:"secret,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	Expires     string `json:"expires,omitempty"`
}

// tenantInput is a tenant as the administration takes it.
type tenantInput struct {
	Tenant
	// CA are authorities in PEM form.
	CA string `json:"ca,omitempty"`
}

// provider returns the settings of a provider.
func (e *entry) provider() (providerSettings, error) {
	var in providerInput
	if err := json.Unmarshal(e.settings, &in); err != nil {
		return providerSettings{}, fmt.Errorf("%s: %w", e, err)
	}
	s := providerSettings{Provider: in.Provider, origin: originRuntime, entry: e}
	s.Proxy = withPassword(s.Proxy, e.secret(placeProxy))
	if in.CA != "" {
		s.authorities = []byte(in.CA)
	}
	for i, c := range in.Credentials {
		v, err := c.credential(fmt.Sprintf("%s %d", c.Kind, i+1), e.secret(placeCredential+c.ID))
		if err != nil {
			return s, fmt.Errorf("%s, credentials[%d]: %w", e, i, err)
		}
		s.credentials = append(s.credentials, v)
	}
	if text := e.secret(placeServiceAccount); text != "" {
		key, err := tokens.ParseServiceAccountKey([]byte(text))
		if err != nil {
			return s, fmt.Errorf("%s, service_account_key: %w", e, err)
		}
		s.serviceAccount = func() (*tokens.SigningKey, error) { return key, nil }
		s.ServiceAccount = placeServiceAccount // not a file's name: its presence is checked
	}
	return s, nil
}

// credential makes a credential ready for use.
func (c credentialInput) credential(name, secret string) (credential, error) {
	v := credential{Credential: tokens.Credential{Name: name}, expires: neverExpires}
	if secret == "" {
		return v, errors.New("the secret is missing; give it in `credentials`")
	}
	if c.Kind == kindCertificate {
		key, err := tokens.ParseSigningKey([]byte(secret))
		if err != nil {
			return v, err
		}
		v.Key = func() (*tokens.SigningKey, error) { return key, nil }
		v.expires = certificateEnd(v.Key)
		return v, nil
	}
	value := tokens.NewSecret(secret)
	v.Secret = func() (tokens.Secret, error) { return value, nil }
	if c.Expires != "" {
		day, err := time.Parse(time.DateOnly, c.Expires)
		if err != nil {
			return v, fmt.Errorf("expires: %q is no date such as 2027-06-30", c.Expires)
		}
		v.expires = func() time.Time { return day }
	}
	return v, nil
}

// tenant returns the settings of a tenant.
func (e *entry) tenant() (tenantSettings, error) {
	var in tenantInput
	if err := json.Unmarshal(e.settings, &in); err != nil {
		return tenantSettings{}, fmt.Errorf("%s: %w", e, err)
	}
	s := tenantSettings{Tenant: in.Tenant, origin: originRuntime, entry: e}
	s.Auth.Password = e.secret(placePassword)
	s.Proxy = withPassword(s.Proxy, e.secret(placeProxy))
	if in.CA != "" {
		s.authorities = []byte(in.CA)
	}
	return s, nil
}

// key returns the settings of a key.
func (e *entry) key() (keySettings, error) {
	s := keySettings{origin: originRuntime}
	if err := json.Unmarshal(e.settings, &s.Key); err != nil {
		return s, fmt.Errorf("%s: %w", e, err)
	}
	s.Key.Key = e.secret(placeKey) // its hash
	return s, nil
}
