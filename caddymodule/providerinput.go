package caddymodule

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

func (e *entry) readProvider(raw json.RawMessage, old *entry, public map[string]json.RawMessage, incomplete bool) error {
	in, before, err := readInput[providerInput](raw, old, public)
	if err != nil {
		return err
	}
	if err := refuseFile("ca_file", in.CAFile, "give the certificates themselves in `ca`"); err != nil {
		return err
	}
	if err := refuseFile("service_account", in.ServiceAccount, "give what is in the file in `service_account_key`"); err != nil {
		return err
	}
	same := old != nil && in.target() == before.target()
	if err := e.readProxy(in.Proxy, before.Proxy, old, same, public); err != nil {
		return err
	}
	if in.Credentials == nil {
		in.Credentials = before.Credentials
	}
	for i := range in.Credentials {
		if err := e.readCredential(fmt.Sprintf("credentials[%d]", i), &in.Credentials[i], old, same, incomplete); err != nil {
			return err
		}
	}
	if err := put(public, "credentials", in.Credentials); err != nil {
		return err
	}
	delete(public, placeServiceAccount)
	return e.keepOr(old, placeServiceAccount, in.ServiceAccountKey, in.Grant == before.Grant, same, "the provider's endpoints have changed")
}

// target is where a provider's credentials go, and on whose behalf.
func (in *providerInput) target() string {
	d := digest("target", in.Preset, in.Directory, in.Grant, in.Issuer, in.AuthorizationEndpoint, in.TokenEndpoint, in.RevocationEndpoint,
		in.DeviceAuthorizationEndpoint, in.ClientID, withoutPassword(in.Proxy), in.CA)
	return hex.EncodeToString(d[:])
}

// The kinds of credentials that the administration takes.
const (
	kindSecret      = "client_secret"
	kindCertificate = "client_certificate"
)

var credentialKinds = []string{kindSecret, kindCertificate}

// readCredential takes the secret out of a credential, and leaves what may be shown.
func (e *entry) readCredential(at string, c *credentialInput, old *entry, same, incomplete bool) error {
	secret := c.Secret
	switch {
	case c.Secret != "" && c.Certificate != "":
		return invalid(at, "unsupported", "is a secret or a certificate, not both")
	case c.Secret != "":
		c.Kind = kindSecret
	case c.Certificate != "":
		c.Kind, secret = kindCertificate, c.Certificate
	default:
		secret = old.secretOf(placeCredential + c.ID)
		switch {
		case c.ID != "" && secret != "" && same:
			c.Kind = old.credentialKind(c.ID)
		case c.ID != "" && secret != "":
			return again(at+".secret", "the provider's endpoints or client have changed")
		case !incomplete || !slices.Contains(credentialKinds, c.Kind):
			return missing(at + ".secret")
		}
	}
	if c.Expires != "" {
		if _, err := time.Parse(time.DateOnly, c.Expires); err != nil || c.Kind != kindSecret {
			return invalid(at+".expires", "unsupported", "must be a date such as 2027-06-30, of a secret")
		}
	}
	if c.Secret != "" || c.Certificate != "" || c.ID == "" {
		c.ID = rand.Text()[:8]
	}
	c.Secret, c.Certificate = "", ""
	e.keep(placeCredential+c.ID, secret)
	return nil
}

// credentialKind is the kind of a credential that the entry has.
func (e *entry) credentialKind(id string) string {
	var in providerInput
	if json.Unmarshal(e.settings, &in) == nil {
		for _, c := range in.Credentials {
			if c.ID == id {
				return c.Kind
			}
		}
	}
	return kindSecret
}
