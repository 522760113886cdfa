package listener

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

func clientTLS(pool *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: pool, ServerName: "mail.example.com"}
}

// TestStartTLS: what was said before does not count behind it, and nothing may lie
// between.
func TestStartTLS(t *testing.T) {
	t.Parallel()
	server, pool := mailertest.NewCertificate(t)
	r := &recorder{}
	config := r.config()
	config.TLS, config.PlaintextFrom = server, nil
	addr := listen(t, New(config))

	c := dialTalk(t, addr)
	c.hear("220")
	c.say("EHLO before.example.com", "250")
	c.startTLS(clientTLS(pool))
	c.say("STARTTLS", "503 5.5.1 TLS is on already")
	offer := c.say("EHLO behind.example.com", "250")
	if strings.Contains(offer, "STARTTLS") || !strings.Contains(offer, "AUTH PLAIN LOGIN") || !strings.Contains(offer, "REQUIRETLS") {
		t.Errorf("offered %q", offer)
	}
	c.say(authPlain, "235")
	c.say("MAIL FROM:<printer@example.com> REQUIRETLS", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
	c.write(letter + ".\r\n")
	c.hear("250")
	c.say("QUIT", "221")
	c.gone()
	ended := r.sessions()
	if len(ended) != 1 || ended[0].TLS == nil || ended[0].ServerName != "mail.example.com" || ended[0].Greeting != "behind.example.com" ||
		ended[0].Mechanism != "PLAIN" || ended[0].End != "quit" || ended[0].Messages != 1 || ended[0].Identity.Name != userName {
		t.Errorf("ended %+v", ended)
	}
	if got := r.sent(); !got[0].Options.RequireTLS || got[0].text != letter {
		t.Errorf("sent %+v", got)
	}

	for _, behind := range []string{"\r\nEHLO x\r\n", "\r\nRSET\r\nMAIL FROM:<a@example.com>\r\n", "\r\n\x16\x03\x01"} {
		c := dialTalk(t, addr).greeted()
		c.write("STARTTLS" + behind)
		c.hear("501 5.5.2 Nothing may be sent behind STARTTLS")
		c.gone()
	}

	for _, odd := range []string{"starttls", "STARTTLS ", "STARTTLS now"} {
		c := dialTalk(t, addr).greeted()
		c.say(odd, "220")
		if err := tls.Client(c.conn, clientTLS(pool)).Handshake(); err != nil {
			t.Errorf("%q: %v", odd, err)
		}
	}
	c = dialTalk(t, addr).greeted()
	c.say("STARTTLSX", "500 5.5.2 ", "NOOP", "250")

	c = dialTalk(t, addr).greeted()
	c.startTLS(clientTLS(pool))
	c.say("MAIL FROM:<a@example.com>", "530", "QUIT", "221")
	c.gone()
	if ended := r.sessions(); ended[len(ended)-1].Greeting != "" {
		t.Errorf("kept what was said before TLS: %+v", ended[len(ended)-1])
	}

	// A handshake that comes too early is told as what it is.
	c = dialTalk(t, addr)
	err := tls.Client(c.conn, clientTLS(pool)).Handshake()
	_, _ = io.ReadAll(c.conn)
	if ended := r.sessions(); err == nil || ended[len(ended)-1].End != "tls_too_early" {
		t.Errorf("%v, %+v", err, ended)
	}

	// A handshake that fails ends it.
	c = dialTalk(t, addr).greeted()
	c.say("STARTTLS", "220")
	c.write("MAIL FROM:<a@example.com>\r\n")
	c.r.ReadString(0)
}

// TestStartTLSOnlyBefore: not within a transaction, nor where somebody signed in.
func TestStartTLSOnlyBefore(t *testing.T) {
	t.Parallel()
	server, _ := mailertest.NewCertificate(t)
	r := &recorder{}
	config := trusting(r.config())
	config.TLS = server
	addr := listen(t, New(config))
	c := dialTalk(t, addr).greeted()
	c.say("MAIL FROM:<printer@example.com>", "250", "STARTTLS", "503 5.5.1 ", "AUTH LOGIN", "503 5.5.1 AUTH comes before MAIL")
	c.say("RSET", "250", authPlain, "235", "STARTTLS", "503 5.5.1 ", authPlain, "503")
	if offer := dialTalk(t, listen(t, New(trusting(r.config())))).greeted().say("STARTTLS", "502 5.5.1 "); !strings.Contains(offer, "turn it off") {
		t.Error(offer)
	}
}

// TestImplicit begins with the handshake, without SNI too.
func TestImplicit(t *testing.T) {
	t.Parallel()
	server, pool := mailertest.NewCertificate(t)
	r := &recorder{}
	config := r.config()
	config.TLS, config.Implicit, config.PlaintextFrom = server, true, nil
	addr := listen(t, New(config))
	for _, name := range []string{"mail.example.com", "127.0.0.1"} {
		client := clientTLS(pool)
		client.ServerName = name
		conn, err := tls.Dial("tcp", addr, client)
		if err != nil {
			t.Fatal(err)
		}
		c := newTalk(t, conn).signedIn()
		c.send(letter+".\r\n", "250")
		c.say("QUIT", "221")
		c.gone()
	}
	got := r.sessions()
	if len(got) != 2 || got[0].ServerName != "mail.example.com" || got[1].ServerName != "" {
		t.Errorf("ended %+v", got)
	}
	c := dialTalk(t, addr) // no TLS
	c.write("EHLO x\r\n")
	rest, _ := c.r.ReadString(0)
	if strings.Contains(rest, "220") {
		t.Errorf("got %q", rest)
	}
}
