package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// canaries are secrets that must show nowhere.
const (
	canaryPassword = "canary-password-7f3a"
	canaryEnv      = "canary-environment-91bc"
)

// TestTheft: whoever may change settings at run time gets no secret and no token with
// that, and whoever may not changes nothing. No answer and no log line has a secret.
func TestTheft(t *testing.T) {
	t.Setenv("OAUTH_MAIL_CANARY", canaryEnv)
	s := startRuntimeSite(t)
	key := s.create()
	s.signIn()
	evil := &mailertest.Script{Auth: "PLAIN LOGIN XOAUTH2"}
	evilHost, evilPort := evil.Listen(t)
	evilAddress := fmt.Sprintf("%s:%d", evilHost, evilPort)
	otherCA, err := json.Marshal(string(mailertest.NewServer(t).CA))
	if err != nil {
		t.Fatal(err)
	}
	ownCA, err := json.Marshal(string(s.mail.CA))
	if err != nil {
		t.Fatal(err)
	}
	s.change("POST", "/tenants", fmt.Sprintf(`{"name":"bulk","server":%q,"auth":{"method":"password","username":"u","password":%q},"from":"b@example.com","ca":%s}`, s.mail.Addr, canaryPassword, ownCA), 201)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(canaryEnv), 0o600); err != nil {
		t.Fatal(err)
	}

	var answers strings.Builder
	call := func(method, path, body string, header map[string]string) answer {
		got := s.do(method, path, header, body)
		fmt.Fprintln(&answers, got.header, got.body)
		return got
	}
	as := func(more ...string) map[string]string {
		h := map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA==", "Content-Type": "application/json", "If-Match": "*"}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	before := call("GET", "/admin/settings", "", as()).body
	plain := "plaintext://" + evilAddress
	tests := []struct {
		name, method, path, body string
		header                   map[string]string
		status                   int
		says                     string
	}{
		// A password goes only where it was given for.
		{"server of a password", "PATCH", "/tenants/bulk", `{"server":"evil.example"}`, nil, 422, "give it again"},
		{"port of a password", "PATCH", "/tenants/bulk", `{"server":"127.0.0.1:9"}`, nil, 422, "give it again"},
		{"encryption of a password", "PATCH", "/tenants/bulk", fmt.Sprintf(`{"server":%q}`, plain), nil, 422, "give it again"},
		{"user of a password", "PATCH", "/tenants/bulk", `{"auth":{"username":"boss"}}`, nil, 422, "give it again"},
		{"proxy of a password", "PATCH", "/tenants/bulk", fmt.Sprintf(`{"proxy":"http://%s"}`, evilAddress), nil, 422, "give it again"},
		{"authorities of a password", "PATCH", "/tenants/bulk", fmt.Sprintf(`{"ca":%s}`, otherCA), nil, 422, "give it again"},
		{"password by replacing all", "PUT", "/tenants/bulk", fmt.Sprintf(`{"server":%q,"auth":{"method":"password","username":"u"},"from":"b@example.com"}`, plain), nil, 422, "give it again"},
		// So does a client's secret.
		{"token endpoint of a secret", "PATCH", "/providers/idp", `{"token_endpoint":"https://evil.example/token"}`, nil, 422, "give it again"},
		{"issuer of a secret", "PATCH", "/providers/idp", `{"issuer":"https://evil.example"}`, nil, 422, "give it again"},
		{"revocation endpoint", "PATCH", "/providers/idp", `{"revocation_endpoint":"https://evil.example/revoke"}`, nil, 422, "give it again"},
		{"client of a secret", "PATCH", "/providers/idp", `{"client_id":"other"}`, nil, 422, "give it again"},
		{"proxy of a secret", "PATCH", "/providers/idp", fmt.Sprintf(`{"proxy":"http://%s"}`, evilAddress), nil, 422, "give it again"},
		{"authorities of a secret", "PATCH", "/providers/idp", fmt.Sprintf(`{"ca":%s}`, otherCA), nil, 422, "give it again"},
		{"secret under another id", "PATCH", "/providers/idp", `{"credentials":[{"id":"nobody"}]}`, nil, 422, "missing"},
		// A token goes only to the servers of its provider, by the authorities that it trusts.
		{"server of a token", "PATCH", "/tenants/sales", `{"server":"evil.example"}`, nil, 422, "not among the servers"},
		{"new tenant with a token", "POST", "/tenants", fmt.Sprintf(`{"name":"thief","server":"evil.example","auth":{"method":"oauth","provider":"idp"},"user":%q}`, mailbox), nil, 422, "not among the servers"},
		{"authorities of a token", "PATCH", "/tenants/sales", fmt.Sprintf(`{"ca":%s}`, otherCA), nil, 422, "does not trust these authorities"},
		// Unsaved settings are tried with what is typed in.
		{"a test of nothing", "POST", "/settings/test", `{}`, nil, 422, "nothing to test"},
		{"a test with a method that is not known", "POST", "/settings/test", `{"tenant":{"server":"smtp.example","auth":{"method":"magic"},"from":"a@example.com"}}`, nil, 422, "there are oauth, password and none"},
		{"test with the stored password", "POST", "/settings/test", fmt.Sprintf(`{"name":"bulk","tenant":{"server":%q,"auth":{"method":"password","username":"u"},"from":"b@example.com"}}`, plain), nil, 422, "type it in"},
		{"test with the stored token", "POST", "/settings/test", fmt.Sprintf(`{"name":"sales","tenant":{"server":%q,"auth":{"method":"oauth","provider":"idp"},"user":%q}}`, "plaintext://localhost:"+fmt.Sprint(evilPort), mailbox), nil, 422, "not among the servers"},
		{"test with the stored secret", "POST", "/settings/test", `{"provider":{"token_endpoint":"https://evil.example/token","authorization_endpoint":"https://evil.example/a","client_id":"client","servers":["evil.example"],"credentials":[{"id":"nobody"}]}}`, nil, 422, "missing"},
		// Nothing of this machine is read.
		{"placeholder in a password", "PATCH", "/tenants/bulk", `{"auth":{"password":"{env.OAUTH_MAIL_CANARY}"}}`, nil, 422, "Placeholders such as"},
		{"placeholder in a sender", "PATCH", "/tenants/bulk", fmt.Sprintf(`{"from":"{file.%s}@example.com"}`, file), nil, 422, "Placeholders such as"},
		{"placeholder in a secret", "PATCH", "/providers/idp", `{"credentials":[{"secret":"{env.OAUTH_MAIL_CANARY}"}]}`, nil, 422, "Placeholders such as"},
		{"placeholder in a name", "PATCH", "/providers/idp", `{"display_name":"{env.OAUTH_MAIL_CANARY}"}`, nil, 422, "Placeholders such as"},
		{"file of authorities", "PATCH", "/tenants/bulk", fmt.Sprintf(`{"ca_file":%q}`, file), nil, 422, "configuration file alone"},
		{"file of a service account", "PATCH", "/providers/idp", fmt.Sprintf(`{"service_account":%q}`, file), nil, 422, "configuration file alone"},
		{"file of a federated token", "PATCH", "/providers/idp", fmt.Sprintf(`{"credentials":[{"federated_token":%q}]}`, file), nil, 422, "no such setting"},
		// Nor are the addresses where machines get their credentials.
		{"metadata address", "POST", "/settings/test", `{"tenant":{"server":"169.254.169.254:80","auth":{"method":"none"},"from":"a@example.com"}}`, nil, 422, "credentials"},
		{"metadata by its name", "POST", "/settings/test", `{"provider":{"issuer":"https://metadata.google.internal","client_id":"c","servers":["smtp.example"]}}`, nil, 422, "credentials"},
		{"metadata by IPv6", "POST", "/tenants", `{"name":"meta","server":"[fd00:ec2::254]:25","auth":{"method":"none"},"from":"a@example.com"}`, nil, 422, "credentials"},
		{"metadata by a mapped address", "POST", "/tenants", `{"name":"meta","server":"[::ffff:169.254.169.254]:25","auth":{"method":"none"},"from":"a@example.com"}`, nil, 422, "credentials"},
		{"metadata by a proxy", "POST", "/tenants", `{"name":"meta","server":"smtp.example","proxy":"http://169.254.169.254","auth":{"method":"none"},"from":"a@example.com"}`, nil, 422, "credentials"},
		{"link-local address", "PATCH", "/tenants/bulk", `{"server":"[fe80::1]:25","auth":{"password":"x"}}`, nil, 422, "link-local"},
		// What the file declares is the file's.
		{"change of the file's tenant", "PATCH", "/tenants/default", `{"server":"evil.example"}`, nil, 409, "configuration file declares"},
		{"in the place of the file's tenant", "PUT", "/tenants/default", `{"server":"evil.example","auth":{"method":"none"},"from":"a@example.com"}`, nil, 409, "configuration file declares"},
		{"deletion of the file's key", "DELETE", "/keys/web", `{}`, nil, 409, "configuration file declares"},
		{"import over the file", "POST", "/settings", `{"format":1,"tenants":[{"name":"default","settings":{"server":"evil.example"}}]}`, nil, 409, "configuration file declares"},
		// Nobody writes what he has not seen, nor by another site's page.
		{"no revision", "PATCH", "/tenants/bulk", `{"connections":1}`, as("If-Match", ""), 428, "If-Match"},
		{"old revision", "PATCH", "/tenants/bulk", `{"connections":1}`, as("If-Match", `"1"`), 412, "changed by"},
		{"another site's page", "PATCH", "/tenants/bulk", `{"connections":1}`, as("Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), 403, "another site"},
		{"a form's post", "POST", "/tenants", `name=x`, as("Content-Type", "application/x-www-form-urlencoded"), 415, "JSON"},
		{"a simple form's post", "POST", "/tenants", `{"name":"x"}`, as("Content-Type", "text/plain"), 415, "JSON"},
		{"nobody", "GET", "/tenants/bulk", "", map[string]string{"Content-Type": "application/json"}, 401, ""},
		{"a member twice", "PATCH", "/tenants/bulk", `{"server":"evil.example","server":"127.0.0.1"}`, nil, 400, "twice"},
		{"a member in other letters", "PATCH", "/tenants/bulk", `{"SERVER":"evil.example"}`, nil, 400, "must be written `server`"},
	}
	for _, tt := range tests {
		h := tt.header
		if h == nil {
			h = as()
		}
		if got := call(tt.method, "/admin"+tt.path, tt.body, h); got.status != tt.status || !strings.Contains(got.body, tt.says) {
			t.Errorf("%s: status %d, want %d with %q: %s", tt.name, got.status, tt.status, tt.says, got.body)
		}
	}
	// Whoever is no administrator sees, and changes nothing.
	if status, text := s.reload("role admin ops", "role operator ops"); status != 200 {
		t.Fatalf("reload: %d %s", status, text)
	}
	for _, tt := range []struct{ method, path, body string }{
		{"POST", "/tenants", `{"name":"x"}`},
		{"PUT", "/tenants/bulk", `{}`},
		{"PATCH", "/providers/idp", `{"display_name":"x"}`},
		{"DELETE", "/keys/shop", `{}`},
		{"POST", "/settings", `{}`},
		{"POST", "/settings/test", `{"tenant":{}}`},
		{"GET", "/outbox/messages/x/eml", ""},
	} {
		if got := call(tt.method, "/admin"+tt.path, tt.body, as()); got.status != 403 {
			t.Errorf("an operator, %s %s: status %d: %s", tt.method, tt.path, got.status, got.body)
		}
	}
	for _, path := range []string{"/settings", "/tenants", "/tenants/bulk", "/tenants/sales", "/providers", "/providers/idp", "/keys", "/keys/shop", "/accounts", "/storage"} {
		if got := call("GET", "/admin"+path, "", as()); got.status != 200 {
			t.Errorf("GET %s: status %d: %s", path, got.status, got.body)
		}
	}
	if after := call("GET", "/admin/settings", "", as()).body; after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
	if got := s.sendBy(key); got.status != 200 {
		t.Errorf("afterwards: status %d: %s", got.status, got.body)
	}
	if n := evil.Sessions(); n != 0 {
		t.Errorf("%d sessions with the thief's server", n)
	}
	var kept strings.Builder
	for _, data := range tree(t, filepath.Join(s.dir, "storage")) {
		kept.WriteString(data)
	}
	for what, text := range map[string]string{"an answer": answers.String(), "the log": s.output.String(), "the storage": kept.String()} {
		for _, secret := range []string{canaryPassword, canaryEnv, clientSecret, key} {
			if strings.Contains(text, secret) && !(what == "the log" && secret == key) {
				t.Errorf("%s shows the secret %s", what, secret)
			}
		}
	}
}

// TestRetargetedTokens: when a provider's servers change, those who signed in before
// have to agree anew.
func TestRetargetedTokens(t *testing.T) {
	t.Parallel()
	s := startRuntimeSite(t)
	key := s.create()
	s.signIn()
	if got := s.sendBy(key); got.status != 200 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	s.change("PATCH", "/providers/idp", `{"servers":["127.0.0.1","localhost"]}`, 200, "*")
	if state := s.state(); state != "needs_authorization" {
		t.Errorf("state %s", state)
	}
	s.change("PATCH", "/providers/idp", `{"servers":["127.0.0.1"]}`, 200, "*")
	if got := s.sendBy(key); got.status != 200 {
		t.Errorf("back again: status %d: %s", got.status, got.body)
	}
}

// TestAllowAddress: what no server has is refused, however it is written.
func TestAllowAddress(t *testing.T) {
	t.Parallel()
	for address, allowed := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.1.2.3": true, "192.168.1.1": true, "203.0.113.9": true, "2001:db8::1": true, "fd12::1": true,
		"169.254.169.254": false, "169.254.0.1": false, "::ffff:169.254.169.254": false, "64:ff9b::a9fe:a9fe": false,
		"2002:a9fe:a9fe::1": false, "::169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "fd00:ec2::254": false,
		"100.100.100.200": false, "168.63.129.16": false, "192.0.0.192": false, "0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false,
	} {
		if err := allowAddress(netip.MustParseAddr(address)); (err == nil) != allowed {
			t.Errorf("%s: %v", address, err)
		}
	}
	for host, allowed := range map[string]bool{"smtp.example": true, "metadata.google.internal": false, "Metadata": false, "METADATA.goog.": false, "[fe80::1]": false} {
		if err := allowHost(host); (err == nil) != allowed {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := guardDial("tcp", "169.254.169.254:80", nil); err == nil {
		t.Error("the dialer lets a metadata address pass")
	}
}

// TestUnsavedSettings: settings are tried before they are saved. What is wrong is told
// with its stage and what to do, and nothing is stored.
func TestUnsavedSettings(t *testing.T) {
	t.Parallel()
	s := startRuntimeSite(t)
	s.mail.AllowPassword("u", "right-password")
	ca, err := json.Marshal(string(s.mail.CA))
	if err != nil {
		t.Fatal(err)
	}
	tenant := func(server, user, password string) string {
		return fmt.Sprintf(`{"tenant":{"server":%q,"auth":{"method":"password","username":%q,"password":%q},"from":"sender@example.com","ca":%s}}`, server, user, password, ca)
	}
	provider := func(secret string) string {
		return fmt.Sprintf(`{"issuer":%q,"client_id":"client","credentials":[{"secret":%q}],"scopes":["smtp.send","offline_access"],"servers":["127.0.0.1"],"ca":%s,"grant":"GRANT"}`, s.idp.Issuer, secret, ca)
	}
	code := func(text string) string { return strings.Replace(text, "GRANT", "authorization_code", 1) }
	app := func(text string) string { return strings.Replace(text, "GRANT", "client_credentials", 1) }
	oauth := func(p string) string {
		return fmt.Sprintf(`{"provider":%s,"tenant":{"server":%q,"auth":{"method":"oauth","provider":"p"},"user":%q,"ca":%s}}`, p, s.mail.Addr, mailbox, ca)
	}
	closed := freeAddress(t)
	storage := func() string { return fmt.Sprint(len(tree(t, filepath.Join(s.dir, "storage", "oauth_mail")))) }
	s.change("POST", "/keys", `{"name":"any","tenant":"default"}`, 201) // so that there is a folder
	before := storage()
	for name, tt := range map[string]struct{ body, failed, says string }{
		"right":                    {tenant(s.mail.Addr, "u", "right-password"), "", `"ok":true`},
		"wrong port":               {tenant(closed, "u", "right-password"), "connect", "general.connection_refused"},
		"wrong password":           {tenant(s.mail.Addr, "u", "wrong"), "auth", "diagnosis"},
		"wrong user":               {tenant(s.mail.Addr, "nobody", "right-password"), "auth", "diagnosis"},
		"right provider":           {`{"provider":` + code(provider(clientSecret)) + `}`, "", `"ok":true`},
		"wrong secret":             {`{"provider":` + code(provider("wrong")) + `}`, "client", "compare client_id and its secret"},
		"no provider there":        {`{"provider":` + strings.Replace(code(provider("wrong")), s.idp.Issuer, "http://"+closed, 1) + `}`, "metadata", "refused"},
		"wrong secret of an app":   {oauth(app(provider("wrong"))), "token", "invalid_client"},
		"nobody has signed in yet": {oauth(code(provider(clientSecret))), "token", "sign"},
	} {
		t.Run(name, func(t *testing.T) {
			got := s.adminBody("POST", "/settings/test", tt.body)
			var v struct {
				OK          bool
				FailedStage string `json:"failed_stage"`
			}
			if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != 200 {
				t.Fatalf("status %d: %s", got.status, got.body)
			}
			if v.OK != (tt.failed == "") || v.FailedStage != tt.failed || !strings.Contains(got.body, tt.says) {
				t.Errorf("%+v: %s", v, got.body)
			}
		})
	}
	lines := s.do("POST", "/admin/settings/test", map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA==", "Content-Type": "application/json", "Accept": ndjson}, tenant(s.mail.Addr, "u", "right-password"))
	if n := strings.Count(lines.body, "\n"); n < 10 {
		t.Errorf("%d lines: %s", n, lines.body)
	}
	if after := storage(); after != before {
		t.Errorf("%s records before, %s after", before, after)
	}
	if got := s.admin("GET", "/tenants").body; strings.Contains(got, "unsaved") {
		t.Errorf("the test's tenant is listed: %s", got)
	}
	if len(s.mail.Messages()) != 0 {
		t.Error("a mail was sent")
	}
}
