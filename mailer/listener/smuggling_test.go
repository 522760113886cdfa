package listener

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// onward sends a submission through mailer and returns what its client wrote.
func onward(ctx context.Context, s mailer.Submission, offer []string) ([]byte, error) {
	server := mailertest.NewAgreeable(len(s.Envelope.To), offer...)
	anybody, _ := mailer.ParseSenders("*")
	m := mailer.Mailer{Lookup: func(string) (*mailer.Tenant, bool) {
		return &mailer.Tenant{Name: "lab", Senders: anybody, Server: mailer.Server{
			Host: "127.0.0.1", Port: 25, Security: mailer.Plaintext, Dial: server.Dial,
		}}, true
	}}
	s.Options = mailer.Options{}
	_, err := m.Send(ctx, s)
	return server.Heard(), err
}

// TestSmuggling has an honest client bring texts that hold another transaction. They
// are refused, or come out as one transaction to all of the receivers.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	const header = "From: a@example.com\r\nSubject: x\r\n"
	far := header + "\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 60)
	offers := [][]string{{"X"}, {"PIPELINING"}, {"CHUNKING"}, {"PIPELINING", "CHUNKING"}}
	for _, tt := range []struct {
		name, greeting, from, to, text string
	}{
		{name: "body", text: header + "\r\n%s\r\n"},
		{name: "body, far behind", text: far + "%s\r\n"},
		{name: "header value", text: header + "X-Note: %s\r\n\r\nx\r\n"},
		{name: "From", text: "From: %s <a@example.com>\r\n\r\nx\r\n"},
		{name: "Message-ID", text: header + "Message-ID: <%s@example.com>\r\n\r\nx\r\n"},
		{name: "header name", text: header + "X-%s: x\r\n\r\nx\r\n"},
		{name: "as a whole", text: "%s"},
		{name: "sender", from: "%s@example.com"},
		{name: "recipient", to: "%s@example.net"},
		{name: "domain of a recipient", to: "b@%s"},
		{name: "quoted recipient", to: `"%s"@example.net`},
		{name: "greeting", greeting: "%s"},
	} {
		for _, strict := range []bool{false, true}[:1+min(1, len(tt.text))] {
			t.Run(fmt.Sprint(tt.name, "/", strict), func(t *testing.T) {
				t.Parallel()
				var text string
				sends, taken := 0, 0
				config := trusting((&recorder{}).config())
				config.Intake.RefuseBareLF = strict
				config.Limits.Faults, config.Limits.Connections, config.Limits.PerAddress = 1e6, 1e6, 1e6
				config.Send = func(ctx context.Context, s mailer.Submission) (mailer.Receipt, error) {
					sends++
					for _, offer := range offers {
						wire, err := onward(ctx, s, offer)
						if err != nil {
							t.Errorf("%q: the mailer refuses what was taken: %v", text, err)
							continue
						}
						for _, r := range mailertest.Receivers {
							seen, named, rubbish := r.Read(wire)
							if len(seen) != 1 || len(rubbish) > 0 || len(named) != 1 || strings.Contains(named[0], "victim@") {
								t.Errorf("%q: the %s server sees %d transactions, %q and %q\n%q", text, r.Name, len(seen), named, rubbish, wire)
							}
						}
					}
					return mailer.Receipt{ID: s.ID, Status: mailer.StatusQueued}, nil
				}
				s := New(config)
				l := newMemory()
				go s.Serve(l)
				defer l.Close()
				most := 4
				if tt.text == "" {
					most = 2
				}
				for _, text = range mailertest.Smuggled(most) {
					sends = 0
					if honest(t, l, text, tt.greeting, tt.from, tt.to, tt.text) {
						taken++
					}
					if sends > 1 {
						t.Fatalf("%q: %d messages", text, sends)
					}
				}
				if taken == 0 && tt.name == "body" {
					t.Error("all were refused, which is not what this is about")
				}
			})
		}
	}
}

// honest is a client that knows what CRLF is to SMTP, and no more. It reports
// whether the message was taken.
func honest(t *testing.T, l *memory, text, greeting, from, to, format string) bool {
	fill := func(format, usual string) string {
		if format == "" {
			return usual
		}
		return strings.ReplaceAll(strings.ReplaceAll(format, "%s", text), "\r\n", " ")
	}
	content := letter
	if format != "" {
		content = strings.ReplaceAll(format, "%s", text)
	}
	content = strings.ReplaceAll("\r\n"+content, "\r\n.", "\r\n..")[2:]
	if !strings.HasSuffix(content, "\r\n") {
		content += "\r\n"
	}
	c := newTalk(t, l.dial("192.0.2.1"))
	defer c.conn.Close()
	if _, ok := c.try(""); !ok {
		t.Fatalf("%q: no greeting", text)
	}
	for _, line := range []string{
		"EHLO " + fill(greeting, "client.example.com"), "MAIL FROM:<" + fill(from, "a@example.com") + ">", "RCPT TO:<" + fill(to, "b@example.net") + ">", "DATA", content + ".",
	} {
		if _, ok := c.try(line + "\r\n"); !ok {
			return false
		}
	}
	// In step: there is one reply to each.
	reply, ok := c.try("NOOP\r\n")
	if !ok || !strings.HasPrefix(reply, "250 2.0.0 I have") {
		t.Fatalf("%q: out of step: %q", text, reply)
	}
	return true
}

// try says something and reports whether it was taken.
func (c *talk) try(s string) (reply string, ok bool) {
	if _, err := io.WriteString(c.conn, s); err != nil {
		return "", false
	}
	for {
		line, err := c.r.ReadString('\n')
		if err != nil || len(line) < 4 {
			return line, false
		}
		if line[3] == ' ' {
			return line, line[0] == '2' || line[0] == '3'
		}
	}
}
