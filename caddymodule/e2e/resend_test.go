//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// resendCall is one use of Resend's SDK, and what it told.
type resendCall struct {
	Key     string         `json:"key"`
	Message map[string]any `json:"message"`

	result struct {
		Data  *struct{ ID string }
		Error *struct {
			Name, Message string
			StatusCode    int
		}
	}
}

func (s *Stack) resend(t testing.TB, calls []*resendCall) {
	t.Helper()
	text, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "node/resend.mjs", string(text))
	cmd.Env = append(os.Environ(), "RESEND_BASE_URL="+s.URL)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the Resend SDK is missing or broken: %v\n%s", err, stderr.String())
	}
	var results []json.RawMessage
	if err := json.Unmarshal(out, &results); err != nil || len(results) != len(calls) {
		t.Fatalf("%v: %s", err, out)
	}
	for i, r := range results {
		if err := json.Unmarshal(r, &calls[i].result); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s", r)
	}
}

// Resend's official SDK works unchanged, but for its base URL.
func TestResendSDK(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.SignIn(t)
	key := s.keys[onPostfix]
	message := func(changes map[string]any) map[string]any {
		m := map[string]any{"from": "Acme <sender@example.com>", "to": []string{"delivered@example.net"}, "subject": "hello world", "text": "It works!"}
		for k, v := range changes {
			if m[k] = v; v == nil {
				delete(m, k)
			}
		}
		return m
	}
	pdf := append([]byte("%PDF-1.4\n"), noise(5000)...)
	good := []*resendCall{
		{Key: key, Message: message(nil)},
		{Key: key, Message: message(map[string]any{
			"html": "<p>It <b>works</b>!</p>", "cc": "cc@example.net", "bcc": []string{"bcc@example.net"}, "replyTo": "desk@example.com",
			"headers": map[string]string{"X-Entity-Ref-ID": "123456789"}, "tags": []any{map[string]string{"name": "category", "value": "confirm_email"}},
		})},
		{Key: key, Message: message(map[string]any{"attachments": []any{
			map[string]any{"filename": "invoice.pdf", "content": base64.StdEncoding.EncodeToString(pdf)},
			map[string]any{"filename": "buffer.pdf", "buffer": base64.StdEncoding.EncodeToString(pdf)},
			map[string]any{"filename": "logo.png", "content": base64.StdEncoding.EncodeToString(pdf), "contentId": "logo", "contentType": "image/png"},
		}})},
	}
	s.resend(t, good)
	want := []reading{
		{Text: "It works!"},
		{
			Text: "It works!", HTML: "<p>It <b>works</b>!</p>", Cc: []person{{"", "cc@example.net"}}, ReplyTo: []person{{"", "desk@example.com"}},
		},
		{Text: "It works!", Attachments: []attachment{
			attached("logo.png", "image/png", "logo", pdf),
			attached("invoice.pdf", "application/pdf", "", pdf),
			attached("buffer.pdf", "application/pdf", "", pdf),
		}},
	}
	envelopes := [][]string{{"delivered@example.net"}, {"bcc@example.net", "cc@example.net", "delivered@example.net"}, {"delivered@example.net"}}
	var files []string
	for i, c := range good {
		if c.result.Error != nil || c.result.Data == nil || c.result.Data.ID == "" {
			t.Fatalf("call %d: %+v, error %+v", i, c.result.Data, c.result.Error)
		}
		d := s.mailbox.find(t, c.result.Data.ID)
		if diff := cmp.Diff(envelopes[i], d.To, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
			t.Errorf("call %d: envelope (-want +got):\n%s", i, diff)
		}
		files = append(files, d.File)
	}
	for _, r := range readers {
		for i, got := range read(t, r.argv, files) {
			want[i].Subject, want[i].From, want[i].To = "hello world", []person{{"Acme", "sender@example.com"}}, []person{{"", "delivered@example.net"}}
			byName := cmpopts.SortSlices(func(a, b attachment) bool { return a.Filename < b.Filename })
			if diff := cmp.Diff(want[i], got, cmpopts.EquateEmpty(), byName, cmpopts.IgnoreFields(reading{}, "MessageID")); diff != "" {
				t.Errorf("call %d as %s reads it (-want +got):\n%s", i, r.name, diff)
			}
		}
	}

	s.mail[onPostfix].stop()
	bad := []struct {
		name      string
		call      resendCall
		status    int
		errorName string
	}{
		{"wrong key", resendCall{Key: "re_123456789012345678901234", Message: message(nil)}, 403, "invalid_api_key"},
		{"no recipient", resendCall{Key: key, Message: message(map[string]any{"to": nil})}, 422, "missing_required_field"},
		{"no such address", resendCall{Key: key, Message: message(map[string]any{"to": "nobody"})}, 422, "validation_error"},
		{"no sender", resendCall{Key: key, Message: message(map[string]any{"from": "no address"})}, 422, "invalid_from_address"},
		{"a sender who may not", resendCall{Key: key, Message: message(map[string]any{"from": "ceo@example.org"})}, 403, "validation_error"},
		{"no content", resendCall{Key: key, Message: message(map[string]any{"text": nil})}, 422, "missing_required_field"},
		{"an attachment without content", resendCall{Key: key, Message: message(map[string]any{"attachments": []any{map[string]any{"filename": "a.txt"}}})}, 422, "invalid_attachment"},
		{"mail server down", resendCall{Key: key, Message: message(nil)}, 503, "application_error"},
	}
	calls := make([]*resendCall, 0, len(bad))
	for i := range bad {
		calls = append(calls, &bad[i].call)
	}
	s.resend(t, calls)
	for _, c := range bad {
		e := c.call.result.Error
		if e == nil || c.call.result.Data != nil || e.StatusCode != c.status || e.Name != c.errorName || e.Message == "" {
			t.Errorf("%s: error %+v, want status %d and name %s", c.name, e, c.status, c.errorName)
		}
	}
	s.checkSecrets(t)
}
