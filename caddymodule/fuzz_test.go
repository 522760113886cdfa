package caddymodule

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// FuzzEmail: any body gives a message or a problem with a status of the client's,
// whatever pieces it comes in. What is accepted is what encoding/json reads, and composes
// to a canonical message or is refused with a named field; what is called broken is
// broken.
func FuzzEmail(f *testing.F) {
	for _, seed := range []string{
		`{"from":"A <a@example.com>","to":["b@example.net"],"cc":"c@example.net","subject":"s","text":"t","html":"<b>h</b>"}`,
		`{"to":"b@example.net","subject":"","headers":{"X-A":"b","X-N":-7.5e+1},"attachments":[{"filename":"a.pdf","content":"YQ\r\n==","content_id":"x"}]}`,
		`{"to":"b@example.net","subject":"s","text":"\ud83d\ude00","attachments":[{"content":[1,2,255]},{"content":{"type":"Buffer","data":[0]}}],"tags":[{"name":"a","value":"b"}]}`,
		`{"to":null,"TO":"x","future":{"a":[{"b":true},null,1e5]}}`,
		`{"to":"a@example.net","subject":"s\r\nBcc: x@example.net","text":"."}`,
		`{"to":"a@example.net","subject":"s","text":"\/","attachments":[{"content":"data:;base64,-_8"}],"oauth_mail":{"envelope":{"to":["b@example.net"]},"priority":"high","references":["<a@b>"],"metadata":{"a":"b"},"dry_run":false,"sender":"c@example.com","ical":{"method":"CANCEL","content":"BEGIN:VCALENDAR\nMETHOD:CANCEL\nEND:VCALENDAR"}}}`,
		"{\"to\":\"\xff\"}", `[[[[`, `{"subject":"\ud800"}`, `{"a":01}`,
	} {
		f.Add([]byte(seed))
	}
	from := mailer.Address{Local: "sender", Domain: "example.com"}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseEmail(body, true)
		slow := newEmailReader(iotest.OneByteReader(bytes.NewReader(body)), nil, true)
		defer slow.giveBack()
		again, errAgain := slow.document()
		if err != nil {
			checkProblem(t, err)
			if errAgain == nil || toProblem(errAgain).message != toProblem(err).message {
				t.Fatalf("%q: %v; octet for octet: %v", body, err, errAgain)
			}
			if m := toProblem(err).message; (strings.Contains(m, "is no JSON") || strings.Contains(m, "ends too early") || strings.Contains(m, "body is empty")) && json.Valid(body) || strings.Contains(m, "UTF-8") && utf8.Valid(body) {
				t.Fatalf("refused %q: %v", body, err)
			}
			return
		}
		defer r.close()
		if errAgain != nil {
			t.Fatalf("octet for octet: %v", errAgain)
		}
		defer again.close()
		if !json.Valid(body) || !utf8.Valid(body) {
			t.Fatalf("accepted %q", body)
		}
		compareJSON(t, body, r.message)
		compareJSON(t, body, again.message)
		if n := len(r.message.To) + len(r.message.Cc) + len(r.message.Bcc); n < 1 || n > maxRecipients || len(r.warnings) > maxWarnings+1 {
			t.Fatalf("%d recipients, %d warnings", n, len(r.warnings))
		}
		c, err := caller{key: new(apiKey), tenant: &tenant{from: from}}.permit(r)
		if err != nil {
			checkProblem(t, err)
			return
		}
		s, err := newSubmission(r, c)
		if err != nil {
			checkProblem(t, err)
			return
		}
		var wire strings.Builder
		if _, err := s.Content.WriteTo(&wire); err != nil {
			t.Fatal(err)
		}
		if int64(wire.Len()) != s.Content.Size() || strings.Contains(strings.ReplaceAll(wire.String(), "\r\n", ""), "\n") {
			t.Fatalf("not canonical: %q", wire.String())
		}
		header, _, _ := strings.Cut(wire.String(), "\r\n\r\n")
		if strings.Contains(strings.ToLower("\r\n"+header), "\r\nbcc:") {
			t.Fatalf("a Bcc field: %q", header)
		}
	})
}

// compareJSON holds a message to what encoding/json reads.
func compareJSON(t *testing.T, body []byte, m *mailer.Message) {
	t.Helper()
	var want struct {
		Subject, Text, HTML string
		Headers             map[string]any
		Attachments         []struct {
			Filename *string
			Content  json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &want); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if m.Subject != want.Subject || m.Text != want.Text || m.HTML != want.HTML || len(m.Attachments) != len(want.Attachments) {
		t.Fatalf("%q: %+v", body, m)
	}
	for _, h := range m.Headers {
		if text, ok := want.Headers[h.Name].(string); ok && text != h.Value {
			t.Fatalf("%q: header %+v", body, h)
		}
	}
	for i, a := range m.Attachments {
		content, err := a.Source.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err != nil || int64(len(got)) != a.Source.Size() {
			t.Fatalf("%q: %d of %d octets: %v", body, len(got), a.Source.Size(), err)
		}
		_ = content.Close()
		w := want.Attachments[i]
		if w.Filename != nil && *w.Filename != a.Filename {
			t.Fatalf("%q: file name %q", body, a.Filename)
		}
		if octets := octetsOf(t, w.Content); !bytes.Equal(octets, got) {
			t.Fatalf("%q: %q, not %q", body, got, octets)
		}
	}
}

// octetsOf reads the content of an attachment by other means.
func octetsOf(t *testing.T, raw json.RawMessage) []byte {
	t.Helper()
	var list []int
	switch raw[0] {
	case '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(text, "data:") {
			_, text, _ = strings.Cut(text, ",")
		}
		octets, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("\r", "", "\n", "", "=", "", "+", "-", "/", "_").Replace(text))
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		return octets
	case '{':
		var buffer struct{ Data []int }
		if err := json.Unmarshal(raw, &buffer); err != nil {
			t.Fatal(err)
		}
		list = buffer.Data
	default:
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
	}
	octets := make([]byte, len(list))
	for i, n := range list {
		octets[i] = byte(n)
	}
	return octets
}

// checkProblem holds an error to an answer that is the client's to mend.
func checkProblem(t *testing.T, err error) {
	t.Helper()
	p := toProblem(err)
	if p.status < 400 || p.status >= 500 || p.name == "" || p.message == "" || !utf8.ValidString(p.message) {
		t.Fatalf("answer %+v to %v", p, err)
	}
}

// FuzzCaddyfile: no Caddyfile panics the parser, and what adapts is an app that
// JSON takes back.
func FuzzCaddyfile(f *testing.F) {
	for _, seed := range []string{
		"redirect_base https://a.example/cb\nprovider p {\nissuer https://i.example\nclient_id c\nservers s.example\n}",
		"tenant t {\nserver smtps://h:465\nauth oauth p xoauth2\nuser a@example.com\nfrom \"N\" <a@example.com>\nsenders *@example.com *\nconnections 3\n}\nkey k v t",
		"tenant t {\nrate 30 1m\nrecipients_per_day 9\nmax_age 1m\nrecipients all\nfailover u\ndeliver to a@example.com\nproxy socks5://h\n}\ntenant u {\ndeliver none\n}",
		"tenant t {\nauth password u {env.P}\n}\nencryption_key a b",
		"provider p {\nauth_param a b\nauth_param c d\nscopes x y\n}",
	} {
		f.Add(seed)
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	f.Fuzz(func(t *testing.T, content string) {
		if strings.Contains(content, "import") || strings.Contains(content, "{$") {
			return // reads files and variables of this machine
		}
		out, _, err := adapter.Adapt([]byte("{\n\toauth_mail {\n"+content+"\n\t}\n}\n"), nil)
		if err != nil {
			return
		}
		var config struct {
			Apps map[string]json.RawMessage `json:"apps"`
		}
		if err := json.Unmarshal(out, &config); err != nil {
			t.Fatal(err)
		}
		raw, ok := config.Apps["oauth_mail"]
		if !ok {
			return
		}
		decoder := json.NewDecoder(strings.NewReader(string(raw)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(new(App)); err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("%s: %v", raw, err)
		}
	})
}
