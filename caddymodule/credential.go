package caddymodule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// credential is a client's credential and its end.
type credential struct {
	tokens.Credential
	// expires is when it ends; the zero time where nobody knows.
	expires func() time.Time
}

// neverExpires is a credential's end that nobody knows.
func neverExpires() time.Time { return time.Time{} }

// kind is the Caddyfile's word for a credential; empty where it is none, or more
// than one.
func (c Credential) kind() string {
	kind := ""
	for _, k := range []struct{ word, value string }{
		{"client_secret", c.Secret},
		{"client_certificate", c.Certificate},
		{"federated_token", c.FederatedToken},
	} {
		switch {
		case k.value == "":
		case kind != "":
			return ""
		default:
			kind = k.word
		}
	}
	return kind
}

// credentials reads what a client proves itself with, for the first time.
func (e *expander) credentials(list []Credential) []credential {
	count := make(map[string]int)
	for _, c := range list {
		count[c.kind()]++
	}
	number := make(map[string]int)
	var out []credential
	for _, c := range list {
		kind := c.kind()
		if kind == "" {
			e.fail("credentials", errors.New("each is exactly one of client_secret (in JSON secret), client_certificate (certificate) and federated_token, and not empty"))
			continue
		}
		word := kind
		if number[kind]++; count[kind] > 1 {
			word = fmt.Sprintf("%s %d", kind, number[kind])
		}
		v := credential{Credential: tokens.Credential{Name: word}, expires: neverExpires}
		if c.Expires != "" && c.Secret == "" {
			e.fail(word, errors.New("an expiry date belongs to a client_secret; a certificate has its own"))
		}
		switch kind {
		case "client_secret":
			v.Secret = e.secretFunc(word, c.Secret)
			v.expires = e.date("client_secret_expires", c.Expires)
		case "client_certificate":
			v.Key = e.keyFunc(word, c.Certificate, tokens.ParseSigningKey)
			v.expires = certificateEnd(v.Key)
		case "federated_token":
			v.Assertion = e.fileSecretFunc(word, c.FederatedToken)
		}
		out = append(out, v)
	}
	return out
}

// certificateEnd tells when the certificate that is in use now ends.
func certificateEnd(key func() (*tokens.SigningKey, error)) func() time.Time {
	return func() time.Time {
		k, err := key()
		if err != nil || k == nil || k.Certificate == nil {
			return time.Time{}
		}
		return k.Certificate.NotAfter
	}
}

// secretFunc returns what reads a secret of the configuration, which was read
// once. What came from a file is read again each time.
func (e *expander) secretFunc(word, text string) func() (tokens.Secret, error) {
	e.warnLiteral(word, text)
	t := &liveText{text: text, replacer: e.replacer}
	read := func() ([]byte, error) {
		s, err := t.expand()
		return []byte(s), err
	}
	return liveSecret(e, word, read, func() bool { return t.live })
}

// errNoFile stands where the configuration is refused anyway.
var errNoFile = errors.New("there is no file")

// fileSecretFunc is secretFunc for a file that is named itself.
func (e *expander) fileSecretFunc(word, name string) func() (tokens.Secret, error) {
	if !e.path(word, &name) {
		return func() (tokens.Secret, error) { return tokens.Secret{}, errNoFile }
	}
	return liveSecret(e, word, func() ([]byte, error) { return readSecretFile(name) }, nil)
}

// liveSecret reads a secret and returns what reads it again, unless live says
// that it can't change.
func liveSecret(e *expander, word string, read func() ([]byte, error), live func() bool) func() (tokens.Secret, error) {
	f := &secretFile[tokens.Secret]{place: e.place + ", " + word, read: read, parse: parseSecret, logger: e.logger}
	if err := f.load(); err != nil {
		e.fail(word, err)
	} else if live != nil && !live() {
		secret := f.value
		return func() (tokens.Secret, error) { return secret, nil }
	}
	return f.get
}

func parseSecret(content []byte) (tokens.Secret, error) {
	s := strings.TrimRight(string(content), "\r\n") // as files end
	if s == "" {
		return tokens.Secret{}, errors.New("is empty")
	}
	return tokens.NewSecret(s), nil
}

// keyFunc reads a file with a key, and returns what reads it again each time.
func (e *expander) keyFunc(word, name string, parse func([]byte) (*tokens.SigningKey, error)) func() (*tokens.SigningKey, error) {
	if !e.path(word, &name) {
		return func() (*tokens.SigningKey, error) { return nil, errNoFile }
	}
	f := &secretFile[*tokens.SigningKey]{
		place:  e.place + ", " + word,
		read:   func() ([]byte, error) { return readSecretFile(name) },
		logger: e.logger,
		parse: func(content []byte) (*tokens.SigningKey, error) {
			key, err := parse(content)
			if err != nil {
				return nil, fmt.Errorf("the file %s: %w", name, err)
			}
			return key, nil
		},
	}
	if err := f.load(); err != nil {
		e.fail(word, err)
	}
	return f.get
}

// date reads a day. The moment is its beginning in UTC: nobody knows the hour.
func (e *expander) date(word, text string) func() time.Time {
	e.text(word, &text)
	if text == "" {
		return neverExpires
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil {
		e.fail(word, fmt.Errorf("%q is no date such as 2027-06-30", text))
	}
	return func() time.Time { return day }
}
