package caddymodule

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestFailoverSite: another tenant sends while one cannot, the log says so, and
// tenants for staging reach nobody.
func TestFailoverSite(t *testing.T) {
	t.Parallel()
	bulk, staging, ready := new(mailertest.Script), new(mailertest.Script), new(mailertest.Script)
	listen := func(s *mailertest.Script) string {
		host, port := s.Listen(t)
		return net.JoinHostPort(host, fmt.Sprint(port))
	}
	p := startCaddy(t, strings.NewReplacer("DOWN", freeAddress(t), "BULK", listen(bulk), "STAGING", listen(staging), "READY", listen(ready)).Replace(`
		tenant default {
			server plaintext://DOWN
			auth none
			from noreply@example.com
			rate 100 1m
			recipients all
			failover bulk
		}
		tenant bulk {
			server plaintext://BULK
			auth none
			senders *@example.com
		}
		tenant ready {
			server plaintext://READY
			auth none
			from noreply@example.com
			warm
		}
		tenant staging {
			server plaintext://STAGING
			auth none
			from noreply@example.com
			deliver to developers@example.com
		}
		tenant nowhere {
			server plaintext://STAGING
			auth none
			from noreply@example.com
			deliver none
			failover bulk
		}
		key web `+testKey+` default
		key staging staging-`+testKey+` staging
		key nowhere nowhere-`+testKey+` nowhere
`))
	send := func(key string) {
		t.Helper()
		got := p.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/json"},
			`{"from":"noreply@example.com","to":["someone@example.net"],"subject":"s","text":"t"}`)
		if got.status != 200 {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
	}
	send(testKey)
	send(testKey)
	send("staging-" + testKey)
	send("nowhere-" + testKey)
	if n := len(bulk.Contents()); n != 2 {
		t.Errorf("%d messages went by the failover tenant", n)
	}
	if n := staging.Said("RCPT"); n != 1 || staging.Said("RCPT TO:<developers@example.com>") != 1 {
		t.Errorf("staging said %q", staging.Lines())
	}
	for _, want := range []string{
		`"a tenant cannot send; its mail goes to its failover tenant until it can"`, `"tenant":"default","failover":"bulk"`,
		`"this tenant delivers nothing: its mail is checked and dropped, and reported as sent; remove `,
		`"this tenant delivers all its mail to one address in place of its recipients; remove `,
		`"the failover of this tenant has no effect as long as it has `,
	} {
		p.awaitLog(want)
		if n := strings.Count(p.output.String(), want); n != 1 {
			t.Errorf("the log has %d of %s", n, want)
		}
	}
	if strings.Contains(p.output.String(), "someone@example.net") {
		t.Error("the log names a recipient")
	}
	await(t, "a connection is made ready", func() bool { return ready.Said("EHLO") > 0 })
	if n := ready.Sessions(); n != 1 {
		t.Errorf("%d connections are ready", n)
	}
	got := p.do("GET", "/admin/tenants", map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA=="}, "")
	for _, want := range []string{
		`"deliver":"none"`, `"deliver":"developers@example.com"`, `"failover":"bulk"`, `"recipients":"all"`,
		`"messages":100,"window":"1m0s"`, `"state":"ready","sending":"failed_over","until":"`, `connection refused","outbox":"open"},{"name":"nowhere"`,
	} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
}
