package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

const otherKey = "another-key-with-24-characters"

// read makes a call with a key that sends nothing, and reads its answer.
func (p *caddyProcess) read(v any, key, method, target, body string) answer {
	p.t.Helper()
	got := p.do(method, target, map[string]string{"Authorization": "Bearer " + key, "Content-Type": "application/json"}, body)
	if v != nil {
		if err := json.Unmarshal([]byte(got.body), v); err != nil || got.status != http.StatusOK {
			p.t.Fatalf("%s %s: status %d, %v: %s", method, target, got.status, err, got.body)
		}
	}
	return got
}

// TestEmails: a key sees the messages that it has sent and what has become of them,
// and nothing of others.
func TestEmails(t *testing.T) {
	t.Parallel()
	server := mailertest.NewServer(t)
	p := startCaddy(t, passwordTenant(t, server)+"key other "+otherKey+" default\nkey sender test-key-of-sender-24-characters default {\nscopes send\n}\n")
	full := accepted(t, p.post(`{"from":"Shop, Inc. <shop@example.com>","to":["山田 太郎 <a@example.net>","b@example.net"],"cc":"c@example.net","bcc":"d@example.net",
		"reply_to":"e@example.net","subject":"注文","html":"<p>secret-of-the-body</p>","attachments":[{"filename":"a.pdf","content":"QUJD"},
		{"filename":"logo.png","content":"QUJDRA==","content_id":"logo"}]}`), 200, "sent")
	var got map[string]any
	await(t, "the outcome is recorded", func() bool {
		p.read(&got, testKey, "GET", "/emails/"+full.ID, "")
		return got["last_event"] == "sent"
	})
	details, _ := got["oauth_mail"].(map[string]any)
	if created, err := time.Parse(time.RFC3339Nano, fmt.Sprint(got["created_at"])); err != nil || time.Since(created).Abs() > time.Minute || !strings.HasSuffix(fmt.Sprint(got["created_at"]), "Z") {
		t.Errorf("created at %v, %v", got["created_at"], err)
	}
	delete(got, "created_at")
	delete(got, "oauth_mail")
	if diff := cmp.Diff(map[string]any{
		"object": "email", "id": full.ID, "message_id": full.MessageID, "from": `"Shop, Inc." <shop@example.com>`,
		"to": []any{"山田 太郎 <a@example.net>", "b@example.net"}, "cc": []any{"c@example.net"}, "bcc": []any{"d@example.net"}, "reply_to": []any{"e@example.net"},
		"subject": "注文", "html": nil, "text": nil, "scheduled_at": nil, "last_event": "sent", "tags": []any{},
	}, got); diff != "" {
		t.Error(diff)
	}
	if recipients, _ := details["recipients"].([]any); details["status"] != "sent" || details["tenant"] != "default" || details["attempts"] != 1.0 || len(recipients) != 4 ||
		recipients[3].(map[string]any)["address"] != "d@example.net" || recipients[3].(map[string]any)["state"] != "accepted" || details["smtp"] == nil {
		t.Errorf("details %v", details)
	}
	var files attachmentList
	body := p.read(&files, testKey, "GET", "/emails/"+full.ID+"/attachments", "").body
	if len(files.Data) != 2 || files.HasMore || files.Data[0].Filename != "a.pdf" || files.Data[0].Size != 3 || files.Data[0].ContentType != "application/pdf" ||
		files.Data[0].Disposition != "attachment" || files.Data[1].ContentID != "logo" || files.Data[1].Disposition != "inline" || files.Data[0].ID == files.Data[1].ID {
		t.Errorf("attachments %s", body)
	}

	var ids []string // the newest first
	for i := range 5 {
		v := accepted(t, p.post(strings.Replace(mailBody, `"subject":"s"`, fmt.Sprintf(`"subject":"number %d"`, i), 1)), 200, "sent")
		ids = append([]string{v.ID}, ids...)
	}
	ids = append(ids, full.ID)
	foreign := p.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + otherKey, "Content-Type": "application/json"}, mailBody)
	theirs := accepted(t, foreign, 200, "sent").ID
	for _, tt := range []struct {
		query string
		want  []string
		more  bool
	}{
		{"", ids, false},
		{"?limit=2", ids[:2], true},
		{"?limit=6", ids, false},
		{"?limit=2&after=" + ids[1], ids[2:4], true},
		{"?limit=2&after=" + ids[3], ids[4:], false},
		{"?after=" + ids[5], nil, false},
		{"?limit=2&before=" + ids[4], ids[2:4], true},
		{"?limit=2&before=" + ids[2], ids[:2], false},
		{"?before=" + ids[0], nil, false},
		{"?after=" + strings.ToUpper(ids[4]), ids[5:], false},
	} {
		var list emailList
		body := p.read(&list, testKey, "GET", "/emails"+tt.query, "").body
		var got []string
		for _, m := range list.Data {
			got = append(got, m.ID)
		}
		if !slices.Equal(got, tt.want) || list.HasMore != tt.more || list.Object != "list" {
			t.Errorf("%s: %d messages, more %v; want %d, %v: %.300s", tt.query, len(got), list.HasMore, len(tt.want), tt.more, body)
		}
		if strings.Contains(body, "secret-of-the-body") || strings.Contains(body, `:null,"bcc"`) {
			t.Errorf("%s: %s", tt.query, body)
		}
	}
	for _, tt := range []struct{ name, key, method, target, body, want string }{
		{"foreign", testKey, "GET", "/emails/" + theirs, "", "404 not_found no_such_message"},
		{"foreign, with its key", otherKey, "GET", "/emails/" + theirs, "", "200"},
		{"foreign attachments", testKey, "GET", "/emails/" + theirs + "/attachments", "", "404 not_found no_such_message"},
		{"foreign cancel", testKey, "POST", "/emails/" + theirs + "/cancel", "", "404 not_found no_such_message"},
		{"foreign move", testKey, "PATCH", "/emails/" + theirs, `{"scheduled_at":"in 1 hour"}`, "404 not_found no_such_message"},
		{"unknown", testKey, "GET", "/emails/" + mailer.NewID(), "", "404 not_found no_such_message"},
		{"no id", testKey, "GET", "/emails/x", "", "404 not_found no_such_message"},
		{"cancel of a sent one", testKey, "POST", "/emails/" + full.ID + "/cancel", "", "422 validation_error wrong_state"},
		{"move of a sent one", testKey, "PATCH", "/emails/" + full.ID, `{"scheduled_at":"in 1 hour"}`, "422 validation_error wrong_state"},
		{"limit of zero", testKey, "GET", "/emails?limit=0", "", "422 validation_error bad_limit"},
		{"limit of 101", testKey, "GET", "/emails?limit=101", "", "422 validation_error bad_limit"},
		{"limit in words", testKey, "GET", "/emails?limit=all", "", "422 validation_error bad_limit"},
		{"cursor", testKey, "GET", "/emails?after=1", "", "422 validation_error bad_cursor"},
		{"two cursors", testKey, "GET", "/emails?after=" + full.ID + "&before=" + full.ID, "", "422 validation_error bad_cursor"},
		{"key that may not read", "test-key-of-sender-24-characters", "GET", "/emails", "", "401 restricted_api_key scope"},
		{"wrong key", "wrong", "GET", "/emails/" + full.ID, "", "403 invalid_api_key"},
		{"in the tenant", testKey, "GET", "/t/default/emails/" + full.ID, "", "200"},
		{"in another tenant", testKey, "GET", "/t/other/emails/" + full.ID, "", "401 restricted_api_key tenant"},
		{"method", testKey, "DELETE", "/emails/" + full.ID, "", "405 method_not_allowed"},
		{"further below", testKey, "GET", "/emails/" + full.ID + "/attachments/1", "", "404 not_found"},
	} {
		if got := outcome(p.read(nil, tt.key, tt.method, tt.target, tt.body)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// outcome is the status of an answer, and the names of an error.
func outcome(a answer) string {
	var e struct {
		Name string
		Code string `json:"detail_code"`
	}
	if a.status >= 400 {
		_ = json.Unmarshal([]byte(a.body), &e)
	}
	return strings.TrimSpace(fmt.Sprint(a.status) + " " + strings.TrimSpace(e.Name+" "+e.Code))
}

// TestEmailMovedAndCanceled: what waits can be given another time and be canceled by
// the key that sent it, and a refused message says so.
func TestEmailMovedAndCanceled(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{"RCPT": {"550 5.1.1 no such user"}}}
	p := startCaddy(t, scripted(t, script))
	v := accepted(t, p.post(strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1)), 200, "scheduled")
	event := func(want string, due time.Duration) {
		t.Helper()
		var m email
		p.read(&m, testKey, "GET", "/emails/"+v.ID, "")
		if m.LastEvent != want || (m.ScheduledAt == nil) != (due == 0) || due > 0 && (time.Until(*m.ScheduledAt)-due).Abs() > time.Minute {
			t.Errorf("%s at %v, want %s in %v", m.LastEvent, m.ScheduledAt, want, due)
		}
	}
	event("scheduled", 2*time.Hour)
	for _, tt := range []struct{ body, want string }{
		{`{}`, "422 missing_required_field missing"},
		{`{"scheduled_at":"soon"}`, "422 validation_error bad_time"},
		{`{"scheduled_at":"2020-01-01T00:00:00Z"}`, "422 validation_error bad_time"},
		{`{"subject":"s"}`, "422 validation_error unsupported"},
		{`{"id":"01a20328-f356-7169-a38b-9c63a0dd6b72","scheduled_at":"in 5 hours"}`, "422 validation_error other_message"},
		{`[]`, "400 validation_error bad_json"},
		{`{"scheduled_at":"` + strings.Repeat("x", 65<<10) + `"}`, "413 validation_error too_large"},
	} {
		if got := outcome(p.read(nil, testKey, "PATCH", "/emails/"+v.ID, tt.body)); got != tt.want {
			t.Errorf("%.60s: %s, want %s", tt.body, got, tt.want)
		}
	}
	event("scheduled", 2*time.Hour)
	var changed emailChanged
	p.read(&changed, testKey, "PATCH", "/emails/"+v.ID, `{"id":"`+v.ID+`","scheduled_at":"in 5 hours"}`) // as the SDKs for Go send it
	if changed != (emailChanged{"email", v.ID}) {
		t.Errorf("moved: %+v", changed)
	}
	event("scheduled", 5*time.Hour)
	p.read(&changed, testKey, "POST", "/emails/"+v.ID+"/cancel", "")
	event("canceled", 0)
	if got := outcome(p.read(nil, testKey, "POST", "/emails/"+v.ID+"/cancel", "")); got != "422 validation_error wrong_state" {
		t.Errorf("canceled twice: %s", got)
	}
	p.awaitLog("a caller has changed a message in the outbox")
	var seen messageView
	p.ops(&seen, "GET", "/outbox/messages/"+v.ID)
	if seen.CanceledBy != "key web" {
		t.Errorf("canceled by %q", seen.CanceledBy)
	}
	var refused struct{ ID string }
	if err := json.Unmarshal([]byte(p.post(mailBody).body), &refused); err != nil {
		t.Fatal(err)
	}
	var m email
	await(t, "the refusal is recorded", func() bool {
		p.read(&m, testKey, "GET", "/emails/"+refused.ID, "")
		return m.Details.Status == "failed"
	})
	if m.LastEvent != "bounced" || m.Details.SMTP == nil || m.Details.SMTP.Code != 550 || m.Details.Diagnosis == nil || m.Details.DetailCode != "upstream_rejected" ||
		len(m.Details.Recipients) != 1 || m.Details.Recipients[0].State != "refused" {
		t.Errorf("refused: %+v", m)
	}
}

// TestEmailsWithoutOutbox: nothing is kept, and that is said.
func TestEmailsWithoutOutbox(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, withoutOutbox+passwordTenant(t, mailertest.NewServer(t)))
	id := accepted(t, p.post(mailBody), 200, "sent").ID
	for _, call := range []string{"GET /emails", "GET /emails/" + id, "GET /emails/" + id + "/attachments", "POST /emails/" + id + "/cancel"} {
		method, target, _ := strings.Cut(call, " ")
		if got := outcome(p.read(nil, testKey, method, target, "")); got != "404 not_found no_outbox" {
			t.Errorf("%s: %s", call, got)
		}
	}
}
