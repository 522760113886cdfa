package tokens

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Keys are made once: RSA keys take their time.
var (
	rsaKey = sync.OnceValue(func() *SigningKey {
		return certified(must(rsa.GenerateKey(rand.Reader, 2048)))
	})
	ecKey = sync.OnceValue(func() *SigningKey {
		return certified(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	})
	serviceKey = sync.OnceValue(func() *SigningKey {
		return &SigningKey{Signer: rsaKey().Signer, ID: "key-1", Issuer: "robot@project.iam.example"}
	})
	weakKey = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 1024)) })
)

var certificateEnd = time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC)

// certified signs a certificate with a key, for itself.
func certified(signer crypto.Signer) *SigningKey {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotAfter: certificateEnd}
	der := must(x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer))
	return &SigningKey{Signer: signer, Certificate: must(x509.ParseCertificate(der))}
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs8(key crypto.Signer) []byte {
	return block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
}

func TestParseSigningKey(t *testing.T) {
	t.Parallel()
	r, e := rsaKey().Signer.(*rsa.PrivateKey), ecKey().Signer.(*ecdsa.PrivateKey)
	rsaCertificate, ecCertificate := block("CERTIFICATE", rsaKey().Certificate.Raw), block("CERTIFICATE", ecKey().Certificate.Raw)
	pkcs1 := block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r))
	sec1 := block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(e)))
	weak := weakKey()
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	legacy := pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("canary"),
	})
	for name, test := range map[string]struct {
		parts []([]byte)
		want  *SigningKey
		fail  string
	}{
		"PKCS 8, key first":            {[][]byte{pkcs8(r), rsaCertificate}, rsaKey(), ""},
		"PKCS 8, certificate first":    {[][]byte{rsaCertificate, pkcs8(r)}, rsaKey(), ""},
		"PKCS 1":                       {[][]byte{pkcs1, rsaCertificate}, rsaKey(), ""},
		"SEC 1":                        {[][]byte{ecCertificate, sec1}, ecKey(), ""},
		"SEC 1, with parameters":       {[][]byte{block("EC PARAMETERS", []byte{6, 0}), sec1, ecCertificate}, ecKey(), ""},
		"EC in PKCS 8":                 {[][]byte{pkcs8(e), ecCertificate}, ecKey(), ""},
		"text around":                  {[][]byte{[]byte("Bag Attributes\n  x: y\n"), pkcs8(r), []byte("subject=app\n"), rsaCertificate}, rsaKey(), ""},
		"chain":                        {[][]byte{ecCertificate, rsaCertificate, pkcs8(r)}, rsaKey(), ""},
		"empty":                        {nil, nil, "neither a private key nor a certificate"},
		"not PEM":                      {[][]byte{[]byte("\x30\x82canary")}, nil, ".pfx"},
		"no certificate":               {[][]byte{pkcs8(r)}, nil, "no certificate"},
		"no key":                       {[][]byte{rsaCertificate}, nil, "no private key"},
		"public key alone":             {[][]byte{block("PUBLIC KEY", []byte("x")), rsaCertificate}, nil, "no private key"},
		"two keys":                     {[][]byte{pkcs8(r), sec1, rsaCertificate}, nil, "more than one private key"},
		"another's certificate":        {[][]byte{pkcs8(r), ecCertificate}, nil, "does not belong"},
		"another's certificate, EC":    {[][]byte{sec1, rsaCertificate}, nil, "does not belong"},
		"encrypted":                    {[][]byte{block("ENCRYPTED PRIVATE KEY", []byte("canary")), rsaCertificate}, nil, "is encrypted"},
		"encrypted, the old way":       {[][]byte{legacy, rsaCertificate}, nil, "is encrypted"},
		"garbage":                      {[][]byte{block("PRIVATE KEY", []byte("canary")), rsaCertificate}, nil, "can't be read"},
		"garbage, PKCS 1":              {[][]byte{block("RSA PRIVATE KEY", []byte("canary")), rsaCertificate}, nil, "the rsa private key can't be read"},
		"PKCS 1 under the wrong title": {[][]byte{block("EC PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r)), rsaCertificate}, nil, "can't be read"},
		"garbage for a certificate":    {[][]byte{pkcs8(r), block("CERTIFICATE", []byte("canary"))}, nil, "certificate can't be read"},
		"weak":                         {[][]byte{pkcs8(weak), block("CERTIFICATE", certified(weak).Certificate.Raw)}, nil, "1024 bits"},
		"another curve":                {[][]byte{pkcs8(p384), block("CERTIFICATE", certified(p384).Certificate.Raw)}, nil, "P-256"},
		"another kind":                 {[][]byte{pkcs8(ed), block("CERTIFICATE", certified(ed).Certificate.Raw)}, nil, "has to be an RSA key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseSigningKey(bytes.Join(test.parts, nil))
			if test.fail != "" {
				if err == nil || !strings.Contains(err.Error(), test.fail) || strings.Contains(err.Error(), "canary") || got != nil {
					t.Errorf("%v, %v; want %q", got, err, test.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.identity() != test.want.identity() || !got.Certificate.NotAfter.Equal(certificateEnd) || got.Issuer != "" {
				t.Error("another key")
			}
		})
	}
}

// Entra takes certificates of RSA keys only: that shows when the configuration is
// loaded, and where the file is replaced later, before anything is sent.
func TestRSAOnly(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]*SigningKey{
		"RSA": {rsaKey()}, "EC": {ecKey()}, "RSA, then EC": {rsaKey(), ecKey()},
	} {
		for _, preset := range []string{"microsoft", "microsoft-us-gov", "microsoft-us-dod", "microsoft-china"} {
			p, err := FromPreset(preset, "contoso.onmicrosoft.com", GrantClientCredentials)
			if err != nil {
				t.Fatal(err)
			}
			p.ClientID = "c"
			for _, key := range keys {
				p.Credentials = append(p.Credentials, keyOf(key))
			}
			last := keys[len(keys)-1]
			_, signing := last.clientAssertion(p, time.Now())
			for _, err := range []error{p.Check(), signing} {
				if (err == nil) != (last == rsaKey()) || err != nil && !strings.Contains(err.Error(), "RSA") {
					t.Errorf("%s, %s: %v", preset, name, err)
				}
			}
		}
	}
}

func TestParseServiceAccountKey(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"type": "service_account", "client_email": "robot@project.iam.example", "private_key_id": "key-1",
		"private_key": string(pkcs8(rsaKey().Signer)), "token_uri": "https://evil.example/token",
	}
	for name, test := range map[string]struct {
		member, value string
		want          string
	}{
		"good":           {"", "", ""},
		"of a person":    {"type", "authorized_user", `"authorized_user"`},
		"no type":        {"type", "", "service_account"},
		"no address":     {"client_email", "", "client_email"},
		"no key":         {"private_key", "", "no private_key"},
		"not PEM":        {"private_key", "canary", "no private_key"},
		"garbage":        {"private_key", string(block("PRIVATE KEY", []byte("canary"))), "can't be read"},
		"encrypted":      {"private_key", string(block("ENCRYPTED PRIVATE KEY", []byte("canary"))), "encrypted"},
		"weak":           {"private_key", string(pkcs8(weakKey())), "1024 bits"},
		"EC":             {"private_key", string(pkcs8(ecKey().Signer)), "RSA"},
		"OAuth client":   {"web", "canary", "of an OAuth client"},
		"desktop client": {"installed", "canary", "of an OAuth client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			members := map[string]string{test.member: test.value}
			for k, v := range good {
				if k != test.member {
					members[k] = v
				}
			}
			key, err := ParseServiceAccountKey(must(json.Marshal(members)))
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") || key != nil {
					t.Errorf("%v, %v; want %q", key, err, test.want)
				}
				return
			}
			if err != nil || key.Issuer != "robot@project.iam.example" || key.ID != "key-1" || key.Certificate != nil ||
				key.identity() != serviceKey().identity() {
				t.Errorf("%+v, %v", key, err)
			}
		})
	}
	for _, text := range []string{"", "canary", `["canary"]`, `{"type":7,"private_key":"canary"}`} {
		if key, err := ParseServiceAccountKey([]byte(text)); err == nil || key != nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Whatever a server knows a key by tells it from others.
func TestKeyIdentity(t *testing.T) {
	t.Parallel()
	named, recertified := *rsaKey(), *rsaKey()
	named.ID, recertified.Certificate = "x", ecKey().Certificate
	seen := map[string]bool{}
	for i, key := range []*SigningKey{rsaKey(), ecKey(), serviceKey(), &named, &recertified} {
		if seen[key.identity()] {
			t.Errorf("key %d is like one before", i)
		}
		seen[key.identity()] = true
	}
	if again := *rsaKey(); !seen[again.identity()] {
		t.Error("the same key looks like another")
	}
}
