package tokens

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Credential is what a client proves itself with at the token endpoint. Exactly
// one of its funcs is set. It is called for each request anew, so that what it
// reads can be replaced while in use; it must be safe for concurrent use.
type Credential struct {
	// Name is what operators know it by, such as "client_secret 2".
	Name string
	// Secret reads a client secret (RFC 6749, section 2.3.1).
	Secret func() (Secret, error)
	// Key reads what signs assertions: private_key_jwt (RFC 7523, section 2.2).
	Key func() (*SigningKey, error)
	// Assertion reads a JWT that another issuer has made for this client, such as
	// a workload's federated token (RFC 7523, section 2.2).
	Assertion func() (Secret, error)
}

// NewClientSecret returns the credential of a fixed client secret; none for an
// empty one, which is a public client's.
func NewClientSecret(value string) []Credential {
	if value == "" {
		return nil
	}
	secret := NewSecret(value)
	return []Credential{{Name: "client_secret", Secret: func() (Secret, error) { return secret, nil }}}
}

// check reports whether it is what it must be.
func (c Credential) check() error {
	set := 0
	for _, is := range []bool{c.Secret != nil, c.Key != nil, c.Assertion != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("credential %q must be one secret, key or assertion", c.Name)
	}
	return nil
}

// proof is what a credential gave for one request. The zero one is a public
// client's.
type proof struct {
	secret    Secret // goes as the provider's [AuthStyle] says
	assertion Secret // or this one goes, as client_assertion
	// value tells one thing that was read from another. An assertion that is
	// signed here differs each time, its key does not.
	value string
}

// prove reads the credential.
func (c Credential) prove(p Provider, now time.Time) (proof, error) {
	if c.Key != nil {
		key, err := c.Key()
		if err != nil {
			return proof{}, err
		}
		assertion, err := key.clientAssertion(p, now)
		return proof{assertion: NewSecret(assertion), value: digest("key", key.identity())}, err
	}
	kind, read := "secret", c.Secret
	if c.Assertion != nil {
		kind, read = "assertion", c.Assertion
	}
	secret, err := read()
	if err != nil {
		return proof{}, err
	}
	by := proof{secret: secret, value: digest(kind, secret.Reveal())}
	if c.Assertion != nil {
		// Files end with a line break at times, and a JWT has no space.
		by.secret, by.assertion = Secret{}, NewSecret(strings.TrimSpace(secret.Reveal()))
	}
	if by.secret.IsZero() && by.assertion.IsZero() {
		return proof{}, errors.New("it is empty")
	}
	return by, nil
}

// assertionType marks a client_assertion that is a JWT (RFC 7523, section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// authenticate puts the client and its proof into a request, and returns what
// of it must not be shown.
func (by proof) authenticate(p Provider, form url.Values, header http.Header) (secrets []string) {
	secret, assertion := by.secret.Reveal(), by.assertion.Reveal()
	switch {
	case assertion != "":
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", assertion)
		secrets = []string{assertion, signatureOf(assertion)}
	case secret != "" && p.AuthStyle == AuthBasic:
		// RFC 6749, section 2.3.1: both are form-encoded first.
		pair := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(p.ClientID) + ":" + url.QueryEscape(secret)))
		header.Set("Authorization", "Basic "+pair)
		return []string{secret, pair}
	case secret != "":
		form.Set("client_secret", secret)
		secrets = []string{secret}
	}
	if p.ClientID != "" {
		form.Set("client_id", p.ClientID)
	}
	return secrets
}

// postForm sends a form with client authentication and returns the body of a
// 2xx answer that carries no error.
//
// The credentials are tried in their order, the one that worked last before the
// others. The next one follows a clear invalid_client only: the server has done
// nothing for a client that it does not know, so that what the form presents is
// as good as before. When all were refused they are read once more, for one that
// was replaced a moment ago; nothing that was refused is sent again.
func (c *Client) postForm(ctx context.Context, op string, p Provider, endpoint string, form url.Values, secrets ...string) ([]byte, int, error) {
	if len(p.Credentials) == 0 {
		return c.postOnce(ctx, op, p, endpoint, form, proof{}, secrets...)
	}
	var (
		tried   = map[string]bool{}
		reasons = make([]error, len(p.Credentials))
		refused = &Error{Op: op, Kind: KindConfig} // the last refusal
	)
	for range 2 {
		for _, i := range c.order(p) {
			by, err := p.Credentials[i].prove(p, c.now())
			if err != nil {
				reasons[i] = fmt.Errorf("%s can't be used: %w", p.Credentials[i].Name, err)
				continue
			}
			if tried[by.value] {
				continue
			}
			tried[by.value] = true
			body, status, err := c.postOnce(ctx, op, p, endpoint, form, by, secrets...)
			e, failed := errors.AsType[*Error](err)
			if !failed || e.Code != "invalid_client" || e.Kind != KindConfig {
				if err == nil {
					c.worked.Store(int64(i))
				}
				return body, status, err
			}
			refused, reasons[i] = e, refusal(p.Credentials[i].Name, e)
		}
	}
	for _, reason := range reasons {
		switch {
		case reason == nil: // the same as another one
		case refused.Err == nil:
			refused.Err = reason
		default:
			refused.Err = fmt.Errorf("%w; %w", refused.Err, reason)
		}
	}
	return nil, refused.Status, refused
}

// order returns the indexes of the credentials in the order to try them.
func (c *Client) order(p Provider) []int {
	first := int(c.worked.Load())
	order := make([]int, 0, len(p.Credentials))
	order = append(order, first)
	for i := range p.Credentials {
		if i != first {
			order = append(order, i)
		}
	}
	return order
}

// refusal says which credential was refused, and what the server's numbers say.
func refusal(name string, e *Error) error {
	if a, known := entraAdvice(e.Numbers, e.Kind.String()); known {
		return fmt.Errorf("%s was refused: %s", name, a.Meaning)
	}
	return fmt.Errorf("%s was refused", name)
}
