package caddymodule

import (
	"crypto/tls"
	"testing"
	"time"
)

// TestSMTPConnectionPolicies: what the configuration says of TLS connections holds,
// also for clients that ask for no name, and nonsense changes nothing.
func TestSMTPConnectionPolicies(t *testing.T) {
	t.Parallel()
	_, tenants := sinkTenants(t)
	const host = "smtp.policy.test"
	address := freeAddress(t)
	p := startCaddy(t, tenants+beside("")+"smtp "+address+" {\ntls implicit internal\nhostname "+host+"\nnetwork 127.0.0.1 {\ntenant default\n}\n}\n")
	roots := p.roots()
	can := func(version uint16, sni bool, offer ...string) bool {
		t.Helper()
		config := clientTLS(roots, host, sni)
		config.MinVersion, config.MaxVersion, config.NextProtos = version, version, offer
		nc, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			return false
		}
		defer nc.Close()
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = nc.Read(make([]byte, 4))
		return err == nil
	}
	await(t, "the certificate is there", func() bool { return can(tls.VersionTLS12, true) })
	const path = "/config/apps/oauth_mail/smtp/0/tls_connection_policies"
	for _, nonsense := range []string{`[null]`, `[{"protocol_min":"tls9"}]`} {
		if status, body := p.adminPost(path, "application/json", nonsense); status == 200 {
			t.Errorf("%s is taken: %s", nonsense, body)
		}
	}
	if !can(tls.VersionTLS12, false) {
		t.Error("nonsense has changed something")
	}
	if status, body := p.adminPost(path, "application/json", `[{"protocol_min":"tls1.3","alpn":["smtp"]}]`); status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	for _, tt := range []struct {
		version uint16
		sni     bool
		offer   []string
		want    bool
	}{
		{tls.VersionTLS13, true, nil, true},
		{tls.VersionTLS13, false, nil, true},
		{tls.VersionTLS13, true, []string{"smtp"}, true},
		{tls.VersionTLS13, true, []string{"h2"}, false},
		{tls.VersionTLS12, true, nil, false},
		{tls.VersionTLS12, false, nil, false},
	} {
		if got := can(tt.version, tt.sni, tt.offer...); got != tt.want {
			t.Errorf("%s, name %t, protocols %q: %t", tls.VersionName(tt.version), tt.sni, tt.offer, got)
		}
	}
	c := dialSMTP(t, address, clientTLS(roots, host, true), true)
	mustSend(t, c, "sender@example.com", "From: sender@example.com\r\n\r\nx\r\n")
}
