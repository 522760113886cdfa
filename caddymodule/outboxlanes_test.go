package caddymodule

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestServerPutRight: a wrong server is put right by a reload, and what waited goes at
// once: the tenant's rest is over, and so are the pauses of messages that were tried.
func TestServerPutRight(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	nobody := freeAddress(t)
	p := startCaddy(t, tenantAt(nobody))
	host, port := script.Listen(t)
	v := accepted(t, p.post(mailBody), 200, "queued")
	second := accepted(t, p.post(mailBody), 200, "queued")
	if v.Diagnosis == nil || v.NextTryAt == nil || second.Diagnosis == nil {
		t.Errorf("answers %+v, %+v", v, second)
	}
	var box outboxView
	await(t, "the tenant rests", func() bool {
		box = outboxView{}
		p.ops(&box, "GET", "/outbox")
		return box.Tenants[0].State == "resting" && box.Messages["queued"] == 2
	})
	var tenants struct{ Tenants []tenantView }
	p.ops(&tenants, "GET", "/tenants")
	if len(tenants.Tenants) != 1 || tenants.Tenants[0].Outbox != "resting" {
		t.Errorf("tenants %+v", tenants)
	}
	p.mustReload() // the same server
	p.ops(&box, "GET", "/outbox")
	if n := len(script.Contents()); box.Tenants[0].State != "resting" || n != 0 {
		t.Errorf("%s, %d sent with the same server", box.Tenants[0].State, n)
	}
	began := time.Now()
	p.mustReload(nobody, net.JoinHostPort(host, strconv.Itoa(port)))
	await(t, "both are sent", func() bool { return len(script.Contents()) == 2 })
	if took := time.Since(began); took > 7*time.Second { // they rested for 10 s, and 24 s or more
		t.Errorf("it took %v", took)
	}
}

// TestTenantGone: of a tenant that is configured no more the log tells what waits, and
// its messages go when it is back.
func TestTenantGone(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	one := scripted(t, script)
	p := startCaddy(t, one+strings.NewReplacer("tenant default", "tenant other", "key web", "key api", testKey+" default", testKey+"2 other").Replace(one))
	later := strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1)
	accepted(t, p.post(later), 200, "scheduled")
	p.mustReload("tenant default", "tenant third", testKey+" default", testKey+" third")
	await(t, "the log tells", func() bool {
		line := grepLines(p.output.String(), "the outbox holds messages of a tenant that is not configured")
		return strings.Contains(line, field("tenant", "default")) && strings.Contains(line, `"messages":1`) && strings.Contains(line, "bbolt:"+p.dir)
	})
}
