package tokens

import (
	"crypto"
	"crypto/x509"
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

// SigningKey signs assertions.
type SigningKey struct {
	Signer crypto.Signer
	// Certificate is what the authorization server knows the key by: its
	// thumbprint is sent as x5t#S256. nil with a service account.
	Certificate *x509.Certificate
	// ID is sent as kid, where it is set.
	ID string
	// Issuer is the service account's address; empty with a certificate.
	Issuer string
}
