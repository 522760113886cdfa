package caddymodule

import (
	"regexp"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
)

// TestCommandInventory: the command line lists who sends by SMTP, and how.
func TestCommandInventory(t *testing.T) {
	t.Parallel()
	_, tenants := sinkTenants(t)
	address := freeAddress(t)
	p := startCaddy(t, tenants+beside("")+"smtp "+address+" {\ntls off\nplaintext_auth 127.0.0.1\ntenant default\nuser copier "+opsHash+"\n}\n")
	if r := p.run("", "inventory"); r.code != 0 || !strings.Contains(r.out, "Nobody has sent") {
		t.Errorf("before: %+v", r)
	}
	c := dialSMTP(t, address, nil, false)
	if err := c.Auth(sasl.NewLoginClient("copier", "ops-password")); err != nil {
		t.Fatal(err)
	}
	mustSend(t, c, "sender@example.com", "From: sender@example.com\r\n\r\nx\r\n")
	row := regexp.MustCompile(`(?m)^user copier +default +127\.0\.0\.1 +` + regexp.QuoteMeta(address) + ` +printer\.test +none +LOGIN +1 +20\d\d-`)
	var r ran
	await(t, "the device is listed", func() bool {
		r = p.run("", "inventory")
		return r.code == 0 && row.MatchString(r.out)
	})
	if r = p.run("", "inventory", "--json"); r.code != 0 || !strings.Contains(r.out, `"name":"copier"`) {
		t.Errorf("as JSON: %+v", r)
	}
}
