package tokens

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// SigningKey signs assertions. It does not show itself when it is printed,
// logged or marshalled.
type SigningKey struct {
	// Signer is an RSA key of 2048 bits or more, or an EC key on P-256.
	Signer crypto.Signer
	// Certificate is what the authorization server knows the key by: its
	// thumbprint is sent as x5t#S256, and its NotAfter is when the key is of no
	// more use. nil with a service account.
	Certificate *x509.Certificate
	// ID is sent as kid, where it is set.
	ID string
	// Issuer is the service account's address; empty with a certificate.
	Issuer string
}

// String returns a fixed text.
func (k SigningKey) String() string { return redacted }

// GoString returns a fixed text.
func (k SigningKey) GoString() string { return redacted }

// MarshalText returns a fixed text.
func (k SigningKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns a fixed text.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// identity tells keys apart.
func (k *SigningKey) identity() string {
	public, _ := x509.MarshalPKIXPublicKey(k.Signer.Public()) // of kinds that sign checks
	certificate := ""
	if k.Certificate != nil {
		certificate = string(k.Certificate.Raw)
	}
	return digest(string(public), certificate, k.ID)
}

// minRSA is the fewest bits that an RSA key may have (RFC 7518, section 3.5).
const minRSA = 2048

// ParseSigningKey reads a private key and its certificate, in PEM and in any
// order (RFC 7468). The key may be in PKCS #8, PKCS #1 or SEC 1 form, and must
// not be encrypted. Of several certificates, the one of the key is taken.
func ParseSigningKey(data []byte) (*SigningKey, error) {
	var signer crypto.Signer
	var certificates []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "CERTIFICATE":
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, errors.New("the certificate can't be read")
			}
			certificates = append(certificates, certificate)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			if signer != nil {
				return nil, errors.New("there is more than one private key")
			}
			var err error
			if signer, err = parsePrivateKey(block); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case signer == nil && len(certificates) == 0:
		return nil, errors.New("there is neither a private key nor a certificate in PEM; a .pfx file has to be converted first")
	case signer == nil:
		return nil, errors.New("there is no private key beside the certificate")
	case len(certificates) == 0:
		return nil, errors.New("there is no certificate beside the private key")
	}
	for _, certificate := range certificates {
		public, ok := certificate.PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
		if ok && public.Equal(signer.Public()) {
			return &SigningKey{Signer: signer, Certificate: certificate}, nil
		}
	}
	return nil, errors.New("the private key does not belong to the certificate")
}

// ParseServiceAccountKey reads the JSON file of a Google service account's key.
// Its endpoints are not looked at: an assertion is made for the provider's own.
func ParseServiceAccountKey(data []byte) (*SigningKey, error) {
	var file struct {
		Type    string `json:"type"`
		Email   string `json:"client_email"`
		Key     string `json:"private_key"`
		KeyID   string `json:"private_key_id"`
		Clients any    `json:"web"`
		Desktop any    `json:"installed"`
	}
	if json.Unmarshal(data, &file) != nil {
		return nil, errors.New("the key file is no JSON object as it is downloaded from the service account's page")
	}
	switch {
	case file.Clients != nil || file.Desktop != nil:
		return nil, errors.New("the file is of an OAuth client; the key of a service account is needed")
	case file.Type != "service_account":
		return nil, fmt.Errorf("the type of the key file is %q; it has to be service_account", tidy(file.Type))
	case file.Email == "":
		return nil, errors.New("the key file has no client_email")
	}
	block, _ := pem.Decode([]byte(file.Key))
	if block == nil {
		return nil, errors.New("the key file has no private_key in PEM")
	}
	signer, err := parsePrivateKey(block)
	if err != nil {
		return nil, err
	}
	if _, is := signer.Public().(*rsa.PublicKey); !is {
		return nil, errors.New("the private key of a service account has to be an RSA key")
	}
	return &SigningKey{Signer: signer, ID: file.KeyID, Issuer: file.Email}, nil
}

// parsePrivateKey reads a private key of a kind that can sign. Its errors are
// its own: a parser's might quote the key.
func parsePrivateKey(block *pem.Block) (crypto.Signer, error) {
	if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("the private key is encrypted; store it without a passphrase, in a file that only this program can read")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("the %s can't be read", tidy(strings.ToLower(block.Type)))
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errUnfit
	}
	return signer, fit(signer)
}

// suits reports whether a key proves a client at a provider.
func (k *SigningKey) suits(p *Provider) error {
	if _, is := k.Signer.Public().(*rsa.PublicKey); !is && p.RSAOnly {
		return errors.New("the provider takes RSA keys only, and this is the certificate of an EC key; make one with an RSA key of 2048 bits or more")
	}
	return nil
}

var errUnfit = errors.New("the private key has to be an RSA key, or an EC key on the curve P-256")

// fit reports whether a key can sign assertions that servers accept.
func fit(signer crypto.Signer) error {
	switch public := signer.Public().(type) {
	case *rsa.PublicKey:
		if public.N.BitLen() < minRSA {
			return fmt.Errorf("the RSA key has %d bits; %d are the least that is safe", public.N.BitLen(), minRSA)
		}
		return nil
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P256() {
			return nil
		}
	}
	return errUnfit
}
