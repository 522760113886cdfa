package caddymodule

import (
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestCommandKey: a key that the command line makes sends, and does not once deleted.
func TestCommandKey(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, scripted(t, new(mailertest.Script))+"key old test-key-of-old-24-characters default {\nexpires 2020-01-01\n}\n")
	p.managementToken()
	p.awaitLog("an API key has ended")
	r := p.run("", "key", "new", "shop", "default", "--sender", "sender@example.com")
	key := regexp.MustCompile(`(?m)^  (\S{24,})$`).FindStringSubmatch(r.out)
	if r.code != 0 || key == nil {
		t.Fatalf("%+v", r)
	}
	send := func() answer {
		return p.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + key[1], "Content-Type": "application/json"}, `{"to":"a@example.net","subject":"x","text":"x"}`)
	}
	if got := send(); got.status != 200 {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	if r = p.run("", "key"); r.code != 0 || !strings.Contains(r.out, "shop") || !strings.Contains(r.out, "web") || strings.Contains(r.out, key[1]) {
		t.Errorf("list: %+v", r)
	}
	if ended := grepLines(r.out, "HAS ENDED"); !strings.HasPrefix(ended, "old ") || strings.Count(ended, "\n") != 1 {
		t.Errorf("the keys that have ended: %q in %s", ended, r.out)
	}
	if r = p.run("", "key", "new", "shop", "default"); r.code != 1 || !strings.Contains(r.err, "is there already") {
		t.Errorf("again: %+v", r)
	}
	if r = p.run("", "key", "delete", "web"); r.code != 1 || !strings.Contains(r.err, "configuration file") {
		t.Errorf("the file's key: %+v", r)
	}
	if r = p.run("", "key", "delete", "shop"); r.code != 0 || r.out != "Deleted: shop\n" {
		t.Errorf("delete: %+v", r)
	}
	if got := send(); got.status != 403 {
		t.Errorf("after it was deleted: status %d: %s", got.status, got.body)
	}
}
