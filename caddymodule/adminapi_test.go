package caddymodule

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

// callAdminAPI makes a call on Caddy's own admin API.
func (p *caddyProcess) callAdminAPI(method, path string, header map[string]string, body string) answer {
	p.t.Helper()
	var resp *http.Response
	for try := 0; ; try++ { // a load ends connections there
		req, err := http.NewRequestWithContext(p.t.Context(), method, "http://"+p.admin+adminAPIPath+path, strings.NewReader(body))
		if err != nil {
			p.t.Fatal(err)
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		req.Close = true
		if resp, err = http.DefaultClient.Do(req); err == nil {
			break
		}
		if try == 3 {
			p.t.Fatal(err)
		}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

// managementToken reads the token of the process.
func (p *caddyProcess) managementToken() string {
	p.t.Helper()
	var token string
	await(p.t, "there is a management token", func() (ok bool) { // apps start in any order
		var err error
		token, err = readManagementToken(p.dir + "/storage" + managementTokenSuffix)
		return err == nil
	})
	return token
}

// TestAdminAPI: on Caddy's own admin API everybody sees, and whoever has the
// management token may change something, in JSON only and not from another site's page.
func TestAdminAPI(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, tenantAt("127.0.0.1:9"))
	token := p.managementToken()
	name := p.dir + "/storage" + managementTokenSuffix
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", info.Mode(), err)
	}
	const pause = "/outbox/tenants/default/pause"
	with := func(more ...string) map[string]string {
		h := map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json"}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	for _, tt := range []struct {
		name         string
		method, path string
		header       map[string]string
		body         string
		status       int
		says         string
	}{
		{"anybody looks", "GET", "/tenants", nil, "", 200, `"name":"default"`},
		{"a wrong token looks", "GET", "/tenants", map[string]string{"Authorization": "Bearer x"}, "", 401, "not the management token"},
		{"no token", "POST", pause, map[string]string{"Content-Type": "application/json"}, `{}`, 401, name},
		{"no token, for a message", "GET", "/outbox/messages/x/eml", nil, "", 401, "needs the management token"},
		{"a wrong token", "POST", pause, with("Authorization", "Bearer "+token+"x"), `{}`, 401, "not the management token"},
		{"the token as a password", "POST", pause, with("Authorization", "Basic "+token), `{}`, 401, "needs the management token"},
		{"a page of another site", "POST", pause, with("Sec-Fetch-Site", "cross-site"), `{}`, 403, "another site"},
		{"a form", "POST", pause, with("Content-Type", "application/x-www-form-urlencoded"), `a=b`, 415, "must be JSON"},
		{"a form of plain text", "POST", pause, with("Content-Type", "text/plain"), `{}`, 415, "must be JSON"},
		{"too large", "POST", pause, with(), `{"a":"` + strings.Repeat("x", maxAdminBody) + `"}`, 413, "too large"},
		{"a wrong method", "DELETE", pause, with(), ``, 405, "wants POST"},
		{"an unknown call", "POST", "/nothing", with(), `{}`, 404, "no such call"},
		{"the token", "POST", pause, with(userHeader, "alice"), `{}`, 200, `"paused_by":"alice (command line)"`},
		{"a name that is none", "POST", pause, with(userHeader, strings.Repeat("x", 65)), `{}`, 200, `"paused_by":"admin API"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := p.callAdminAPI(tt.method, tt.path, tt.header, tt.body)
			if got.status != tt.status || !strings.Contains(got.body, tt.says) {
				t.Errorf("status %d, want %d with %q: %s", got.status, tt.status, tt.says, got.body)
			}
			if strings.Contains(got.body, token) {
				t.Errorf("the token is in the answer: %s", got.body)
			}
		})
	}
	if strings.Contains(p.output.String(), token) {
		t.Error("the token is in the log")
	}
}

// TestAdminAPIOverReload: the calls are those of the configuration in force, also when
// one could not be loaded, and none without oauth_mail.
func TestAdminAPIOverReload(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, tenantAt("127.0.0.1:9"))
	tenants := func() (names []string, status int) {
		got := p.callAdminAPI("GET", "/tenants", nil, "")
		var v struct{ Tenants []struct{ Name string } }
		if err := json.Unmarshal([]byte(got.body), &v); err != nil {
			t.Fatalf("%v: %s", err, got.body)
		}
		for _, tenant := range v.Tenants {
			names = append(names, tenant.Name)
		}
		return names, got.status
	}
	const second = "\t\ttenant second {\n\t\t\tserver mail.example.net\n\t\t\tauth none\n\t\t\tfrom a@example.net\n\t\t}\n"
	// Another app cannot start, when this one has.
	if status, body := p.reload("tenant default {", second+"tenant default {", "\tlog\n", "\tlog\n\tbind 192.0.2.1\n"); status != http.StatusBadRequest {
		t.Fatalf("status %d: %s", status, body)
	}
	if names, _ := tenants(); len(names) != 1 {
		t.Errorf("after a configuration that was refused: %q", names)
	}
	p.mustReload("tenant default {", second+"tenant default {")
	if names, _ := tenants(); len(names) != 2 {
		t.Errorf("after a reload: %q", names)
	}
	token := p.managementToken()
	p.mustReload("\toauth_mail {", "\toauth_mail { # again")
	if again := p.managementToken(); again != token {
		t.Error("a reload has made another token")
	}
	file := p.dir + "/storage" + managementTokenSuffix
	writeFile(t, file, []byte("broken\n"))
	p.mustReload("# again", "# and again")
	p.awaitLog("there is no management token")
	if got := p.callAdminAPI("POST", "/outbox/tenants/default/pause", map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json"}, "{}"); got.status != http.StatusUnauthorized ||
		!strings.Contains(got.body, "delete the file") {
		t.Errorf("with a broken token: %d %s", got.status, got.body)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.mustReload("# and again", "# once more")
	if fresh := p.managementToken(); fresh == token {
		t.Error("the token is the old one")
	}
	if err := os.WriteFile(p.config, []byte("{\n\tadmin "+p.admin+"\n\tpersist_config off\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.mustReload()
	if got := p.callAdminAPI("GET", "/tenants", nil, ""); got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "no oauth_mail") {
		t.Errorf("without the app: %d %s", got.status, got.body)
	}
}
