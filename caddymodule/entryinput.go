package caddymodule

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

// readEntry reads settings that the administration was given. Secrets that are left out
// are those of old, as long as they go where they went before: who changes that must
// give them again. Incomplete takes credentials without them, as an export has them: they
// are to be given later. Made is a key that was made here, which is shown this once. The
// error shows no secret.
func readEntry(ref entryRef, raw json.RawMessage, old *entry, incomplete bool) (e *entry, made string, err error) {
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
		err = e.readProvider(raw, old, public, incomplete)
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

// readInput reads settings, and those that there were before. Public gets the members of
// settings; secrets are to be taken out.
func readInput[T any](raw json.RawMessage, old *entry, public map[string]json.RawMessage) (in, before T, err error) {
	if err := decodeStruct(raw, "", &in); err != nil {
		return in, before, err
	}
	if old != nil {
		if err := json.Unmarshal(old.settings, &before); err != nil {
			return in, before, err
		}
	}
	if err := json.Unmarshal(raw, &public); err != nil {
		return in, before, badJSON("", "must be an object")
	}
	for name, value := range public {
		if string(value) == "null" {
			delete(public, name)
		}
	}
	return in, before, nil
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

// keepOr keeps a secret that was given; else the old one, where it is still wanted. It must
// go to the same place then, and why says why it would not.
func (e *entry) keepOr(old *entry, place, given string, wanted, same bool, why string) error {
	if was := old.secretOf(place); given == "" && wanted && was != "" {
		if !same {
			return again(place, why)
		}
		given = was
	}
	e.keep(place, given)
	return nil
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
	if err := e.keepOr(old, placeProxy, password, u.User != nil && !given, same && proxy == before, "the proxy has changed"); err != nil {
		return err
	}
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
	in, before, err := readInput[tenantInput](raw, old, public)
	if err != nil {
		return err
	}
	if err := refuseFile("ca_file", in.CAFile, "give the certificates themselves in `ca`"); err != nil {
		return err
	}
	same := old != nil && in.target() == before.target()
	if err := e.readProxy(in.Proxy, before.Proxy, old, same, public); err != nil {
		return err
	}
	if err := e.keepOr(old, placePassword, in.Auth.Password, in.Auth.Method == "password", same, "the server, its user or the way to it has changed"); err != nil {
		return err
	}
	in.Auth.Password = ""
	return put(public, "auth", in.Auth)
}

// target is where a tenant's password goes, and whose it is.
func (in *tenantInput) target() string {
	d := digest("target", in.Server, in.Auth.Method, in.Auth.Username, in.User, withoutPassword(in.Proxy), in.CA)
	return hex.EncodeToString(d[:])
}

func (e *entry) readKey(raw json.RawMessage, old *entry, public map[string]json.RawMessage) (made string, err error) {
	in, _, err := readInput[Key](raw, nil, public)
	if err != nil {
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
