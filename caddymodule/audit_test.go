package caddymodule

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// auditLine is what a test reads of the audit log.
type auditLine struct {
	Event, By, Provider, User, Tenant, Key, Outcome, Needs string
	ID                                                     string
	Recipients                                             int
	To, Created                                            []string
}

// auditLines reads the audit log, which is in a file of its own.
func (p *caddyProcess) auditLines() []auditLine {
	p.t.Helper()
	text, err := os.ReadFile(p.dir + "/audit.log")
	if err != nil {
		p.t.Fatal(err)
	}
	var lines []auditLine
	for line := range strings.Lines(string(text)) {
		var v auditLine
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			p.t.Fatalf("%v: %s", err, line)
		}
		lines = append(lines, v)
	}
	return lines
}

// TestAudit: the log tells of a day who has authorized what, and who has sent what
// through it, without secrets; recipients as the policy has it.
func TestAudit(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	audited := func(policy string) {
		s.mustReload("\tlog {\n", "\tlog audit {\n\t\toutput file "+s.dir+"/audit.log\n\t\tinclude oauth_mail.audit\n\t}\n\tlog {\n",
			"\toauth_mail {\n", "\toauth_mail {\n"+policy)
	}
	audited("")
	s.managementToken()

	c := s.converse("authorize", "--flow", "paste", "default")
	address := c.hears(`(http://127\S+/authorize\?\S+)`)
	answer, err := s.idp.Consent(address, mailbox)
	if err != nil {
		t.Fatal(err)
	}
	c.says(s.URL + "/oauth/callback/idp?" + answer.Encode())
	c.ends(0)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	by := me.Username + " (command line)"
	s.admin("POST", "/tenants/default/test")
	const mail = `{"to":["a@example.net","B@example.org","c@example.net"],"subject":"Secret subject","text":"x"}`
	send := func() string {
		t.Helper()
		got := s.send(mail)
		var v sent
		if err := json.Unmarshal([]byte(got.body), &v); err != nil || v.Status != "sent" {
			t.Fatalf("%v: %s", err, got.body)
		}
		return v.ID
	}
	ids := []string{send()}
	for _, policy := range []string{"full", "hash", "drop"} {
		audited("\t\taudit_recipients " + policy + "\n")
		ids = append(ids, send())
	}
	s.admin("POST", "/outbox/tenants/default/pause")
	s.admin("POST", "/outbox/tenants/default/resume")
	s.do("POST", "/closed/accounts/idp/"+mailbox+"/disconnect", nil, "{}")
	s.callAdminAPI("POST", "/accounts/idp/"+mailbox+"/disconnect", map[string]string{"Content-Type": "application/json"}, "{}")
	s.admin("POST", "/accounts/idp/"+mailbox+"/disconnect")
	s.admin("POST", "/accounts/idp/"+mailbox+"/refresh")

	lines := s.auditLines()
	var facts []string
	for _, l := range lines {
		facts = append(facts, strings.TrimSpace(fmt.Sprint(l.Event, " ", strings.TrimSpace(l.By+" "+l.Outcome))))
	}
	wants := []string{
		"account.authorize_started " + by + " ok",
		"account.authorized " + by,
		"account.authorize_completed " + by + " ok",
		"test.connection ops ok",
	}
	for range 4 {
		wants = append(wants, "message.accepted key web", "message.sent key web sent")
	}
	wants = append(wants, "outbox.paused ops ok", "outbox.resumed ops ok", "admin.denied", "admin.denied admin API",
		"account.disconnected ops ok", "account.refreshed ops failed")
	if diff := cmp.Diff(count(wants), count(facts)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	said := map[string][]string{}
	for _, l := range lines {
		if l.Event == "message.sent" {
			said[l.ID] = l.To
			if l.Recipients != 3 || l.Tenant != "default" {
				t.Errorf("line %+v", l)
			}
		}
	}
	if diff := cmp.Diff([][]string{
		{"example.net", "example.org"},
		{"a@example.net", "B@example.org", "c@example.net"},
	}, [][]string{said[ids[0]], said[ids[1]]}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if hashed := said[ids[2]]; len(hashed) != 3 || hashed[0] == hashed[1] || len(hashed[0]) != 32 || strings.Contains(strings.Join(hashed, ""), "@") {
		t.Errorf("hashed: %q", hashed)
	}
	if dropped := said[ids[3]]; dropped != nil {
		t.Errorf("dropped: %q", dropped)
	}
	text, err := os.ReadFile(s.dir + "/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"Secret subject", testKey, clientSecret, answer.Get("code"), s.managementToken()} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%q is in the audit log", secret)
		}
	}
}

// count counts lines: some come from goroutines of their own.
func count(lines []string) map[string]int {
	m := map[string]int{}
	for _, l := range lines {
		m[l]++
	}
	return m
}

// TestAuditSettings: the log tells who has made, changed and deleted what on the running
// server, which names its revision for the next change.
func TestAuditSettings(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.mustReload("\tlog {\n", "\tlog audit {\n\t\toutput file "+s.dir+"/audit.log\n\t\tinclude oauth_mail.audit\n\t}\n\tlog {\n")
	const password = "password-of-a-tenant"
	tag := ""
	change := func(method, path, body string, status int) {
		t.Helper()
		got := s.do(method, "/admin"+path, map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA==", "Content-Type": "application/json", "If-Match": tag}, body)
		if got.status != status {
			t.Fatalf("%s %s: status %d, want %d: %s", method, path, got.status, status, got.body)
		}
		var v struct{ Revision string }
		if err := json.Unmarshal([]byte(got.body), &v); err != nil {
			t.Fatal(err)
		}
		if tag = got.header.Get("ETag"); v.Revision != "" && tag != `"`+v.Revision+`"` || v.Revision == "" && tag != "" {
			t.Errorf("%s %s: ETag %q of revision %q", method, path, tag, v.Revision)
		}
	}
	tenant := `"server":"smtp.example.net","auth":{"method":"password","username":"u","password":"` + password + `"},"from":"a@example.net"`
	change("POST", "/tenants", `{"name":"bulk",`+tenant+`}`, 201)
	change("PATCH", "/tenants/bulk", `{"connections":1}`, 200)
	change("PUT", "/tenants/bulk", "{"+tenant+"}", 200)
	change("PATCH", "/tenants/default", `{"connections":1}`, 409)
	change("PUT", "/tenants/other", "{"+tenant+"}", 201)
	change("POST", "/providers", `{"name":"lab","issuer":"https://idp.example.net","client_id":"c","servers":["smtp.example.net"]}`, 201)
	change("DELETE", "/providers/lab", "", 200)
	change("POST", "/keys", `{"name":"shop","tenant":"bulk"}`, 201)
	change("PATCH", "/keys/shop", `{"scopes":["send"]}`, 200)
	change("DELETE", "/keys/shop", "", 200)
	change("POST", "/settings", `{"format":1,"tenants":[{"name":"third","settings":{`+tenant+`}}]}`, 200)
	tag = "*"
	change("DELETE", "/tenants/bulk", "", 200)
	var facts []string
	for _, l := range s.auditLines() {
		facts = append(facts, strings.Join([]string{l.Event, l.By, l.Outcome, l.Provider + l.Tenant + l.Key, strings.Join(l.Created, " ")}, " "))
	}
	if diff := cmp.Diff([]string{
		"tenant.created ops ok bulk ", "tenant.changed ops ok bulk ", "tenant.changed ops ok bulk ", "tenant.changed ops failed default ", "tenant.created ops ok other ",
		"provider.created ops ok lab ", "provider.deleted ops ok lab ", "key.created ops ok shop ", "key.changed ops ok shop ", "key.deleted ops ok shop ",
		"settings.imported ops ok  tenant third", "tenant.deleted ops ok bulk ",
	}, facts); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if text, err := os.ReadFile(s.dir + "/audit.log"); err != nil || strings.Contains(string(text), password) {
		t.Errorf("a password is in the audit log, or not to be found: %v", err)
	}
}
