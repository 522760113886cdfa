package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// stepView is what a program reads of a stage.
type stepView struct {
	Stage  string
	Status string
	Error  struct{ Message string }
	Facts  struct {
		From    string
		Expires time.Time `json:"expires_at"`
	}
}

// verdictView is what a program reads of a connection test.
type verdictView struct {
	OK          *bool
	Tenant      string
	Server      string
	FailedStage string `json:"failed_stage"`
	Note        string
	Error       struct{ Kind, Message string }
	Steps       []stepView
}

func outlineOf(steps []stepView) string {
	words := make([]string, 0, len(steps))
	for _, s := range steps {
		words = append(words, s.Stage+" "+s.Status)
	}
	return strings.Join(words, ", ")
}

const passedTest = "dns skipped, connect ok, greeting ok, ehlo ok, starttls ok, tls ok, ehlo ok, token ok, auth ok, mail ok, rset ok"

// newTestBench is a bench whose tenant is signed in and sends to a script, which
// refuses the third sender and those that follow.
func newTestBench(t *testing.T) (b *bench, script *mailertest.Script, server string) {
	t.Helper()
	script = &mailertest.Script{Auth: "XOAUTH2", Answers: map[string][]string{"MAIL": {"", "", "550 5.7.60 you may not send as this sender"}}}
	b = newBench(t, func(s *snapshot) {
		tenant := s.tenants["default"]
		script.TLS, tenant.mail.Server.RootCAs = mailertest.NewCertificate(t)
		tenant.mail.Server.Host, tenant.mail.Server.Port = script.Listen(t)
		server = net.JoinHostPort(tenant.mail.Server.Host, strconv.Itoa(tenant.mail.Server.Port))
	})
	_, refresh := b.idp.Issue(mailbox, "smtp.send offline_access")
	var done map[string]any
	b.call(benchAccount+"/import", fmt.Sprintf(`{"refresh_token":%q}`, refresh), http.StatusOK, &done)
	return b, script, server
}

// TestConnectionTestCall: the administration tests a tenant and answers at once,
// or stage by stage, without a secret.
func TestConnectionTestCall(t *testing.T) {
	t.Parallel()
	b, script, server := newTestBench(t)
	token := b.stored().AccessToken.Reveal()

	var passed verdictView
	b.call("/tenants/default/test", `{}`, http.StatusOK, &passed)
	if passed.OK == nil || !*passed.OK || passed.Tenant != "default" || passed.Server != server || !strings.Contains(passed.Note, "test mail") || outlineOf(passed.Steps) != passedTest {
		t.Errorf("answer %+v", passed)
	}
	if from := passed.Steps[9].Facts.From; from != mailbox {
		t.Errorf("tried the sender %q", from)
	}
	if expires := passed.Steps[7].Facts.Expires; !expires.Equal(b.stored().Expiry) || expires.IsZero() {
		t.Errorf("token expires at %v, want %v", expires, b.stored().Expiry)
	}
	if !strings.Contains(b.log.String(), `msg="connection test" tenant=default by=ops ok=true`) {
		t.Errorf("log: %s", b.log.String())
	}

	got := b.serve(b.handler.serveAdmin, "POST", "/tenants/default/test", "", func(r *http.Request) {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "text/plain, application/x-ndjson;q=0.9")
	})
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("status %d, %s: %s", got.status, got.header.Get("Content-Type"), got.body)
	}
	lines := strings.Split(strings.TrimSuffix(got.body, "\n"), "\n")
	steps := make([]stepView, len(lines)-1)
	var last verdictView
	for i, line := range lines {
		var into any = &last
		if i < len(steps) {
			into = &steps[i]
		}
		if err := json.Unmarshal([]byte(line), into); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	}
	if outlineOf(steps) != passedTest || last.OK == nil || !*last.OK || last.Steps != nil || last.Tenant != "default" {
		t.Errorf("lines: %s", got.body)
	}

	failed := b.admin("POST", "/tenants/default/test", `{}`)
	var v verdictView
	if err := json.Unmarshal([]byte(failed.body), &v); err != nil || failed.status != http.StatusOK {
		t.Fatalf("status %d: %s", failed.status, failed.body)
	}
	if *v.OK || v.FailedStage != "mail" || v.Error.Kind != "rejected" || !strings.Contains(v.Error.Message, "5.7.60") || v.Note != "" {
		t.Errorf("answer %s", failed.body)
	}
	var diagnosed struct {
		Error struct{ Diagnosis struct{ ID string } }
	}
	if err := json.Unmarshal([]byte(failed.body), &diagnosed); err != nil {
		t.Fatal(err)
	}
	if id := diagnosed.Error.Diagnosis.ID; id == "" || !strings.Contains(b.log.String(), "ok=false failed_stage=mail diagnosis="+id+` error="mail `+server+": server replied 550 5.7.60 you may not") {
		t.Errorf("diagnosis %q, log: %s", id, b.log.String())
	}
	for _, text := range []string{got.body, failed.body, b.log.String()} {
		if strings.Contains(text, token) {
			t.Errorf("the token shows: %s", text)
		}
	}
	if len(script.Contents()) > 0 {
		t.Error("a mail was sent")
	}
}

// TestConnectionTestIsRefused: what cannot be tested is told before anything is
// tried, in both forms.
func TestConnectionTestIsRefused(t *testing.T) {
	t.Parallel()
	b, script, _ := newTestBench(t)
	before := script.Sessions()
	for name, tt := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"no tenant":     {"/tenants/other/test", `{}`, 404, "no tenant"},
		"other sender":  {"/tenants/default/test", `{"from":"boss@example.com"}`, 422, "not among the senders"},
		"no address":    {"/tenants/default/test", `{"from":"boss"}`, 422, "From:"},
		"unknown field": {"/tenants/default/test", `{"to":"x@example.com"}`, 422, "does not know it"},
	} {
		for _, accept := range []string{"", "application/x-ndjson"} {
			got := b.serve(b.handler.serveAdmin, "POST", tt.path, tt.body, func(r *http.Request) {
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Accept", accept)
			})
			if got.status != tt.status || !strings.Contains(got.body, tt.says) || got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: status %d, %s", name, got.status, got.body)
			}
		}
	}
	b.handler.Roles = map[string]string{"ops": "viewer"}
	if got := b.admin("POST", "/tenants/default/test", `{}`); got.status != http.StatusForbidden {
		t.Errorf("a viewer: status %d", got.status)
	}
	if n := script.Sessions(); n != before {
		t.Errorf("%d sessions", n-before)
	}
}
