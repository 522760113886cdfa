package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// await waits for something that another process does.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(10 * time.Millisecond) // there is nothing else to wait on
	}
}

// scripted is the content of the global option with the tenant `default`, at a mail
// server that does as it is told. More is added to the tenant.
func scripted(t *testing.T, s *mailertest.Script, more ...string) string {
	t.Helper()
	host, port := s.Listen(t)
	return tenantAt(net.JoinHostPort(host, fmt.Sprint(port)), more...)
}

func tenantAt(address string, more ...string) string {
	return fmt.Sprintf("tenant default {\nserver plaintext://%s\nauth none\nfrom sender@example.com\n%s\n}\nkey web %s default\n",
		address, strings.Join(more, "\n"), testKey)
}

// post sends a mail with more header fields, in pairs.
func (p *caddyProcess) post(body string, more ...string) answer {
	p.t.Helper()
	h := map[string]string{"Authorization": "Bearer " + testKey, "Content-Type": "application/json"}
	for i := 0; i+1 < len(more); i += 2 {
		h[more[i]] = more[i+1]
	}
	return p.do("POST", "/emails", h, body)
}

// ops makes a call of the administration and reads its answer.
func (p *caddyProcess) ops(v any, method, path string) answer {
	p.t.Helper()
	got := p.do(method, "/admin"+path, map[string]string{"Authorization": "Basic b3BzOm9wcy1wYXNzd29yZA==", "Content-Type": "application/json"}, "{}")
	if v != nil {
		if err := json.Unmarshal([]byte(got.body), v); err != nil || got.status != 200 {
			p.t.Fatalf("%s %s: status %d, %v: %s", method, path, got.status, err, got.body)
		}
	}
	return got
}

// accepted reads the answer to a message that was accepted.
func accepted(t *testing.T, got answer, status int, state string) sent {
	t.Helper()
	var v sent
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || got.status != status || v.Status != state {
		t.Fatalf("status %d, want %d %s: %v: %s", got.status, status, state, err, got.body)
	}
	return v
}

// TestQueuedUntilSignIn: a message for an account that nobody has signed in to is
// queued at once, says who must do what, and goes when somebody signs in.
func TestQueuedUntilSignIn(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	const canary = "canary-of-the-content"
	body := strings.Replace(mailBody, `"text":"t"`, `"text":"`+canary+`"`, 1)
	began := time.Now()
	v := accepted(t, s.post(body, "Accept-Language", "ja"), 200, "queued")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("answered after %v", took)
	}
	if v.Diagnosis == nil || v.Diagnosis.Who != "mailbox owner" || len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "送信待ち") || v.NextTryAt == nil {
		t.Errorf("answer %+v", v)
	}
	var box outboxView
	await(t, "the try is recorded", func() bool {
		box = outboxView{}
		s.ops(&box, "GET", "/outbox")
		return box.Messages["queued"] == 1
	})
	if box.Engine != "bbolt" || box.Shared || box.Bytes == 0 || box.MaxBytes != 2<<30 || box.Messages["queued"] != 1 || box.OldestAt == nil {
		t.Errorf("outbox %+v", box)
	}
	if len(box.Tenants) != 1 || box.Tenants[0].State != "parked" || box.Tenants[0].Failure == nil || box.Tenants[0].Failure.Diagnosis.Meaning == "" {
		t.Errorf("tenants %+v", box.Tenants)
	}
	var status statusView
	s.ops(&status, "GET", "/status")
	if len(status.Tenants) != 1 || status.Tenants[0].Outbox != "parked" || status.Tenants[0].Waiting != 1 || status.Tenants[0].Failure == nil {
		t.Errorf("status %+v", status)
	}
	const command = "sign in: caddy oauth-mail authorize idp/" + mailbox
	for kind, do := range map[troubleKind]string{troubleSignIn: command, troubleStopped: command + "; its messages go then"} {
		if !slices.ContainsFunc(status.Troubles, func(x trouble) bool { return x.Kind == kind && x.Do == do }) {
			t.Errorf("troubles %+v, want %s: %s", status.Troubles, kind, do)
		}
	}
	if n := len(s.mail.Messages()); n != 0 {
		t.Fatalf("%d messages were sent", n)
	}
	for name, data := range tree(t, filepath.Join(s.dir, "storage-oauth_mail-outbox")) {
		if strings.Contains(data, canary) || strings.Contains(data, "example.net") {
			t.Errorf("content or recipients lie in clear in %s", name)
		}
	}
	s.signIn()
	await(t, "the message is sent after the sign-in", func() bool { return len(s.mail.Messages()) == 1 })
	var m messageView
	await(t, "the message is known as sent", func() bool {
		s.ops(&m, "GET", "/outbox/messages/"+v.ID)
		return m.State == "sent"
	})
	if m.MessageID != v.MessageID || m.Tenant != "default" || m.Caller.Name != "web" || m.From != "sender@example.com" || m.Delivery == nil ||
		len(m.Recipients) != 1 || m.Recipients[0].Address != "a@example.net" || m.Recipients[0].State != "accepted" {
		t.Errorf("message %+v", m)
	}
	if log := s.output.String(); strings.Contains(log, canary) || strings.Contains(log, "access-") {
		t.Errorf("in the log:\n%s", grepLines(log, canary, "access-"))
	}
	if log := withoutAudit(s.output.String()); strings.Contains(log, "example.net") {
		t.Errorf("in the log:\n%s", grepLines(log, "example.net"))
	}
	s.awaitLog("the messages of a tenant wait until somebody acts")
	if lines := grepLines(s.output.String(), "the messages of a tenant wait until somebody acts"); !strings.Contains(lines, "/accounts/idp/"+mailbox+"/authorize") {
		t.Errorf("the log does not name the call that helps: %s", lines)
	}
}

// TestOutboxAnswers: preferences, times and idempotency keys.
func TestOutboxAnswers(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	if v := accepted(t, p.post(mailBody), 200, "sent"); len(v.Warnings) != 0 || v.NextTryAt != nil {
		t.Errorf("answer %+v", v)
	}
	got := p.post(mailBody, "Prefer", "respond-async")
	accepted(t, got, 202, "queued")
	if applied := got.header.Get("Preference-Applied"); applied != "respond-async" {
		t.Errorf("applied %q", applied)
	}
	await(t, "both are sent", func() bool { return len(script.Contents()) == 2 })
	later := strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1)
	v := accepted(t, p.post(later), 200, "scheduled")
	if v.ScheduledAt == nil || (time.Until(*v.ScheduledAt)-2*time.Hour).Abs() > time.Minute {
		t.Errorf("scheduled %v", v.ScheduledAt)
	}
	first := p.post(mailBody, "Idempotency-Key", "order/1")
	one := accepted(t, first, 200, "sent")
	var again answer
	await(t, "the first request has ended", func() bool {
		again = p.post(strings.Replace(mailBody, `":"`, `" : "`, 1), "Idempotency-Key", `"order/1"`)
		return again.status != 409 || !strings.Contains(again.body, nameConcurrentRequests) || again.header.Get("Retry-After") != "1"
	})
	if two := accepted(t, again, 200, "sent"); two.ID != one.ID || again.header.Get("Idempotent-Replayed") != "true" || first.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("first %s, again %s, %v", first.body, again.body, again.header)
	}
	other := p.post(strings.Replace(mailBody, `"s"`, `"other"`, 1), "Idempotency-Key", "order/1")
	if other.status != 409 || !strings.Contains(other.body, field("name", nameInvalidRequest)) {
		t.Errorf("another message: status %d: %s", other.status, other.body)
	}
	for _, key := range []string{`""`, "a b", "a\tb", strings.Repeat("k", 257)} {
		if got := p.post(mailBody, "Idempotency-Key", key); got.status != 400 || !strings.Contains(got.body, nameInvalidIdempotencyKey) {
			t.Errorf("key %q: status %d: %s", key, got.status, got.body)
		}
	}
	if n := len(script.Contents()); n != 3 {
		t.Errorf("%d messages were sent, want 3", n)
	}
	accepted(t, p.post(later, "Idempotency-Key", `"`+strings.Repeat("k", 256)+`"`), 200, "scheduled")
}

// TestReplayedErrors: an error that is replayed names the message that it is about, and
// one about the key names none.
func TestReplayedErrors(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, scripted(t, &mailertest.Script{Answers: map[string][]string{"MAIL": {"550 5.7.1 no"}}}))
	later := strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1)
	first := accepted(t, p.post(later, "Idempotency-Key", "one"), 200, "scheduled")
	p.ops(new(messageView), "POST", "/outbox/messages/"+first.ID+"/cancel")
	var refusal struct {
		ID        string `json:"id"`
		MessageID string `json:"message_id"`
		Code      string `json:"detail_code"`
	}
	read := func(got answer, status int) {
		t.Helper()
		refusal.ID, refusal.MessageID, refusal.Code = "", "", ""
		if err := json.Unmarshal([]byte(got.body), &refusal); err != nil || got.status != status {
			t.Fatalf("status %d, want %d: %v: %s", got.status, status, err, got.body)
		}
	}
	again := p.post(later, "Idempotency-Key", "one")
	read(again, 422)
	if refusal.Code != "canceled" || refusal.ID != first.ID || refusal.MessageID != first.MessageID || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("canceled: %v: %s", again.header, again.body)
	}
	other := p.post(mailBody, "Idempotency-Key", "one")
	read(other, 409)
	if refusal.ID != "" || refusal.MessageID != "" || other.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("another message: %v: %s", other.header, other.body)
	}
	refused := p.post(mailBody)
	read(refused, 422)
	if refusal.ID == "" || refused.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("refused: %v: %s", refused.header, refused.body)
	}
	await(t, "the cancellation is counted", func() bool {
		return p.metric(`caddy_oauth_mail_messages_total{result="canceled",tenant="default"}`) == 1
	})
}

// TestOperations: what an operator does with messages and tenants.
func TestOperations(t *testing.T) {
	t.Parallel()
	const canary = "canary-of-the-content"
	script := &mailertest.Script{Answers: map[string][]string{"RCPT": {"550 5.1.1 no such user", ""}}}
	p := startCaddy(t, scripted(t, script))
	body := strings.Replace(mailBody, `"text":"t"`, `"text":"`+canary+`"`, 1)
	refused := p.post(body)
	if refused.status != 422 || !strings.Contains(refused.body, "upstream_rejected") {
		t.Fatalf("status %d: %s", refused.status, refused.body)
	}
	var failed struct{ ID string }
	if err := json.Unmarshal([]byte(refused.body), &failed); err != nil {
		t.Fatal(err)
	}
	var list messagesView
	await(t, "the refusal is recorded", func() bool {
		p.ops(&list, "GET", "/outbox/messages?state=failed&tenant=default&limit=5")
		return len(list.Messages) == 1
	})
	m := list.Messages[0]
	if m.ID != failed.ID || m.Failure == nil || m.Failure.Kind != "rejected" || m.Failure.SMTP == nil || m.Recipients[0].State != "refused" {
		t.Errorf("message %+v", m)
	}
	got := p.ops(nil, "GET", "/outbox/messages/"+m.ID+"/eml")
	if got.status != 200 || got.header.Get("Content-Type") != "message/rfc822" || !strings.HasPrefix(got.header.Get("Content-Disposition"), "attachment") ||
		!strings.Contains(got.body, canary) || !strings.Contains(got.body, m.MessageID) || int64(len(got.body)) != m.Size {
		t.Errorf("eml: status %d, %v: %s", got.status, got.header, got.body)
	}
	p.ops(new(messageView), "POST", "/outbox/messages/"+m.ID+"/retry")
	await(t, "the failed message is sent", func() bool { return len(script.Contents()) == 1 })

	var lane laneView
	p.ops(&lane, "POST", "/outbox/tenants/default/pause")
	if lane.State != "paused" || lane.PausedBy != "ops" {
		t.Errorf("paused: %+v", lane)
	}
	waiting := accepted(t, p.post(mailBody), 200, "queued")
	if len(waiting.Warnings) != 1 || !strings.Contains(waiting.Warnings[0], "paused") {
		t.Errorf("warnings %q", waiting.Warnings)
	}
	dropped := accepted(t, p.post(mailBody), 200, "queued")
	goes := accepted(t, p.post(mailBody), 200, "queued")
	var canceled messageView
	p.ops(&canceled, "POST", "/outbox/messages/"+waiting.ID+"/cancel")
	if canceled.State != "canceled" || canceled.CanceledBy != "ops" {
		t.Errorf("canceled: %+v", canceled)
	}
	if got := p.ops(nil, "POST", "/outbox/messages/"+waiting.ID+"/cancel"); got.status != 409 {
		t.Errorf("canceled twice: status %d: %s", got.status, got.body)
	}
	p.ops(new(map[string]any), "DELETE", "/outbox/messages/"+dropped.ID)
	if got := p.ops(nil, "GET", "/outbox/messages/"+dropped.ID); got.status != 404 {
		t.Errorf("dropped: status %d: %s", got.status, got.body)
	}
	p.ops(&lane, "POST", "/outbox/tenants/default/resume")
	if lane.State != "open" {
		t.Errorf("resumed: %+v", lane)
	}
	await(t, "what is left is sent", func() bool { return len(script.Contents()) == 2 })
	if !strings.Contains(script.Contents()[1], goes.ID) {
		t.Errorf("sent was %s", script.Contents()[1])
	}
	for _, bad := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/outbox/messages?state=lost", 422},
		{"GET", "/outbox/messages?limit=0", 422},
		{"GET", "/outbox/messages?sort=id", 422},
		{"GET", "/outbox/messages/none", 404},
		{"GET", "/outbox/messages/none/eml", 404},
		{"POST", "/outbox/messages/none/retry", 404},
		{"DELETE", "/outbox/messages/none", 404},
		{"POST", "/outbox/tenants/none/pause", 404},
		{"GET", "/outbox/tenants/default/pause", 405},
	} {
		if got := p.ops(nil, bad.method, bad.path); got.status != bad.status {
			t.Errorf("%s %s: status %d, want %d: %s", bad.method, bad.path, got.status, bad.status, got.body)
		}
	}
	if log := p.output.String(); strings.Contains(log, canary) || strings.Contains(log, "a@example.net") {
		t.Errorf("in the log:\n%s", grepLines(log, canary, "a@example.net"))
	}
}

// TestOutboxOff: nothing is kept, and the calls say so.
func TestOutboxOff(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, withoutOutbox+scripted(t, &mailertest.Script{Answers: map[string][]string{"MAIL": {"451 4.3.0 later"}}}))
	if got := p.post(mailBody, "Prefer", "respond-async"); got.status != 503 || !strings.Contains(got.body, "upstream_unavailable") {
		t.Errorf("status %d: %s", got.status, got.body)
	}
	var box outboxView
	p.ops(&box, "GET", "/outbox")
	if box.Engine != "off" {
		t.Errorf("outbox %+v", box)
	}
	if got := p.ops(nil, "GET", "/outbox/messages"); got.status != 404 || !strings.Contains(got.body, "outbox off") {
		t.Errorf("messages: status %d: %s", got.status, got.body)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "storage-oauth_mail-outbox")); err == nil {
		t.Error("a folder was made")
	}
}

// TestOutboxRoles: whoever may see counts may not read mail, and not act.
func TestOutboxRoles(t *testing.T) {
	t.Parallel()
	for _, r := range outboxRoutes {
		want := "operator"
		switch {
		case strings.HasSuffix(r.pattern, "/eml"):
			want = "admin"
		case r.method == http.MethodGet:
			want = "viewer"
		}
		if r.handle.role != want {
			t.Errorf("%s %s: role %s, want %s", r.method, r.pattern, r.handle.role, want)
		}
	}
}
