package caddymodule

import (
	"encoding/pem"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestSharedSessions: TLS sessions are kept for each set of authorities, so that
// trust in one is no trust in another.
func TestSharedSessions(t *testing.T) {
	t.Parallel()
	config, _ := mailertest.NewCertificate(t)
	authorities := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[1]})
	plain := tenantSettings{Tenant: Tenant{Server: "smtp.example.net", Auth: Auth{Method: "none"}, From: "a@example.com"}}
	private := plain
	private.CAFile, private.authorities = "ca.pem", authorities
	s, err := build(settings{tenants: map[string]tenantSettings{"a": plain, "b": plain, "c": private, "d": private}})
	if err != nil {
		t.Fatal(err)
	}
	of := func(name string) any { return s.tenants[name].mail.Server.Sessions }
	if of("a") == nil || of("a") != of("b") || of("c") != of("d") || of("a") == of("c") {
		t.Errorf("a %p, b %p, c %p, d %p", of("a"), of("b"), of("c"), of("d"))
	}
}
