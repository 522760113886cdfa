package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// keysSite are tenants and keys of all kinds, with a server of its own for each
// tenant, so that it tells which one sent.
func keysSite(t *testing.T) (p *caddyProcess, servers map[string]*mailertest.Server) {
	t.Helper()
	var app strings.Builder
	servers = make(map[string]*mailertest.Server)
	for name, lines := range map[string]string{
		"default": "", "kyoto": "domains kyoto.example", "osaka": "domains osaka.example\nallowed_recipients *@example.net",
	} {
		s := mailertest.NewServer(t)
		s.AllowPassword("u", "smtp-password")
		servers[name] = s
		ca := t.TempDir() + "/ca.pem"
		if err := os.WriteFile(ca, s.CA, 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&app, "tenant %s {\nserver %s\nauth password u smtp-password\nca_file %s\nfrom sender@%s.example\nsenders *\n%s\n}\n", name, s.Addr, ca, name, lines)
	}
	fmt.Fprintf(&app, `
		key bound test-key-of-bound-24-characters kyoto
		key hashed sha256:%x kyoto
		key some test-key-of-some-24-characters {
			tenants kyoto osaka
		}
		key any test-key-of-any-24-characters osaka {
			tenants *
		}
		key ruled test-key-of-ruled-24-characters kyoto {
			senders *@shop.example
			allowed_recipients *@example.net
			rate 3 1h
		}
		key far test-key-of-far-24-characters kyoto {
			networks 192.0.2.0/24
		}
		key near test-key-of-near-24-characters kyoto {
			networks 127.0.0.0/8 ::1
		}
		key ended test-key-of-ended-24-characters kyoto {
			expires 2020-01-01
		}
		key reader test-key-of-reader-24-characters kyoto {
			scopes read
		}
		key ops {
			user ops
			tenant osaka
		}
		key anyone {
			unauthenticated
			tenant kyoto
			scopes send
			allowed_recipients *@example.net
		}
`, sha256.Sum256([]byte("test-key-of-hashed-24-characters")))
	p = startCaddyWith(t, app.String(), `
	handle_path /site/* {
		oauth_mail send {
			tenant {header.X-Site}
		}
	}
	handle_path /users/* {
		basic_auth {
			ops $2a$04$RbAFPPsTv5Eb8x1m.6N8/eJ1wE4njy0qDlQ/7V78PC90gLUx/Q1bS
			eve $2a$04$RbAFPPsTv5Eb8x1m.6N8/eJ1wE4njy0qDlQ/7V78PC90gLUx/Q1bS
		}
		oauth_mail send {
			user {http.auth.user.id}
		}
	}
	handle_path /anyone/* {
		oauth_mail send {
			allow_unauthenticated
		}
	}
`)
	return p, servers
}

// TestKeys: which key may do what, and by which tenant it goes.
func TestKeys(t *testing.T) {
	t.Parallel()
	p, servers := keysSite(t)
	tests := []struct {
		name   string
		key    string
		target string
		header map[string]string
		from   string
		to     string
		status int
		says   string // tenant with 200, else the error's name and detail_code
	}{
		{name: "bound", key: "bound", status: 200, says: "kyoto"},
		{name: "hash in the configuration", key: "hashed", status: 200, says: "kyoto"},
		{name: "the hash itself", header: map[string]string{"Authorization": fmt.Sprintf("Bearer sha256:%x", sha256.Sum256([]byte("test-key-of-hashed-24-characters")))}, status: 403, says: "invalid_api_key"},
		{name: "bound, its own tenant named", key: "bound", header: map[string]string{"X-Mail-Tenant": "kyoto"}, status: 200, says: "kyoto"},
		{name: "bound, another tenant named", key: "bound", header: map[string]string{"X-Mail-Tenant": "osaka"}, status: 401, says: "restricted_api_key tenant"},
		{name: "bound, an unknown tenant named", key: "bound", header: map[string]string{"X-Mail-Tenant": "nara"}, status: 401, says: "restricted_api_key tenant"},
		{name: "bound, its own tenant in the path", key: "bound", target: "/t/kyoto/emails", status: 200, says: "kyoto"},
		{name: "bound, another tenant in the path", key: "bound", target: "/t/osaka/emails", status: 401, says: "restricted_api_key tenant"},
		{name: "bound, another tenant in the site", key: "bound", target: "/site/emails", header: map[string]string{"X-Site": "osaka"}, status: 401, says: "restricted_api_key tenant"},
		{name: "some, none named", key: "some", status: 422, says: "missing_required_field missing_tenant"},
		{name: "some, header", key: "some", header: map[string]string{"X-Mail-Tenant": "osaka"}, status: 200, says: "osaka"},
		{name: "some, path", key: "some", target: "//t/osaka//emails", status: 200, says: "osaka"},
		{name: "some, site", key: "some", target: "/site/emails", header: map[string]string{"X-Site": "osaka"}, status: 200, says: "osaka"},
		{name: "some, site before header", key: "some", target: "/site/emails", header: map[string]string{"X-Site": "osaka", "X-Mail-Tenant": "kyoto"}, status: 200, says: "osaka"},
		{name: "some, path before site and header", key: "some", target: "/site/t/osaka/emails", header: map[string]string{"X-Site": "kyoto", "X-Mail-Tenant": "kyoto"}, status: 200, says: "osaka"},
		{name: "some, a foreign name behind one of its own", key: "some", target: "/site/emails", header: map[string]string{"X-Site": "osaka", "X-Mail-Tenant": "default"}, status: 401, says: "restricted_api_key tenant"},
		{name: "some, a placeholder in the site's placeholder", key: "some", target: "/site/emails", header: map[string]string{"X-Site": "{header.X-Other}", "X-Other": "osaka"}, status: 401, says: "restricted_api_key tenant"},
		{name: "some, domain", key: "some", from: "a@Osaka.Example", status: 200, says: "osaka"},
		{name: "some, header before domain", key: "some", header: map[string]string{"X-Mail-Tenant": "kyoto"}, from: "a@osaka.example", status: 200, says: "kyoto"},
		{name: "some, a tenant that is not its own", key: "some", header: map[string]string{"X-Mail-Tenant": "default"}, status: 401, says: "restricted_api_key tenant"},
		{name: "some, a name without settings", key: "some", header: map[string]string{"X-Mail-Tenant": "nara"}, status: 401, says: "restricted_api_key tenant"},
		{name: "any, none named", key: "any", status: 200, says: "osaka"},
		{name: "any, domain", key: "any", from: "a@kyoto.example", status: 200, says: "kyoto"},
		{name: "any, named", key: "any", header: map[string]string{"X-Mail-Tenant": "kyoto"}, status: 200, says: "kyoto"},
		{name: "any, a name without settings", key: "any", header: map[string]string{"X-Mail-Tenant": "nara"}, status: 200, says: "default"},
		{name: "any, no name at all", key: "any", header: map[string]string{"X-Mail-Tenant": "{env.HOME}"}, status: 401, says: "restricted_api_key tenant"},
		{name: "sender of a key", key: "ruled", from: "a@shop.example", to: "b@example.net", status: 200, says: "kyoto"},
		{name: "another sender", key: "ruled", from: "a@bank.example", to: "b@example.net", status: 403, says: "validation_error sender_not_allowed"},
		{name: "another recipient", key: "ruled", from: "a@shop.example", to: "b@example.com", status: 403, says: "validation_error recipient_not_allowed"},
		{name: "another recipient of the tenant", key: "some", from: "a@osaka.example", to: "b@example.com", status: 403, says: "validation_error recipient_not_allowed"},
		{name: "from far", key: "far", status: 401, says: "restricted_api_key network"},
		{name: "from near by", key: "near", status: 200, says: "kyoto"},
		{name: "ended", key: "ended", status: 403, says: "invalid_api_key expired_key"},
		{name: "without the scope", key: "reader", status: 401, says: "restricted_api_key scope"},
		{name: "user", target: "/users/emails", header: map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA=="}, status: 200, says: "osaka"},
		{name: "user without a key", target: "/users/emails", header: map[string]string{"Authorization": "Basic ZXZlOm9wcy1wYXNzd29yZA=="}, status: 403, says: "invalid_api_key"},
		{name: "user where none is asked for", header: map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA=="}, status: 403, says: "invalid_api_key"},
		{name: "nobody", status: 401, says: "missing_api_key"},
		{name: "nobody, where all may", target: "/anyone/emails", status: 200, says: "kyoto"},
		{name: "nobody, where all may, to elsewhere", target: "/anyone/emails", to: "b@example.com", status: 403, says: "validation_error recipient_not_allowed"},
		{name: "nobody, where all may, another tenant", target: "/anyone/t/osaka/emails", status: 401, says: "restricted_api_key tenant"},
		{name: "wrong key, where all may", target: "/anyone/emails", key: "wrong", status: 403, says: "invalid_api_key"},
	}
	want := make(map[string]int)
	for _, tt := range tests {
		header := map[string]string{"Content-Type": "application/json"}
		if tt.key != "" {
			header["Authorization"] = fmt.Sprintf("Bearer test-key-of-%s-24-characters", tt.key)
		}
		maps.Copy(header, tt.header)
		if tt.target == "" {
			tt.target = "/emails"
		}
		if tt.to == "" {
			tt.to = "a@example.net"
		}
		body := fmt.Sprintf(`{"from":%q,"to":%q,"subject":"s","text":"t"}`, tt.from, tt.to)
		if tt.from == "" {
			body = fmt.Sprintf(`{"to":%q,"subject":"s","text":"t"}`, tt.to)
		}
		got := p.do("POST", tt.target, header, body)
		if got.status != tt.status {
			t.Errorf("%s: status %d: %s", tt.name, got.status, got.body)
			continue
		}
		if got.status == 200 {
			want[tt.says]++
			if n := len(servers[tt.says].Messages()); n != want[tt.says] {
				t.Errorf("%s: %d messages by %s, want %d: %s", tt.name, n, tt.says, want[tt.says], got.body)
			}
			if fell := tt.says == defaultTenant; fell && !strings.Contains(got.body, field("tenant", tt.says)) {
				t.Errorf("%s: the answer does not name the tenant: %s", tt.name, got.body)
			}
			continue
		}
		var e struct {
			Name   string
			Code   string `json:"detail_code"`
			Detail string `json:"message"`
		}
		if err := json.Unmarshal([]byte(got.body), &e); err != nil || strings.TrimSpace(e.Name+" "+e.Code) != tt.says {
			t.Errorf("%s: %s, %v", tt.name, got.body, err)
		}
		for _, name := range []string{"kyoto", "osaka", "nara"} {
			if strings.Contains(e.Detail, name) {
				t.Errorf("%s: the answer names a tenant: %s", tt.name, got.body)
			}
		}
	}
}

// TestCallsElsewhere: a call of Resend's that is not here is refused as its SDKs read it,
// and the site keeps its own page of that name.
func TestCallsElsewhere(t *testing.T) {
	t.Parallel()
	p, _ := keysSite(t)
	for _, tt := range []struct{ target, key, want string }{
		{"/site/domains", "test-key-of-bound-24-characters", "404 not_found"},
		{"/site/domains/x/verify", "test-key-of-bound-24-characters", "404 not_found"},
		{"/site/api-keys", "test-key-of-bound-24-characters", "404 not_found"},
		{"/site/domains", "wrong-key-of-24-characters-and-more", "404"}, // the site's
		{"/site/page", "test-key-of-bound-24-characters", "404"},
	} {
		if got := p.read(nil, tt.key, "POST", tt.target, "{}"); outcome(got) != tt.want {
			t.Errorf("%s: %s: %s", tt.target, outcome(got), got.body)
		}
	}
	h := &Handler{app: &App{}, logger: slog.New(slog.DiscardHandler)}
	h.app.registry.current.Store(mustBuild(t, settings{
		tenants: map[string]tenantSettings{"a": {Tenant: Tenant{Server: "a.example", Auth: Auth{Method: "none"}, From: "a@example.com"}}},
		keys:    map[string]keySettings{"web": {Key: Key{Key: testKey, Tenant: "a"}}},
	}))
	for key, ours := range map[string]bool{testKey: true, "wrong": false, "": false} {
		r := httptest.NewRequest("GET", "/contacts", nil)
		r.Header.Set("Authorization", "Bearer "+key)
		asked := false
		if err := h.serveSend(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { asked = true; return nil })); err != nil {
			t.Fatal(err)
		}
		if asked == ours {
			t.Errorf("key %q: the site was asked: %v", key, asked)
		}
	}
}

// TestTrace: the trace of a request is in the log of its message, and each answer has
// the id of its request.
func TestTrace(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, scripted(t, new(mailertest.Script)))
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	got := p.post(mailBody, "Traceparent", "00-"+id+"-00f067aa0ba902b7-01")
	accepted(t, got, 200, "sent")
	p.awaitLog(`"trace_id":"` + id + `"`)
	request := got.header.Get("X-Request-Id")
	p.awaitLog(`"request_id":"` + request + `"`)
	for text, want := range map[string]string{
		"00-" + id + "-00f067aa0ba902b7-01":                       id,
		"cc-" + id + "-00f067aa0ba902b7-01-what-comes-later":      id,
		"ff-" + id + "-00f067aa0ba902b7-01":                       "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": "",
		"00-" + id + "-0000000000000000-01":                       "",
		"00-" + strings.ToUpper(id) + "-00f067aa0ba902b7-01":      "",
		"\"injected": "",
		"":           "",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Traceparent", text)
		if got := traceID(r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{}))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestKeysShown: administrators see what keys may do and when they were used, and none
// of them.
func TestKeysShown(t *testing.T) {
	t.Parallel()
	p, _ := keysSite(t)
	p.do("POST", "/emails", map[string]string{"Authorization": "Bearer test-key-of-bound-24-characters"}, "")
	got := p.do("GET", "/admin/keys", map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA=="}, "")
	var v struct{ Keys []keyView }
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || len(v.Keys) != 11 {
		t.Fatalf("%d keys, %v: %s", len(v.Keys), err, got.body)
	}
	for _, k := range v.Keys {
		if used := k.LastUsedAt != nil; used != (k.Name == "bound") {
			t.Errorf("%s: last used at %v", k.Name, k.LastUsedAt)
		}
		if by := map[string]string{"ops": "user", "anyone": "nothing"}[k.Name]; by != "" && k.By != by {
			t.Errorf("%s: by %s", k.Name, k.By)
		}
		if k.Name == "ruled" && (k.Messages != 3 || k.Window != "1h0m0s" || len(k.Senders) != 1 || len(k.AllowedRecipients) != 1) {
			t.Errorf("%+v", k)
		}
	}
	if strings.Contains(got.body, "24-characters") || strings.Contains(got.body, "sha256") {
		t.Errorf("a key is there: %s", got.body)
	}
}

// TestKeyRateInAnswers: the header tells what is left of a key's rate, a reload
// changes nothing about it, and what is over it is not sent.
func TestKeyRateInAnswers(t *testing.T) {
	t.Parallel()
	p, servers := keysSite(t)
	send := func() answer {
		return p.do("POST", "/emails", map[string]string{"Authorization": "Bearer test-key-of-ruled-24-characters", "Content-Type": "application/json"},
			`{"from":"a@shop.example","to":"a@example.net","subject":"s","text":"t"}`)
	}
	for left := 2; left >= 0; left-- {
		got := send()
		if h := got.header; got.status != 200 || h.Get("Ratelimit-Limit") != "3" || h.Get("Ratelimit-Remaining") != fmt.Sprint(left) || !whole(h.Get("Ratelimit-Reset")) {
			t.Fatalf("status %d, header %v: %s", got.status, got.header, got.body)
		}
		if left == 1 {
			if status, body := p.reload("key far", "key farther"); status != 200 {
				t.Fatalf("reload: %d %s", status, body)
			}
		}
	}
	got := send()
	if h := got.header; got.status != 429 || h.Get("Ratelimit-Remaining") != "0" || !whole(h.Get("Ratelimit-Reset")) || h.Get("Retry-After") != h.Get("Ratelimit-Reset") || !strings.Contains(got.body, field("name", "rate_limit_exceeded")) {
		t.Errorf("status %d, header %v: %s", got.status, h, got.body)
	}
	if n := len(servers["kyoto"].Messages()); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// TestKeyRateOfBatches: each message of a batch counts, and what is over the rate
// is not sent.
func TestKeyRateOfBatches(t *testing.T) {
	t.Parallel()
	p, servers := keysSite(t)
	const message = `{"from":"a@shop.example","to":"a@example.net","subject":"s","text":"t"}`
	send := func(media string, n int, between string) answer {
		body := strings.Join(slices.Repeat([]string{message}, n), between)
		if between == "," {
			body = "[" + body + "]"
		}
		return p.do("POST", "/emails/batch", map[string]string{"Authorization": "Bearer test-key-of-ruled-24-characters", "Content-Type": media}, body)
	}
	if got := send("application/json", 4, ","); got.status != 429 || !strings.Contains(got.body, field("detail_code", "batch_over_rate")) || got.header.Get("Retry-After") != "" {
		t.Errorf("4 of 3: status %d: %s", got.status, got.body)
	}
	if got := send("application/json", 2, ","); got.status != 200 || got.header.Get("Ratelimit-Remaining") != "1" {
		t.Errorf("2 of 3: status %d, %v: %s", got.status, got.header, got.body)
	}
	if got := send("application/json", 2, ","); got.status != 429 || !strings.Contains(got.body, field("detail_code", "key_rate")) {
		t.Errorf("2 of 1: status %d: %s", got.status, got.body)
	}
	got := send("application/x-ndjson", 3, "\n")
	if n := strings.Count(got.body, field("detail_code", "key_rate")); got.status != 200 || n != 2 {
		t.Errorf("3 lines of 1: status %d: %s", got.status, got.body)
	}
	await(t, "three messages", func() bool { return len(servers["kyoto"].Messages()) >= 3 })
	if n := len(servers["kyoto"].Messages()); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// whole reports whether s is a number of seconds above zero.
func whole(s string) bool {
	return s != "" && s != "0" && strings.Trim(s, "0123456789") == ""
}
