package caddymodule

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// FuzzParseEmail: any body gives a message or a problem with a status of the
// client's, and what is accepted composes to a canonical message or is refused
// with a named field.
func FuzzParseEmail(f *testing.F) {
	for _, seed := range []string{
		`{"from":"A <a@example.com>","to":["b@example.net"],"cc":"c@example.net","subject":"s","text":"t","html":"<b>h</b>"}`,
		`{"to":"b@example.net","subject":"","headers":{"X-A":"b","X-N":7},"attachments":[{"filename":"a.pdf","content":"YQ==","content_id":"x"}]}`,
		`{"to":"b@example.net","subject":"s","text":"\ud83d\ude00","attachments":[{"content":[1,2,255]},{"content":{"type":"Buffer","data":[0]}}],"tags":[{"name":"a","value":"b"}]}`,
		`{"to":null,"TO":"x","future":{"a":[{}]}}`,
		`{"to":"a@example.net","subject":"s\r\nBcc: x@example.net","text":"."}`,
	} {
		f.Add([]byte(seed))
	}
	from := mailer.Address{Local: "sender", Domain: "example.com"}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseEmail(body, true)
		if err != nil {
			checkProblem(t, err)
			return
		}
		if !json.Valid(body) || !utf8.Valid(body) {
			t.Fatalf("accepted %q", body)
		}
		if n := len(r.message.To) + len(r.message.Cc) + len(r.message.Bcc); n < 1 || n > maxRecipients || len(r.warnings) > maxWarnings+1 {
			t.Fatalf("%d recipients, %d warnings", n, len(r.warnings))
		}
		c, err := caller{key: new(apiKey), tenant: &tenant{from: from}}.permit(r.message)
		if err != nil {
			checkProblem(t, err)
			return
		}
		s, err := newSubmission(r.message, c)
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
