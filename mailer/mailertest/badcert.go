package mailertest

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// NewExpiredCertificate is [NewCertificate] with a server certificate that ended
// in June 1999, before the clocks of synctest begin.
func NewExpiredCertificate(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	return newCertificate(t, func(c *x509.Certificate) {
		c.NotAfter = time.Date(1999, 6, 1, 0, 0, 0, 0, time.UTC)
	})
}

// NewOtherCertificate is [NewCertificate] with a server certificate for the
// given names and no others.
func NewOtherCertificate(t testing.TB, names ...string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	return newCertificate(t, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = names, nil
	})
}
