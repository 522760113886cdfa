package caddymodule

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// mailAnswer is what a program reads of an answer of the send route.
type mailAnswer struct {
	ID, Staging, Message string
	RequestID            string `json:"request_id"`
	MessageID            string `json:"message_id"`
	DetailCode           string `json:"detail_code"`
	Diagnosis            struct{ ID string }
	Rejected             []struct {
		Address   string
		Diagnosis struct {
			ID, Meaning string
			Do          []string
		}
	}
}

// TestAnswerAndLog: the answer to a message and the lines of the log about it say
// the same and lead to each other.
func TestAnswerAndLog(t *testing.T) {
	t.Parallel()
	scripts := map[string]*mailertest.Script{
		"some":    {Answers: map[string][]string{"RCPT": {"", "550 5.1.1 <B@example.net>: user unknown", "550 5.1.1 <c@example.net>: user unknown", "452 4.2.2 d@example.net is full"}}},
		"spam":    {Answers: map[string][]string{"RCPT": {"550 5.7.1 a@example.net wants no spam"}}},
		"small":   {Offer: []string{"SIZE 100"}},
		"staging": {}, "nowhere": {}, "foreign": {}, "well": {},
	}
	extra := map[string]string{"staging": "deliver to qa@example.com", "nowhere": "deliver none"}
	var option strings.Builder
	for name, s := range scripts {
		host, port := s.Listen(t)
		fmt.Fprintf(&option, "tenant %s {\nserver plaintext://%s\nauth none\nfrom noreply@example.com\n%s\n}\nkey %[1]s %[4]s-%[1]s %[1]s\n",
			name, net.JoinHostPort(host, fmt.Sprint(port)), extra[name], testKey)
	}
	p := startCaddy(t, withoutOutbox+option.String())
	tests := []struct {
		tenant, from string
		status       int
		code, says   string
		staging      string
		rejected     []string // diagnoses
		lines        []map[string]any
	}{
		{tenant: "well", status: 200, lines: []map[string]any{{"msg": "message sent", "recipients": 4.}}},
		{
			tenant: "some", status: 200,
			rejected: []string{"b@example.net general.recipient_unknown", "c@example.net general.recipient_unknown", "d@example.net general.recipient_full"},
			lines: []map[string]any{
				{"level": "warn", "msg": "recipients refused; the others get the message", "refused": 2., "reply": "550 5.1.1 <(recipient)>: user unknown", "diagnosis": "general.recipient_unknown"},
				{"level": "warn", "msg": "recipients refused; the others get the message", "refused": 1., "reply": "452 4.2.2 (recipient) is full", "diagnosis": "general.recipient_full"},
				{"msg": "message sent", "recipients": 4.},
			},
		},
		{
			tenant: "spam", status: 422, code: "upstream_rejected", says: "550 5.7.1",
			lines: []map[string]any{{"msg": "message not sent", "code": "upstream_rejected", "reply": "550 5.7.1 (recipient) wants no spam"}},
		},
		{
			tenant: "small", status: 422, code: "over_upstream_size", says: "limit of 100",
			lines: []map[string]any{{"msg": "message not sent", "code": "over_upstream_size"}},
		},
		{
			tenant: "staging", status: 200, staging: "qa@example.com",
			lines: []map[string]any{{"msg": "message not delivered to its recipients: staging", "deliver": "qa@example.com"}},
		},
		{
			tenant: "nowhere", status: 200, staging: "none",
			lines: []map[string]any{{"msg": "message not delivered to its recipients: staging", "deliver": "none"}},
		},
		{
			tenant: "foreign", from: "ceo@bank.example", status: 403, code: "sender_not_allowed", says: `"ceo@bank.example"`,
			lines: []map[string]any{{"msg": "message not sent", "code": "sender_not_allowed", "cause": `tenant "foreign" may not send as "ceo@bank.example"`}},
		},
	}
	answers := make([]answer, len(tests))
	for i, tt := range tests {
		from := cmp.Or(tt.from, "noreply@example.com")
		answers[i] = p.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + testKey + "-" + tt.tenant, "Content-Type": "application/json"},
			fmt.Sprintf(`{"from":%q,"to":["a@example.net","b@example.net","c@example.net","d@example.net"],"subject":"s","text":"t"}`, from))
	}
	p.kill() // then all of its log is there
	for i, tt := range tests {
		got := answers[i]
		var a mailAnswer
		if err := json.Unmarshal([]byte(got.body), &a); err != nil {
			t.Fatalf("%s: %v: %s", tt.tenant, err, got.body)
		}
		if got.status != tt.status || a.DetailCode != tt.code || !strings.Contains(a.Message, tt.says) || a.Staging != tt.staging {
			t.Errorf("%s: status %d: %s", tt.tenant, got.status, got.body)
		}
		if len(a.ID) != 36 || !strings.HasPrefix(a.MessageID, "<"+a.ID+"@") {
			t.Errorf("%s: no id: %s", tt.tenant, got.body)
			continue
		}
		var refused []string
		for _, r := range a.Rejected {
			refused = append(refused, r.Address+" "+r.Diagnosis.ID)
			if r.Diagnosis.Meaning == "" || len(r.Diagnosis.Do) == 0 {
				t.Errorf("%s: rejected %+v", tt.tenant, r)
			}
		}
		if diff := gocmp.Diff(tt.rejected, refused); diff != "" {
			t.Errorf("%s: rejected (-want +got):\n%s", tt.tenant, diff)
		}
		lines := linesOf(t, withoutAudit(p.output.String()), a.ID)
		if len(lines) != len(tt.lines) {
			t.Errorf("%s: %s\nlines %v", tt.tenant, got.body, lines)
			continue
		}
		for i, want := range tt.lines {
			for name, v := range want {
				if lines[i][name] != v {
					t.Errorf("%s: line %d has %s %v, want %v", tt.tenant, i, name, lines[i][name], v)
				}
			}
			if request, _ := lines[i]["request_id"].(string); request == "" || tt.status != 200 && request != a.RequestID {
				t.Errorf("%s: request_id %q, answered %q", tt.tenant, request, a.RequestID)
			}
			if tt.status != 200 && a.Diagnosis.ID != "" && lines[i]["diagnosis"] != a.Diagnosis.ID {
				t.Errorf("%s: diagnosis %v, answered %q", tt.tenant, lines[i]["diagnosis"], a.Diagnosis.ID)
			}
		}
	}
	if log := strings.ToLower(withoutAudit(p.output.String())); strings.Contains(log, "example.net") {
		t.Errorf("a recipient is in the log:\n%s", grepLines(log, "example.net"))
	}
}

// withoutAudit is a log but for the audit log, which names the domains of recipients
// unless it is told otherwise.
func withoutAudit(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"logger":"oauth_mail.audit"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// linesOf returns the lines of a log about a message.
func linesOf(t *testing.T, log, id string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range strings.Lines(log) {
		if !strings.Contains(line, id) {
			continue
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if v["id"] == id {
			found = append(found, v)
		}
	}
	return found
}

// TestPatience: after 45 s a caller is told what its message waited for, in vain,
// and the log has the same code.
func TestPatience(t *testing.T) {
	t.Parallel()
	for code, tt := range map[string]struct {
		status int
		busy   bool // another one has the only connection
	}{
		"mailbox_busy": {503, true}, "upstream_timeout": {504, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(s *snapshot) {
				tenant := s.tenants["default"]
				tenant.limits.connections = 1
				tenant.mail.Server.Dial = func(context.Context, string, string) (net.Conn, error) {
					client, _ := net.Pipe() // nobody says a word
					return client, nil
				}
				s.keys[sha256.Sum256([]byte(testKey))] = &apiKey{name: "web", tenant: "default"}
			})
			_, refresh := b.idp.Issue(mailbox, "smtp.send offline_access")
			b.call(benchAccount+"/import", fmt.Sprintf(`{"refresh_token":%q}`, refresh), http.StatusOK, new(map[string]any))
			b.app.mailer = &mailer.Mailer{Lookup: b.app.registry.lookup, Hooks: b.app.hooks()}
			b.app.memory = newBudget(defaultMaxBody, defaultMaxInFlight)
			var other sync.WaitGroup
			defer other.Wait()
			if tt.busy {
				other.Go(func() { _ = b.app.registry.load().tenants["default"].mail.Warm(t.Context()) })
				synctest.Wait()
			}
			began := time.Now()
			got := b.serve(b.handler.serveSend, "POST", "/emails", mailBody, func(r *http.Request) {
				r.Header.Set("Authorization", "Bearer "+testKey)
				r.Header.Set("Content-Type", "application/json")
			})
			if took := time.Since(began); got.status != tt.status || took != 45*time.Second || !strings.Contains(got.body, field("detail_code", code)) || !strings.Contains(got.body, `"diagnosis":{"id":`) {
				t.Errorf("%s: status %d after %v: %s", code, got.status, took, got.body)
			}
			if !strings.Contains(b.log.String(), " code="+code+" ") {
				t.Errorf("%s: log: %s", code, b.log.String())
			}
		})
	}
}
