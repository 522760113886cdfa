package tokens

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"time"
)

const (
	// clientAssertionLife is how long an assertion proves the client. Entra
	// advises five to ten minutes.
	clientAssertionLife = 5 * time.Minute
	// grantAssertionLife is how long an assertion is good as a grant, which is
	// the longest that Google allows.
	grantAssertionLife = time.Hour
	// clockLead is how far our clock may be ahead of the server's.
	clockLead = 10 * time.Second
)

// jwtHeader is the header of an assertion (RFC 7515, section 4.1).
type jwtHeader struct {
	Algorithm  string `json:"alg"`
	Type       string `json:"typ"`
	KeyID      string `json:"kid,omitempty"`
	Thumbprint string `json:"x5t#S256,omitempty"`
}

// jwtClaims are the claims of an assertion (RFC 7523, section 3).
type jwtClaims struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	Scope     string `json:"scope,omitempty"`
	ID        string `json:"jti,omitempty"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf,omitempty"`
	Expiry    int64  `json:"exp"`
}

// clientAssertion makes an assertion that proves the client, for one request
// (RFC 7523, section 2.2; OpenID Connect Core, section 9). Its audience is the
// token endpoint, whichever endpoint it is sent to.
func (k *SigningKey) clientAssertion(p Provider, now time.Time) (string, error) {
	if err := k.suits(&p); err != nil { // the file may have been replaced
		return "", err
	}
	algorithm := "PS256"
	if _, is := k.Signer.Public().(*ecdsa.PublicKey); is {
		algorithm = "ES256"
	}
	issued := now.Add(-clockLead).Unix()
	return k.sign(algorithm, jwtClaims{
		Issuer: p.ClientID, Subject: p.ClientID, Audience: p.TokenEndpoint, ID: rand.Text(),
		IssuedAt: issued, NotBefore: issued, Expiry: now.Add(clientAssertionLife).Unix(),
	})
}

// grantAssertion makes an assertion with which a service account speaks for a
// mailbox (RFC 7523, section 2.1).
func (k *SigningKey) grantAssertion(p Provider, user string, now time.Time) (string, error) {
	issued := now.Add(-clockLead)
	return k.sign("RS256", jwtClaims{
		Issuer: k.Issuer, Subject: user, Audience: p.TokenEndpoint, Scope: strings.Join(p.Scopes, " "),
		IssuedAt: issued.Unix(), Expiry: issued.Add(grantAssertionLife).Unix(),
	})
}

// sign returns the claims as a JWS in compact form (RFC 7515, section 3.1). The
// algorithms are those of RFC 7518, section 3.1.
func (k *SigningKey) sign(algorithm string, claims jwtClaims) (string, error) {
	if err := fit(k.Signer); err != nil {
		return "", err
	}
	header := jwtHeader{Algorithm: algorithm, Type: "JWT", KeyID: k.ID}
	if k.Certificate != nil {
		sum := sha256.Sum256(k.Certificate.Raw)
		header.Thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	var parts []string
	for _, part := range []any{header, claims} {
		text, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	text := strings.Join(parts, ".")
	sum := sha256.Sum256([]byte(text))
	var opts crypto.SignerOpts = crypto.SHA256
	if algorithm == "PS256" {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	signature, err := k.Signer.Sign(rand.Reader, sum[:], opts)
	if err == nil && algorithm == "ES256" {
		signature, err = fixedLength(signature)
	}
	if err != nil {
		return "", errors.New("the key does not sign")
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// fixedLength returns a P-256 signature as RFC 7518, section 3.4, has it.
func fixedLength(der []byte) ([]byte, error) {
	var s struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		return nil, err
	}
	signature := make([]byte, 64)
	s.R.FillBytes(signature[:32])
	s.S.FillBytes(signature[32:])
	return signature, nil
}

// signatureOf is the part of an assertion without which the rest is worthless.
func signatureOf(assertion string) string {
	return assertion[strings.LastIndexByte(assertion, '.')+1:]
}
