package caddymodule

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// TestChangingTheKey: the key is changed with a server that runs, as the manual has it,
// and nothing is lost.
func TestChangingTheKey(t *testing.T) {
	t.Parallel()
	k1, k2, k3 := tokens.NewKey(), tokens.NewKey(), tokens.NewKey()
	p := startCaddy(t, "encryption_key "+k1+"\n"+scripted(t, new(mailertest.Script)))
	later := func() string {
		t.Helper()
		got := p.post(strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1))
		for try := 0; got.status == 0 && try < 3; try++ { // a reload reset the connection
			got = p.post(strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1))
		}
		return accepted(t, got, 200, "scheduled").ID
	}
	first := later()
	if status, body := p.reload(k1, k2); status != 400 || !strings.Contains(body, "the key that it is sealed with is missing: key id ") ||
		strings.Contains(body, k1) || strings.Contains(body, k2) {
		t.Errorf("without the old key: status %d: %s", status, body)
	}
	p.mustReload(k1, k2+" "+k1)
	ids := []string{later()}
	var m messageView
	p.ops(&m, "GET", "/outbox/messages/"+first)
	p.ops(nil, "DELETE", "/outbox/messages/"+first) // the last one of the old key's

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for range 3 { // apps start in any order
		status, body := p.reload(k1, k3+" "+k2, "\trespond 404\n}\n", "\trespond 404\n}\nhttp://"+taken.Addr().String()+" {\n\trespond 404\n}\n")
		if status != 400 || !strings.Contains(body, "in use") {
			t.Errorf("a configuration that cannot start: status %d: %s", status, body)
		}
		ids = append(ids, later())
	}
	config, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.config, []byte(strings.Replace(string(config), k1, k2, 1)))
	p.mustReload()
	ids = append(ids, later())
	p.kill()
	p.start()
	for _, id := range ids {
		p.ops(&m, "GET", "/outbox/messages/"+id)
		if got := p.ops(nil, "GET", "/outbox/messages/"+id+"/eml"); m.State != "scheduled" || got.status != 200 {
			t.Errorf("%s: %s, content: status %d: %s", id, m.State, got.status, got.body)
		}
	}
}

// TestOutboxSealer: while configurations change over, the keys of the one seal that
// comes back if the other fails.
func TestOutboxSealer(t *testing.T) {
	t.Parallel()
	ring := func(keys ...string) *tokens.KeyRing {
		var raw [][]byte
		for _, k := range keys {
			key, err := tokens.ParseKey(k)
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, key)
		}
		r, err := tokens.NewKeyRing(raw...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	k1, k2 := tokens.NewKey(), tokens.NewKey()
	var s outboxSealer
	s.use(ring(k1), ring(k2, k1))
	sealed, err := s.AppendSeal(nil, "name", []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring(k1).Open("name", sealed); err != nil {
		t.Errorf("during the change: %v", err)
	}
	if newer, err := ring(k2).Seal("name", []byte("text")); err != nil {
		t.Error(err)
	} else if text, err := s.AppendOpen(nil, "name", newer); err != nil || string(text) != "text" {
		t.Errorf("sealed with the new key: %q, %v", text, err)
	}
	if err := s.check(ring(k2)); !errors.Is(err, tokens.ErrUnknownKey) {
		t.Errorf("keys without the one in use: %v", err)
	}
	if err := s.check(ring(k2, k1)); err != nil {
		t.Errorf("keys with the one in use: %v", err)
	}
	s.use(ring(k2, k1))
	if sealed, err = s.AppendSeal(nil, "name", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ring(k2).Open("name", sealed); err != nil {
		t.Errorf("after the change: %v", err)
	}
}
