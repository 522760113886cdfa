package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestHealth: a load balancer hears whether this instance takes messages, a probe whether
// mail flows, of all tenants or one; administrators hear why not, and strangers no names.
func TestHealth(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.mustReload("respond 404", "handle_path /probe/* {\n\t\toauth_mail health\n\t}\n\trespond 404")
	type view struct {
		Status    string
		Accepting bool
		Troubles  any
	}
	ask := func(path string, status int) view {
		t.Helper()
		got := s.do("GET", path, map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA=="}, "")
		var v view
		if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != status {
			t.Errorf("GET %s: status %d, want %d: %s", path, got.status, status, got.body)
		}
		if strings.HasPrefix(path, "/probe") && (strings.Contains(got.body, mailbox) || strings.Contains(got.body, "idp")) {
			t.Errorf("GET %s tells names: %s", path, got.body)
		}
		return v
	}
	// Nobody has signed in.
	for _, mount := range []string{"/admin", "/probe"} {
		if v := ask(mount+"/health", 200); v.Status != "failing" || !v.Accepting {
			t.Errorf("%s: %+v", mount, v)
		}
		ask(mount+"/health/all", 503)
		ask(mount+"/health/tenants/default", 503)
		if got := s.do("GET", mount+"/health/tenants/nobody", map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA=="}, ""); got.status != 404 {
			t.Errorf("%s: a tenant that is not there: %d %s", mount, got.status, got.body)
		}
	}
	if v := ask("/probe/health", 200); fmt.Sprint(v.Troubles) != "map[sign_in_needed:1]" {
		t.Errorf("troubles: %v", v.Troubles)
	}
	if v := ask("/admin/health", 200); !strings.Contains(fmt.Sprint(v.Troubles), "caddy oauth-mail authorize idp/"+mailbox) {
		t.Errorf("troubles: %v", v.Troubles)
	}
	_, refreshToken := s.idp.Issue(mailbox, "smtp.send offline_access")
	if got := s.adminBody("POST", "/accounts/idp/"+mailbox+"/import", `{"refresh_token":"`+refreshToken+`"}`); got.status != 200 {
		t.Fatal(got.body)
	}
	await(t, "the probe sees that all is well", func() bool { // strangers are told what was seen a moment ago
		return s.do("GET", "/probe/health/all", nil, "").status == http.StatusOK
	})
	for _, mount := range []string{"/admin", "/probe"} {
		if v := ask(mount+"/health/tenants/default", 200); v.Status != "ok" {
			t.Errorf("%s: %+v", mount, v)
		}
	}
	if got := s.admin("POST", "/outbox/tenants/default/pause"); got.status != 200 {
		t.Fatal(got.body)
	}
	if v := ask("/admin/health/tenants/default", 200); v.Status != "degraded" {
		t.Errorf("paused: %+v", v)
	}
	for path, want := range map[string]int{"/probe/nothing": 404, "/closed/health": 401} {
		if got := s.do("GET", path, nil, ""); got.status != want {
			t.Errorf("GET %s: status %d, want %d", path, got.status, want)
		}
	}
	if got := s.do("POST", "/probe/health", nil, ""); got.status != 405 {
		t.Errorf("POST: status %d", got.status)
	}
}
