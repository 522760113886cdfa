package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestImportIncomplete: what was exported, which is without secrets, is taken on another
// server by word. What lacks a secret is not in force, says so, and works when that is
// given.
func TestImportIncomplete(t *testing.T) {
	t.Parallel()
	from := startRuntimeSite(t)
	from.create()
	ca, err := json.Marshal(string(from.mail.CA))
	if err != nil {
		t.Fatal(err)
	}
	from.change("POST", "/tenants", fmt.Sprintf(`{"name":"bulk","server":%q,"auth":{"method":"password","username":"u","password":"p"},"from":"bulk@example.com","ca":%s}`, from.mail.Addr, ca), 201)
	archive := from.admin("GET", "/settings").body
	if strings.Contains(archive, clientSecret) {
		t.Fatal("the export has a secret")
	}
	with := func(option string) string { return strings.Replace(archive, "{", `{`+option+`,`, 1) }

	to := startRuntimeSite(t)
	to.idp, to.mail = from.idp, from.mail
	if v := to.change("POST", "/settings", archive, 422); !strings.Contains(fmt.Sprint(v["detail"]), "secret") {
		t.Errorf("without its secrets: %v", v)
	}
	to.change("POST", "/settings", with(`"incomplete":true,"dry_run":true`), 200)
	if got := to.admin("GET", "/providers/idp"); got.status != 404 {
		t.Errorf("after a dry run there is a provider: %s", got.body)
	}
	done := to.change("POST", "/settings", with(`"incomplete":true`), 200)
	problems, _ := done["problems"].(map[string]any)
	keys, _ := done["keys"].(map[string]any)
	key, _ := keys["shop"].(string)
	if len(done["created"].([]any)) != 4 || problems["provider idp"] == nil || problems["tenant bulk"] == nil || key == "" {
		t.Fatalf("the import made %v", done)
	}
	if v := to.change("GET", "/providers/idp", "", 200); v["problem"] == nil {
		t.Errorf("the provider shows no problem: %v", v)
	}
	if got := to.sendBy(key); got.status == 200 {
		t.Errorf("it sends without the secret: %s", got.body)
	}
	if again := to.change("POST", "/settings", with(`"incomplete":true`), 200); again["unchanged"] != 4.0 {
		t.Errorf("once more: %v", again)
	}

	to.change("PATCH", "/providers/idp", fmt.Sprintf(`{"credentials":[{"secret":%q,"expires":"2099-01-01"}]}`, clientSecret), 200, "*")
	to.change("PATCH", "/tenants/bulk", `{"auth":{"password":"p"}}`, 200, "*")
	for _, path := range []string{"/providers/idp", "/tenants/bulk", "/tenants/sales"} {
		if v := to.change("GET", path, "", 200); v["problem"] != nil {
			t.Errorf("%s with its secret: %v", path, v["problem"])
		}
	}
	to.signIn()
	if got := to.sendBy(key); got.status != 200 || !strings.Contains(got.body, `"sent"`) {
		t.Errorf("with the secret: status %d: %s", got.status, got.body)
	}
}
