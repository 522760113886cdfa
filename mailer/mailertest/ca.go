package mailertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"
)

// NewCertificate makes, in memory, an authority and a server certificate for
// localhost, mail.example.com and the loopback addresses. The configuration is
// the server's; clients trust it by the pool.
func NewCertificate(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	return newCertificate(t, func(*x509.Certificate) {})
}

// NewCertificateFor is NewCertificate for a server that has another name, too.
func NewCertificateFor(t testing.TB, name string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	return newCertificate(t, func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, name) })
}

// newCertificate makes a certificate of what change makes of the usual one.
func newCertificate(t testing.TB, change func(*x509.Certificate)) (*tls.Config, *x509.CertPool) {
	t.Helper()
	// Tests under synctest begin in the year 2000.
	from, to := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
	caKey, key := newKey(t), newKey(t)
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "mailertest"},
		NotBefore:             from,
		NotAfter:              to,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "mail.example.com"},
		NotBefore:    from,
		NotAfter:     to,
		DNSNames:     []string{"localhost", "mail.example.com"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(leaf)
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, caDER}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS12,
		// Tickets are written unasked, which blocks on a net.Pipe.
		SessionTicketsDisabled: true,
	}, pool
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
