package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// runtimeSite is a Caddy whose configuration file has the tenant `default` alone, with
// a provider and a mail server for what is made at run time.
type runtimeSite struct{ *oauthSite }

func startRuntimeSite(t *testing.T) *runtimeSite {
	t.Helper()
	idp := tokenstest.NewServer()
	server := httptest.NewServer(idp)
	t.Cleanup(server.Close)
	idp.Issuer, idp.ClientID, idp.ClientSecret = server.URL, "client", clientSecret
	s := &oauthSite{idp: idp, mail: mailertest.NewServer(t)}
	s.mail.AcceptTokens(func(user, token string) bool {
		owner, ok := idp.Owner(token)
		return ok && owner == user
	})
	host, port := (&mailertest.Sink{}).Listen(t)
	s.caddyProcess = startCaddy(t, tenantAt(net.JoinHostPort(host, fmt.Sprint(port)), "connections 8", "senders *@example.com"))
	return &runtimeSite{s}
}

// another starts a second instance on the same storage.
func (s *runtimeSite) another() *runtimeSite {
	s.t.Helper()
	dir := s.t.TempDir()
	p := *s.caddyProcess
	p.URL, p.admin, p.dir = "http://"+freeAddress(s.t), freeAddress(s.t), dir
	p.config, p.cmd = filepath.Join(dir, "Caddyfile"), nil
	p.output = newLogFile(s.t)
	config, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	text := strings.NewReplacer(s.URL, p.URL, s.caddyProcess.admin, p.admin, "tenant default {", withoutOutbox+"tenant default {").Replace(string(config))
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.kill)
	p.start()
	return &runtimeSite{&oauthSite{caddyProcess: &p, idp: s.idp, mail: s.mail}}
}

// change makes a call of the administration that must answer with the status.
func (s *runtimeSite) change(method, path, body string, status int, revision ...string) map[string]any {
	s.t.Helper()
	header := map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA==", "Content-Type": "application/json"}
	if len(revision) > 0 {
		header["If-Match"] = revision[0]
	}
	got := s.do(method, "/admin"+path, header, body)
	if got.status != status {
		s.t.Fatalf("%s %s: status %d, want %d: %s\n%s", method, path, got.status, status, got.body, grepLines(s.output.String(), "run time", "panic"))
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(got.body), &v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// sendBy posts a mail with a key.
func (s *runtimeSite) sendBy(key string) answer {
	return s.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/json"}, mailBody)
}

// create makes the provider idp, the tenant sales and the key shop, which it returns.
func (s *runtimeSite) create() (key string) {
	s.t.Helper()
	ca, err := json.Marshal(string(s.mail.CA))
	if err != nil {
		s.t.Fatal(err)
	}
	s.change("POST", "/providers", fmt.Sprintf(`{"name":"idp","issuer":%q,"client_id":"client","credentials":[{"secret":%q,"expires":"2099-01-01"}],
		"scopes":["smtp.send","openid","email","offline_access"],"servers":["127.0.0.1"],"ca":%s}`, s.idp.Issuer, clientSecret, ca), 201)
	s.change("POST", "/tenants", fmt.Sprintf(`{"name":"sales","server":%q,"auth":{"method":"oauth","provider":"idp"},"user":%q,"senders":["*@example.com"],"ca":%s}`, s.mail.Addr, mailbox, ca), 201)
	return s.change("POST", "/keys", `{"name":"shop","tenant":"sales"}`, 201)["key"].(string)
}

// TestRuntimeLife: a provider, a tenant and a key are made on a running server, signed
// in, tested, used, changed, disconnected and deleted, while it sends, and no send
// fails. A second instance follows, and a restart forgets nothing.
func TestRuntimeLife(t *testing.T) {
	t.Parallel()
	a := startRuntimeSite(t)
	b := a.another()
	stop := make(chan struct{})
	var sent, failed atomic.Int64
	var group sync.WaitGroup
	load := func(s *runtimeSite, until <-chan struct{}) {
		for range 2 {
			group.Go(func() {
				for {
					select {
					case <-until:
						return
					default:
					}
					got := s.sendBy(testKey)
					if got.status == 0 { // Caddy drops a connection that comes in the midst of a reload
						got = s.sendBy(testKey)
					}
					if got.status != 200 {
						failed.Add(1)
						t.Errorf("a send under way: status %d: %s", got.status, got.body)
					}
					sent.Add(1)
				}
			})
		}
	}
	load(a, stop)
	load(b, stop)

	key := a.create()
	follows := func(what string, done func() bool) {
		t.Helper()
		began := time.Now()
		await(t, what, done)
		t.Logf("%s: after %v", what, time.Since(began).Round(10*time.Millisecond))
	}
	follows("the second instance has the tenant", func() bool { return b.admin("GET", "/tenants/sales").status == 200 && b.sendBy(key).status == 503 })
	if got := a.sendBy(key); got.status != 503 && got.status != 200 {
		t.Errorf("before the sign-in: status %d: %s", got.status, got.body)
	}
	a.signIn()
	if got := a.adminBody("POST", "/tenants/sales/test", "{}"); got.status != 200 || !strings.Contains(got.body, `"ok":true`) {
		t.Errorf("test: status %d: %s", got.status, got.body)
	}
	works := func(s *runtimeSite) bool {
		got := s.sendBy(key)
		return got.status == 200 && strings.Contains(got.body, `"sent"`)
	}
	if !works(a) {
		t.Errorf("after the sign-in: %+v", a.sendBy(key))
	}
	follows("the second instance sends", func() bool { return works(b) })

	// Changes that leave the way as it is leave its connections, and the grant.
	sessions := a.mail.Sessions()
	shown := a.change("GET", "/tenants/sales", "", 200)
	a.change("PATCH", "/tenants/sales", `{"recipients":"all"}`, 200, shown["revision"].(string))
	if !works(a) || a.mail.Sessions() != sessions {
		t.Errorf("a change ended %d connections that it did not concern", a.mail.Sessions()-sessions)
	}
	shown = a.change("GET", "/tenants/sales", "", 200)
	a.change("PATCH", "/tenants/sales", `{"connections":5}`, 200, shown["revision"].(string))
	if !works(a) {
		t.Errorf("after the change: %+v", a.sendBy(key))
	}
	follows("the second instance has the change", func() bool { return b.change("GET", "/tenants/sales", "", 200)["connections"] == 5.0 })
	shown = a.change("GET", "/providers/idp", "", 200)
	a.change("PATCH", "/providers/idp", `{"display_name":"Our own"}`, 200, shown["revision"].(string))
	if !works(a) {
		t.Errorf("after the change of the provider: %+v", a.sendBy(key))
	}

	if status, text := a.reload("connections 8", "connections 9"); status != 200 {
		t.Fatalf("reload: status %d: %s", status, text)
	}
	if !works(a) {
		t.Errorf("after a reload: %+v", a.sendBy(key))
	}
	close(stop)
	group.Wait()
	a.kill()
	a.start()
	if !works(a) {
		t.Errorf("after a restart: %+v\n%s", a.sendBy(key), a.output)
	}

	stop = make(chan struct{})
	load(a, stop)
	load(b, stop)
	if got := a.admin("POST", "/accounts/idp/"+mailbox+"/disconnect"); got.status != 200 {
		t.Errorf("disconnect: status %d: %s", got.status, got.body)
	}
	a.change("DELETE", "/providers/idp", "{}", 409, "*")
	a.change("DELETE", "/tenants/sales", "{}", 409, "*")
	a.change("DELETE", "/keys/shop", "{}", 200, "*")
	a.change("DELETE", "/tenants/sales?force=true", "{}", 200, "*")
	a.change("DELETE", "/providers/idp", "{}", 200, "*")
	if got := a.sendBy(key); got.status != 403 {
		t.Errorf("after the deletion: status %d: %s", got.status, got.body)
	}
	follows("the second instance has them no more", func() bool {
		return b.sendBy(key).status == 403 && b.admin("GET", "/tenants/sales").status == 404 && b.admin("GET", "/providers/idp").status == 404
	})
	close(stop)
	group.Wait()
	if len(a.records()) != 0 {
		t.Error("a token is left in the storage")
	}
	t.Logf("%d messages sent meanwhile, %d failed", sent.Load(), failed.Load())
	if failed.Load() != 0 || sent.Load() < 20 {
		t.Errorf("%d of %d sends failed", failed.Load(), sent.Load())
	}
}
