package caddymodule

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// readEntry reads settings that the administration was given. Secrets that are left out
// are those of old, as long as they go where they went before: who changes that must
// give them again. Made is a key that was made here, which is shown this once. The
// error shows no secret.
func readEntry(ref entryRef, raw json.RawMessage, old *entry) (e *entry, made string, err error) {
	if !namePattern.MatchString(ref.name) {
		return nil, "", invalid("name", "unsupported", "a name has letters, digits, dots, hyphens and underscores only, and 64 at most")
	}
	if err := checkText(raw); err != nil {
		return nil, "", err
	}
	if err := refusePlaceholders(raw); err != nil {
		return nil, "", err
	}
	e = &entry{entryRef: ref}
	public := make(map[string]json.RawMessage)
	switch ref.kind {
	case kindProvider:
		err = e.readProvider(raw, old, public)
	case kindTenant:
		err = e.readTenant(raw, old, public)
	case kindKey:
		made, err = e.readKey(raw, old, public)
	}
	if err != nil {
		return nil, "", err
	}
	e.settings, err = json.Marshal(public)
	return e, made, err
}

// refusePlaceholders refuses what an operator may take for a placeholder. Braces
// otherwise mean nothing here.
func refusePlaceholders(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	for {
		t, err := dec.Token()
		if err != nil {
			return nil //nolint:nilerr // what is broken is told by who reads it
		}
		if s, ok := t.(string); ok && (strings.Contains(s, "{env.") || strings.Contains(s, "{file.")) {
			return invalid("", "placeholder", "placeholders such as {env.*} and {file.*} belong into the configuration file: settings made at run time are taken as they are; give the value itself")
		}
	}
}

// members splits settings into their members; secrets are to be taken out.
func members(raw json.RawMessage, public map[string]json.RawMessage) error {
	if err := json.Unmarshal(raw, &public); err != nil {
		return badJSON("", "must be an object")
	}
	for name, value := range public {
		if string(value) == "null" {
			delete(public, name)
		}
	}
	return nil
}

// put sets a member; an empty list or text removes it.
func put(public map[string]json.RawMessage, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if t := string(text); t == `""` || t == "null" || t == "[]" {
		delete(public, name)
		return nil
	}
	public[name] = text
	return nil
}

// again refuses to keep a secret that would go elsewhere.
func again(place, why string) error {
	return invalid(place, "secret_needed", "give it again: %s, and what was given for one place is not sent to another", why)
}

func refuseFile(field, value, instead string) error {
	if value == "" {
		return nil
	}
	return invalid(field, "unsupported", "files of the server are named by the configuration file alone; %s", instead)
}

func (e *entry) readProvider(raw json.RawMessage, old *entry, public map[string]json.RawMessage) error {
	var in, before providerInput
	if err := decodeStruct(raw, "", &in); err != nil {
		return err
	}
	if old != nil {
		if err := json.Unmarshal(old.settings, &before); err != nil {
			return err
		}
	}
	if err := refuseFile("ca_file", in.CAFile, "give the certificates themselves in `ca`"); err != nil {
		return err
	}
	if err := refuseFile("service_account", in.ServiceAccount, "give what is in the file in `service_account_key`"); err != nil {
		return err
	}
	if err := members(raw, public); err != nil {
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
		if err := e.readCredential(fmt.Sprintf("credentials[%d]", i), &in.Credentials[i], old, same); err != nil {
			return err
		}
	}
	if err := put(public, "credentials", in.Credentials); err != nil {
		return err
	}
	delete(public, placeServiceAccount)
	key := in.ServiceAccountKey
	if was := old.secretOf(placeServiceAccount); key == "" && was != "" && in.Grant == before.Grant {
		if !same {
			return again(placeServiceAccount, "the provider's endpoints have changed")
		}
		key = was
	}
	e.keep(placeServiceAccount, key)
	return nil
}

// target is where a provider's credentials go, and on whose behalf.
func (in *providerInput) target() string {
	d := digest("target", in.Preset, in.Directory, in.Grant, in.Issuer, in.AuthorizationEndpoint, in.TokenEndpoint, in.RevocationEndpoint,
		in.DeviceAuthorizationEndpoint, in.ClientID, withoutPassword(in.Proxy), in.CA)
	return hex.EncodeToString(d[:])
}

// secretOf returns an old secret; empty where there is no entry, or none.
func (e *entry) secretOf(place string) string {
	if e == nil {
		return ""
	}
	return e.secret(place)
}

func (e *entry) keep(place, secret string) {
	if secret != "" {
		e.secrets = append(e.secrets, entrySecret{place, secret})
	}
}

// readCredential takes the secret out of a credential, and leaves what may be shown.
func (e *entry) readCredential(at string, c *credentialInput, old *entry, same bool) error {
	secret := c.Secret
	switch {
	case c.Secret != "" && c.Certificate != "":
		return invalid(at, "unsupported", "is a secret or a certificate, not both")
	case c.Secret != "":
		c.Kind = "client_secret"
	case c.Certificate != "":
		c.Kind, secret = "client_certificate", c.Certificate
	default:
		if secret = old.secretOf(placeCredential + c.ID); c.ID == "" || secret == "" {
			return missing(at + ".secret")
		}
		if !same {
			return again(at+".secret", "the provider's endpoints or client have changed")
		}
		_, c.Kind = e.credentialKind(old, c.ID)
	}
	if c.Expires != "" {
		if _, err := time.Parse(time.DateOnly, c.Expires); err != nil || c.Kind != "client_secret" {
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

// credentialKind is the kind of an old credential.
func (*entry) credentialKind(old *entry, id string) (found bool, kind string) {
	var before providerInput
	if json.Unmarshal(old.settings, &before) == nil {
		for _, c := range before.Credentials {
			if c.ID == id {
				return true, c.Kind
			}
		}
	}
	return false, "client_secret"
}

// readProxy takes the password out of a proxy's URL.
func (e *entry) readProxy(proxy, before string, old *entry, same bool, public map[string]json.RawMessage) error {
	if proxy == "" {
		return nil
	}
	u, err := url.Parse(proxy)
	if err != nil {
		return invalid(placeProxy, "unsupported", "is no URL")
	}
	password, given := "", false
	if u.User != nil {
		password, given = u.User.Password()
	}
	if was := old.secretOf(placeProxy); !given && was != "" && u.User != nil {
		if proxy != before || !same {
			return again(placeProxy, "the proxy has changed")
		}
		password = was
	}
	e.keep(placeProxy, password)
	return put(public, placeProxy, withoutPassword(proxy))
}

// withoutPassword is a proxy's URL without its password.
func withoutPassword(proxy string) string {
	u, err := url.Parse(proxy)
	if err != nil || u.User == nil {
		return proxy
	}
	u.User = url.User(u.User.Username())
	return u.String()
}

func (e *entry) readTenant(raw json.RawMessage, old *entry, public map[string]json.RawMessage) error {
	var in, before tenantInput
	if err := decodeStruct(raw, "", &in); err != nil {
		return err
	}
	if old != nil {
		if err := json.Unmarshal(old.settings, &before); err != nil {
			return err
		}
	}
	if err := refuseFile("ca_file", in.CAFile, "give the certificates themselves in `ca`"); err != nil {
		return err
	}
	if err := members(raw, public); err != nil {
		return err
	}
	same := old != nil && in.target() == before.target()
	if err := e.readProxy(in.Proxy, before.Proxy, old, same, public); err != nil {
		return err
	}
	password := in.Auth.Password
	if was := old.secretOf(placePassword); password == "" && was != "" && in.Auth.Method == "password" {
		if !same {
			return again(placePassword, "the server, its user or the way to it has changed")
		}
		password = was
	}
	e.keep(placePassword, password)
	in.Auth.Password = ""
	return put(public, "auth", in.Auth)
}

// target is where a tenant's password goes, and whose it is.
func (in *tenantInput) target() string {
	d := digest("target", in.Server, in.Auth.Method, in.Auth.Username, in.User, withoutPassword(in.Proxy), in.CA)
	return hex.EncodeToString(d[:])
}

func (e *entry) readKey(raw json.RawMessage, old *entry, public map[string]json.RawMessage) (made string, err error) {
	var in Key
	if err := decodeStruct(raw, "", &in); err != nil {
		return "", err
	}
	if err := members(raw, public); err != nil {
		return "", err
	}
	delete(public, "key")
	hash := old.secretOf(placeKey)
	switch {
	case in.User != "" || in.Unauthenticated:
		hash = ""
	case in.Key == "" && hash == "":
		in.Key = "om_" + rand.Text() + rand.Text()
		made = in.Key
	}
	if in.Key != "" {
		sum, err := keyHash(in)
		if err != nil {
			return "", invalid("key", "unsupported", "%s", err.Error())
		}
		hash = keyHashPrefix + hex.EncodeToString(sum[:])
	}
	e.keep(placeKey, hash)
	return made, nil
}

// places are where an entry has secrets, in words that programs know.
func (e *entry) places() []string {
	list := make([]string, 0, len(e.secrets))
	for _, s := range e.secrets {
		list = append(list, s.Place)
	}
	slices.Sort(list)
	return list
}
