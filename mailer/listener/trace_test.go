package listener

import (
	"crypto/tls"
	"io"
	"net/mail"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestTrace: each message tells how it came, and nothing that is nobody's business.
func TestTrace(t *testing.T) {
	t.Parallel()
	server, pool := mailertest.NewCertificate(t)
	for _, tt := range []struct {
		name     string
		lead     []string // lines and replies
		tls      bool
		mail     string
		from, by string
	}{
		{"plain", []string{"EHLO scanner.example.com", "250"}, false, "MAIL FROM:<a@example.com>", "scanner.example.com", "ESMTP"},
		{"signed in", []string{"EHLO BRN30055C", "250", authPlain, "235"}, false, "MAIL FROM:<a@example.com>", "BRN30055C", "ESMTPA"},
		{"TLS", []string{"EHLO a.example", "250"}, true, "MAIL FROM:<a@example.com>", "a.example", "ESMTPS"},
		{"TLS, signed in", []string{"EHLO a.example", "250", authPlain, "235"}, true, "MAIL FROM:<a@example.com>", "a.example", "ESMTPSA"},
		{"TLS, signed in, UTF-8", []string{"EHLO a.example", "250", authPlain, "235"}, true, "MAIL FROM:<a@example.com> SMTPUTF8", "a.example", "UTF8SMTPSA"},
		{"HELO", []string{"HELO a.example", "250"}, false, "MAIL FROM:<a@example.com>", "a.example", "SMTP"},
		{"no greeting", nil, false, "MAIL FROM:<a@example.com>", "unknown", "SMTP"},
		{"an address", []string{"EHLO 192.168.1.5", "250"}, false, "MAIL FROM:<a@example.com>", "unknown", "ESMTP"},
		{"an address in brackets", []string{"EHLO [192.168.1.5]", "250"}, false, "MAIL FROM:<a@example.com>", "unknown", "ESMTP"},
		{"IPv6", []string{"EHLO [IPv6:fd00::5]", "250"}, false, "MAIL FROM:<a@example.com>", "unknown", "ESMTP"},
		{"a comment", []string{"EHLO a(b)", "250"}, false, "MAIL FROM:<a@example.com>", "unknown", "ESMTP"},
		{"a clause", []string{"EHLO a by evil.example; x", "250"}, false, "MAIL FROM:<a@example.com>", "a", "ESMTP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			config := trusting(r.config())
			config.TLS = server
			c := dialTalk(t, listen(t, New(config)))
			c.hear("220")
			if tt.tls {
				c.say("EHLO before.example", "250")
				c.startTLS(clientTLS(pool))
			}
			c.say(tt.lead...)
			c.say(tt.mail, "250", "RCPT TO:<secret@example.net>", "250", "DATA", "354")
			c.write(letter + ".\r\n")
			_, id, _ := strings.Cut(c.hear("250 2.0.0 Ok: queued as "), "queued as ")
			got := r.sent()[0].trace
			m, err := mail.ReadMessage(strings.NewReader(got + "\r\n"))
			if err != nil {
				t.Fatal(err)
			}
			stamp, date, _ := strings.Cut(m.Header.Get("Received"), "; ")
			want := "from " + tt.from + " by relay.example.com with " + tt.by + " id " + id
			if tt.tls {
				want += " tls " + tls.CipherSuiteName(c.conn.(*tls.Conn).ConnectionState().CipherSuite)
			}
			if stamp != want {
				t.Errorf("got %q, want %q", stamp, want)
			}
			if at, err := mail.ParseDate(date); err != nil || time.Since(at).Abs() > time.Minute {
				t.Errorf("date %q: %v", date, err)
			}
			if strings.Contains(got, "secret") || regexp.MustCompile(`\d\.\d+\.\d|::`).MatchString(got) {
				t.Errorf("it tells too much: %q", got)
			}
		})
	}
}

// TestLoop: a message that comes again and again ends somewhere.
func TestLoop(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := dialTalk(t, listen(t, New(trusting(r.config())))).greeted()
	text := letter
	for range 100 {
		c.send(text+".\r\n", "250")
		got := r.sent()
		last := got[len(got)-1]
		text = last.trace + last.text
	}
	c.send(text+".\r\n", "250")
	c.send(r.sent()[0].trace+text+".\r\n", "554 5.4.6 The message goes in a circle")
	if n := len(r.sent()); n != 101 {
		t.Errorf("%d sent", n)
	}
	c.say("QUIT", "221")
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Error(err)
	}
}
