package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// passwordTenant is the content of the global option with one tenant that signs
// in to the server by password.
func passwordTenant(t *testing.T, s *mailertest.Server) string {
	t.Helper()
	s.AllowPassword("sender@example.com", "smtp-password")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
		tenant default {
			server %s
			auth password sender@example.com smtp-password
			from "The Sender" <sender@example.com>
			senders *@example.com
			ca_file %s
		}
		key web %s default
`, s.Addr, ca, testKey)
}

// TestRefusals holds the send route to its documented statuses and names. What
// is refused must not reach the mail server.
func TestRefusals(t *testing.T) {
	t.Parallel()
	server := mailertest.NewServer(t)
	p := startCaddy(t, withoutOutbox+passwordTenant(t, server))
	auth := map[string]string{"Authorization": "Bearer " + testKey, "Content-Type": "application/json"}
	with := func(name, value string) map[string]string {
		h := map[string]string{"Authorization": auth["Authorization"], "Content-Type": auth["Content-Type"]}
		if h[name] = value; value == "" {
			delete(h, name)
		}
		return h
	}
	const good = `{"from":"sender@example.com","to":"a@example.net","subject":"s","text":"t"}`
	// message is the good one with one member replaced.
	message := func(name string, value any) string {
		m := map[string]any{"from": "sender@example.com", "to": "a@example.net", "subject": "s", "text": "t"}
		if m[name] = value; value == nil {
			delete(m, name)
		}
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	tests := []struct {
		name           string
		method, target string
		header         map[string]string
		body           string
		status         int
		errorName      string
		code           string
	}{
		{name: "broken JSON", body: `{"from":`, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "no JSON", body: `hello`, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "a list", body: `[]`, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "empty body", body: ``, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "two objects", body: good + good, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "wrong type", body: message("subject", 7), status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "field twice", body: `{"to":"a@example.net","to":"b@example.net","text":"t"}`, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "field in another case", body: `{"To":"a@example.net","text":"t"}`, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "field in two cases", body: `{"to":"a@example.net","TO":"b@example.net","text":"t"}`, status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "no to", body: message("to", nil), status: 422, errorName: "missing_required_field", code: "missing"},
		{name: "empty to", body: message("to", []string{}), status: 422, errorName: "missing_required_field", code: "missing"},
		{name: "no text", body: message("text", nil), status: 422, errorName: "missing_required_field", code: "missing_body"},
		{name: "foreign sender", body: message("from", "ceo@bank.example"), status: 403, errorName: "validation_error", code: "sender_not_allowed"},
		{name: "bad from", body: message("from", "nobody"), status: 422, errorName: "invalid_from_address", code: "bad_address"},
		{name: "two in from", body: message("from", "sender@example.com, x@example.com"), status: 422, errorName: "invalid_from_address", code: "bad_address"},
		{name: "line break in from's name", body: message("from", "A\r\nBcc: x@example.net <sender@example.com>"), status: 422, errorName: "invalid_from_address", code: "line_break"},
		{name: "line break in subject", body: message("subject", "s\r\nBcc: x@example.net"), status: 422, errorName: "validation_error", code: "line_break"},
		{name: "line feed in subject", body: message("subject", "s\nBcc: x@example.net"), status: 422, errorName: "validation_error", code: "line_break"},
		{name: "NUL in subject", body: message("subject", "s\x00"), status: 422, errorName: "validation_error", code: "line_break"},
		{name: "line break in to", body: message("to", "a@example.net\r\nBcc: x@example.net"), status: 422, errorName: "validation_error", code: "line_break"},
		{name: "line break in header name", body: message("headers", map[string]string{"X-A\r\nBcc": "x@example.net"}), status: 422, errorName: "validation_error", code: "line_break"},
		{name: "line break in header value", body: message("headers", map[string]string{"X-A": "a\r\nBcc: x@example.net"}), status: 422, errorName: "validation_error", code: "line_break"},
		{name: "colon in header name", body: message("headers", map[string]string{"X-A: b": "c"}), status: 422, errorName: "validation_error", code: "bad_header"},
		{name: "line break in file name", body: message("attachments", []any{map[string]string{"filename": "a\r\nb", "content": "YQ=="}}), status: 422, errorName: "invalid_attachment", code: "line_break"},
		{name: "quoted local part", body: message("to", `"victim@evil.example> ORCPT=x"@example.net`), status: 422, errorName: "validation_error", code: "bad_address"},
		{name: "two addresses in one", body: message("to", "a@example.net, b@example.net"), status: 422, errorName: "validation_error", code: "bad_address"},
		{name: "two angle addresses", body: message("to", "<a@example.net> <b@example.net>"), status: 422, errorName: "validation_error", code: "bad_address"},
		{name: "source route", body: message("to", "<@x.example:a@example.net>"), status: 422, errorName: "validation_error", code: "bad_address"},
		{name: "address literal", body: message("to", "a@[127.0.0.1]"), status: 422, errorName: "validation_error", code: "bad_address"},
		{name: "group", body: message("to", "g: a@example.net, b@example.net;"), status: 422, errorName: "validation_error", code: "bad_address"},
		{name: "no base64", body: message("attachments", []any{map[string]string{"filename": "a", "content": "***"}}), status: 422, errorName: "invalid_attachment", code: "bad_content"},
		{name: "byte over 255", body: message("attachments", []any{map[string]any{"filename": "a", "content": []int{1, 256}}}), status: 422, errorName: "invalid_attachment", code: "bad_content"},
		{name: "attachment without content", body: message("attachments", []any{map[string]string{"filename": "a"}}), status: 422, errorName: "invalid_attachment", code: "missing_content"},
		{name: "attachment from elsewhere", body: message("attachments", []any{map[string]string{"path": "http://169.254.169.254/"}}), status: 422, errorName: "invalid_attachment", code: "remote_attachment"},
		{name: "101 recipients", body: message("to", many101()), status: 422, errorName: "validation_error", code: "too_many"},
		{name: "11 addresses to reply to", body: message("reply_to", many101()[:11]), status: 422, errorName: "validation_error", code: "too_many"},
		{name: "51 headers", body: message("headers", manyHeaders(51)), status: 422, errorName: "validation_error", code: "too_many"},
		{name: "65 KiB of headers", body: message("headers", map[string]string{"X-A": strings.Repeat("a ", 17<<10), "X-B": strings.Repeat("a ", 17<<10)}), status: 422, errorName: "validation_error", code: "too_many"},
		{name: "51 attachments", body: message("attachments", slices.Repeat([]map[string]string{{"content": ""}}, 51)), status: 422, errorName: "validation_error", code: "too_many"},
		{name: "201 members", body: manyMembers(201), status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "no subject", body: message("subject", nil), status: 422, errorName: "missing_required_field", code: "missing"},
		{name: "number in to", body: message("to", []any{"a@example.net", 3}), status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "no UTF-8", body: strings.Replace(good, `"t"}`, "\"caf\xe9\"}", 1), status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "half a surrogate pair", body: strings.Replace(good, `"t"}`, `"\ud83d"}`, 1), status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "second half of a surrogate pair", body: strings.Replace(good, `"t"}`, `"\udE00"}`, 1), status: 400, errorName: "validation_error", code: "bad_json"},
		{name: "compressed", header: with("Content-Encoding", "br"), body: good, status: 415, errorName: "validation_error", code: "content_encoding"},
		{name: "slash at the end", target: "/emails/", body: good, status: 404, errorName: "not_found"},
		{name: "scheduled", body: message("scheduled_at", "in 1 hour"), status: 422, errorName: "validation_error", code: "unsupported"},
		{name: "template", body: message("template", map[string]string{"id": "x"}), status: 422, errorName: "validation_error", code: "unsupported"},
		{name: "misleading name", body: message("from", `"ceo@bank.example" <sender@example.com>`), status: 422, errorName: "invalid_from_address", code: "misleading_name"},
		{name: "too large", body: message("text", strings.Repeat("x", 37<<20)), status: 413, errorName: "validation_error", code: "too_large"},
		{name: "form", header: with("Content-Type", "application/x-www-form-urlencoded"), body: "to=a", status: 415, errorName: "validation_error", code: "media_type"},
		{name: "no media type", header: with("Content-Type", ""), body: good, status: 415, errorName: "validation_error", code: "media_type"},
		{name: "no key", header: with("Authorization", ""), body: good, status: 401, errorName: "missing_api_key"},
		{name: "wrong key", header: with("Authorization", "Bearer test-key-with-24-characterz"), body: good, status: 403, errorName: "invalid_api_key"},
		{name: "key in another case", header: with("Authorization", "Bearer "+strings.ToUpper(testKey)), body: good, status: 403, errorName: "invalid_api_key"},
		{name: "empty idempotency key", header: with("Idempotency-Key", strings.Repeat("x", 257)), body: good, status: 400, errorName: "invalid_idempotency_key"},
		{name: "PUT", method: "PUT", status: 405, errorName: "method_not_allowed"},
		{name: "unknown call below", target: "/emails/x/y", body: good, status: 404, errorName: "not_found"},
		{name: "upper case", target: "/EMAILS", body: good, status: 404},
		{name: "mistyped", target: "/email", body: good, status: 404},
		{name: "admin, then up, without a key", target: "/admin/../emails", header: with("Authorization", ""), body: good, status: 401, errorName: "missing_api_key"},
		{name: "two slashes, without a key", target: "//emails", header: with("Authorization", ""), body: good, status: 401, errorName: "missing_api_key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.method == "" {
				tt.method = "POST"
			}
			if tt.target == "" {
				tt.target = "/emails"
			}
			if tt.header == nil {
				tt.header = auth
			}
			got := p.do(tt.method, tt.target, tt.header, tt.body)
			if got.status != tt.status {
				t.Fatalf("status %d, want %d; body %.300s", got.status, tt.status, got.body)
			}
			if tt.errorName == "" {
				return
			}
			var e struct {
				StatusCode int    `json:"statusCode"`
				Name       string `json:"name"`
				Message    string `json:"message"`
				DetailCode string `json:"detail_code"`
			}
			if err := json.Unmarshal([]byte(got.body), &e); err != nil {
				t.Fatalf("body %q: %v", got.body, err)
			}
			if e.StatusCode != tt.status || e.Name != tt.errorName || tt.code != "" && e.DetailCode != tt.code || e.Message == "" {
				t.Errorf("got %+v, want name %s, code %s", e, tt.errorName, tt.code)
			}
			if ct := got.header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("content type %q", ct)
			}
		})
	}
	t.Cleanup(func() {
		if n := len(server.Messages()); n != 0 {
			t.Errorf("%d messages were sent, want none", n)
		}
	})
}

func manyHeaders(n int) map[string]string {
	m := make(map[string]string)
	for i := range n {
		m[fmt.Sprintf("X-%d", i)] = "v"
	}
	return m
}

func manyMembers(n int) string {
	var b strings.Builder
	b.WriteString("{")
	for i := range n {
		fmt.Fprintf(&b, "%q:1,", fmt.Sprintf("x%d", i))
	}
	return b.String() + `"to":"a@example.net"}`
}

func many101() []string {
	list := make([]string, 101)
	for i := range list {
		list[i] = fmt.Sprintf("a%d@example.net", i)
	}
	return list
}

func TestSend(t *testing.T) {
	t.Parallel()
	server := mailertest.NewServer(t)
	p := startCaddy(t, passwordTenant(t, server))
	for _, target := range []string{"/emails", "//emails", "/admin/../emails", "/emails"} {
		got := p.do("POST", target, map[string]string{"Authorization": "Bearer " + testKey, "Content-Type": "application/json; charset=utf-8"},
			`{"to":["山田 太郎 <a@example.net>"],"bcc":"secret@example.net","subject":"日本語","text":"こんにちは","future":1}`)
		if got.status != 200 {
			t.Fatalf("%s: status %d: %s", target, got.status, got.body)
		}
		var answer struct {
			ID, Status string
			MessageID  string `json:"message_id"`
			Warnings   []string
		}
		if err := json.Unmarshal([]byte(got.body), &answer); err != nil {
			t.Fatal(err)
		}
		if len(answer.ID) != 36 || answer.MessageID != "<"+answer.ID+"@example.com>" || answer.Status != "sent" || len(answer.Warnings) != 1 {
			t.Errorf("answer %s", got.body)
		}
	}
	messages := server.Messages()
	if len(messages) != 4 {
		t.Fatalf("%d messages, want 4", len(messages))
	}
	m := messages[0]
	if m.From != "sender@example.com" || strings.Join(m.To, " ") != "a@example.net secret@example.net" {
		t.Errorf("envelope %q %q", m.From, m.To)
	}
	if strings.Contains(m.Data, "secret@example.net") {
		t.Error("a bcc recipient is in the message")
	}
	if !strings.Contains(m.Data, base64.StdEncoding.EncodeToString([]byte("こんにちは"))) {
		t.Errorf("the text is not there:\n%s", m.Data)
	}
	if n := server.Sessions(); n != 1 {
		t.Errorf("%d sessions for 4 messages in a row, want 1", n)
	}
}

func TestWrongKeysAreSlowed(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, passwordTenant(t, mailertest.NewServer(t)))
	for i := range wrongKeys {
		if got := p.do("POST", "/emails", map[string]string{"Authorization": "Bearer wrong"}, ""); got.status != 403 {
			t.Fatalf("wrong key %d: status %d", i, got.status)
		}
	}
	got := p.do("POST", "/emails", map[string]string{"Authorization": "Bearer wrong"}, "")
	if got.status != 429 || got.header.Get("Retry-After") == "" || !strings.Contains(got.body, field("name", "rate_limit_exceeded")) {
		t.Errorf("status %d, Retry-After %q: %s", got.status, got.header.Get("Retry-After"), got.body)
	}
	// SDKs read these as numbers, whatever the reason.
	for name, want := range map[string]string{"RateLimit-Limit": "0", "RateLimit-Remaining": "0", "RateLimit-Reset": got.header.Get("Retry-After")} {
		if v := got.header.Get(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
}
