package caddymodule

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// beside puts lines into the global options, and goes on with the app's.
func beside(lines string) string { return "}\nskip_install_trust\n" + lines + "\noauth_mail {\n" }

// sinkTenants are the tenants `default` and `lab` at a mail server that takes all.
func sinkTenants(t *testing.T) (*mailertest.Sink, string) {
	t.Helper()
	sink := &mailertest.Sink{Keep: true}
	host, port := sink.Listen(t)
	at := net.JoinHostPort(host, fmt.Sprint(port))
	return sink, tenantAt(at, "senders *@example.com") +
		"tenant lab {\nserver plaintext://" + at + "\nauth none\nfrom lab@example.com\nsenders lab@example.com copier@example.com\n}\n"
}

// roots waits for Caddy's own authority.
func (p *caddyProcess) roots() *x509.CertPool {
	p.t.Helper()
	pool := x509.NewCertPool()
	await(p.t, "the authority's certificate", func() bool {
		pem, err := os.ReadFile(filepath.Join(p.dir, "storage", "pki", "authorities", "local", "root.crt"))
		return err == nil && pool.AppendCertsFromPEM(pem)
	})
	return pool
}

// clientTLS trusts roots for the host. Without sni, it does not tell the server which
// host it wants.
func clientTLS(roots *x509.CertPool, host string, sni bool) *tls.Config {
	if sni {
		return &tls.Config{RootCAs: roots, ServerName: host, NextProtos: []string{"smtp"}}
	}
	return &tls.Config{
		InsecureSkipVerify: true, // for lack of a name; it is verified here
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host})
			return err
		},
	}
}

// dialSMTP begins a session, with STARTTLS or TLS from the start where there is a
// configuration. It tries again while Caddy is still starting.
func dialSMTP(t *testing.T, address string, config *tls.Config, implicit bool) *smtp.Client {
	t.Helper()
	var c *smtp.Client
	var err error
	for range 50 {
		c, err = openSMTP(address, config, implicit)
		if err == nil || !strings.Contains(err.Error(), "tls:") && !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		<-time.After(100 * time.Millisecond) // another process: there is nothing else to wait on
	}
	if err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func openSMTP(address string, config *tls.Config, implicit bool) (*smtp.Client, error) {
	nc, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	switch {
	case implicit:
		conn := tls.Client(nc, config)
		if err := conn.Handshake(); err != nil {
			nc.Close()
			return nil, err
		}
		return greeted(smtp.NewClient(conn))
	case config != nil:
		c, err := smtp.NewClientStartTLS(nc, config)
		if err != nil {
			return nil, err
		}
		return greeted(c)
	}
	return greeted(smtp.NewClient(nc))
}

func greeted(c *smtp.Client) (*smtp.Client, error) {
	if err := c.Hello("printer.test"); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// sendMail sends a message, and returns the last reply.
func sendMail(c *smtp.Client, from, content string) (string, error) {
	if err := c.Mail(from, nil); err != nil {
		return "", err
	}
	if err := c.Rcpt("a@example.net", nil); err != nil {
		return "", err
	}
	w, err := c.Data()
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(w, content); err != nil {
		return "", err
	}
	r, err := w.CloseWithResponse()
	if err != nil {
		return "", err
	}
	return r.StatusText, nil
}

// beginMail begins a message. It ends when the content is closed.
func beginMail(t *testing.T, c *smtp.Client) (content io.WriteCloser) {
	t.Helper()
	if err := errors.Join(c.Mail("sender@example.com", nil), c.Rcpt("a@example.net", nil)); err != nil {
		t.Fatal(err)
	}
	content, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(content, "From: sender@example.com\r\n\r\n")
	return content
}

// mustSend sends a message that is accepted, and returns its id.
func mustSend(t *testing.T, c *smtp.Client, from, content string) string {
	t.Helper()
	words, err := sendMail(c, from, content)
	if err != nil {
		t.Fatalf("sending as %s: %v", from, err)
	}
	_, id, ok := strings.Cut(words, "queued as ")
	if !ok {
		t.Fatalf("the reply names no id: %q", words)
	}
	return id
}

func code(err error) string {
	e, ok := errors.AsType[*smtp.SMTPError](err)
	if !ok {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%d %d.%d.%d", e.Code, e.EnhancedCode[0], e.EnhancedCode[1], e.EnhancedCode[2])
}

const scan = "From: Scanner <scanner@example.com>\r\nTo: a@example.net\r\nSubject: scan\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@printer>\r\n\r\n..page\r\n"

// argonHash is the hash of "ops-password" by argon2id, with parameters for tests.
const argonHash = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$xBmlBcnq1YEpeN8FLVcAynGexM8n2P1+m3f9d8/LNEY"

// TestSMTPEntrances: each mechanism, kind of TLS and kind of password, users, networks
// and tenants, as real clients use them.
func TestSMTPEntrances(t *testing.T) {
	t.Parallel()
	sink, tenants := sinkTenants(t)
	const host, labHost, long = "smtp.internal.test", "lab.internal.test", "a-password-of-24-characters"
	starttls, implicit, network := freeAddress(t), freeAddress(t), freeAddress(t)
	users := `
		hostname ` + host + `
		tenant default
		sni ` + labHost + ` lab
		user Copier {
			password ` + opsHash + `
			rewrite_from copier@example.com
		}
		user argon {
			password ` + argonHash + `
			tenant lab
		}
		user long {
			password ` + long + `
			from alerts@example.com
			tenant default
		}
		user elsewhere {
			password ` + opsHash + `
			networks 10.0.0.0/8
		}
`
	p := startCaddy(t, tenants+beside("")+
		"smtp "+starttls+" {\ntls starttls internal\n"+users+"}\n"+
		"smtp "+implicit+" {\ntls implicit internal\n"+users+"}\n"+
		"smtp "+network+" {\ntls off\nnetwork 127.0.0.0/8 {\ntenant lab\nfrom lab@example.com\nrewrite_from lab@example.com\n}\n}\n")
	roots := p.roots()
	for i, tt := range []struct {
		name, address  string
		tls            *tls.Config
		implicit       bool
		auth           sasl.Client
		from, content  string
		wantFrom, want string // the envelope's sender, and what the content has
		tenant         string
	}{
		{
			"STARTTLS, PLAIN, From rewritten", starttls, clientTLS(roots, host, true), false, sasl.NewPlainClient("", "copier", "ops-password"),
			"scanner@example.com", scan, "copier@example.com", "From: Scanner <copier@example.com>\r\n", "default",
		},
		{
			"no SNI, LOGIN", starttls, clientTLS(roots, host, false), false, sasl.NewLoginClient("COPIER", "ops-password"),
			"", scan, "copier@example.com", "Reply-To: Scanner <scanner@example.com>\r\n", "default",
		},
		{
			"TLS from the start, argon2id", implicit, clientTLS(roots, host, true), true, sasl.NewPlainClient("", "argon", "ops-password"),
			"lab@example.com", strings.Replace(scan, "scanner@", "lab@", 1), "lab@example.com", "\r\n\r\n..page\r\n", "lab",
		},
		{
			"no SNI, TLS from the start, tenant's own", implicit, clientTLS(roots, host, false), true, sasl.NewLoginClient("long", long),
			"root", "Subject: cron\r\n\r\nx\r\n", "alerts@example.com", "From: alerts@example.com\r\n", "default",
		},
		{
			"tenant by SNI", implicit, clientTLS(roots, labHost, true), true, sasl.NewPlainClient("", "copier", "ops-password"),
			"lab@example.com", scan, "copier@example.com", "From: Scanner <copier@example.com>\r\n", "lab",
		},
		{"another name", implicit, &tls.Config{ServerName: "alias.internal.test", InsecureSkipVerify: true}, true, nil, "a@example.com", scan, "", "530 5.7.0", ""},
		{"a user from elsewhere", starttls, clientTLS(roots, host, true), false, sasl.NewPlainClient("", "elsewhere", "ops-password"), "a@example.com", scan, "", "535 5.7.8", ""},
		{
			"a network", network, nil, false, nil,
			"scanner@example.com", "Subject: alarm\r\n\r\nx\r\n", "lab@example.com", "From: lab@example.com\r\n", "lab",
		},
		{"no sign-in", starttls, clientTLS(roots, host, true), false, nil, "lab@example.com", scan, "", "530 5.7.0", ""},
		{"no TLS", starttls, nil, false, sasl.NewPlainClient("", "copier", "ops-password"), "lab@example.com", scan, "", "538 5.7.11", ""},
		{"another's password", starttls, clientTLS(roots, host, true), false, sasl.NewPlainClient("", "copier", long), "a@example.com", scan, "", "535 5.7.8", ""},
		{"sender of somebody else", implicit, clientTLS(roots, host, true), true, sasl.NewPlainClient("", "argon", "ops-password"), "office@example.com", scan, "", "553 5.7.1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(sink.Messages())
			c := dialSMTP(t, tt.address, tt.tls, tt.implicit)
			var err error
			if tt.auth != nil {
				err = c.Auth(tt.auth)
			}
			if tt.wantFrom == "" {
				if err == nil {
					_, err = sendMail(c, tt.from, tt.content)
				}
				if got := code(err); got != tt.want {
					t.Fatalf("case %d: %s (%v), want %s", i, got, err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			id := mustSend(t, c, tt.from, tt.content)
			await(t, "the message arrives", func() bool { return len(sink.Messages()) == before+1 })
			m := sink.Messages()[before]
			if m.From != tt.wantFrom || !strings.Contains(m.Data, tt.want) {
				t.Errorf("from %s, want %s: %q", m.From, tt.wantFrom, m.Data)
			}
			var v messageView
			p.ops(&v, "GET", "/outbox/messages/"+id)
			if v.Tenant != tt.tenant || v.Caller.Kind != "user" && v.Caller.Kind != "network" {
				t.Errorf("tenant %s, caller %+v", v.Tenant, v.Caller)
			}
			_ = c.Quit()
		})
	}
	if n := len(sink.Messages()); n != 6 {
		t.Errorf("%d messages", n)
	}

	var clients struct{ Clients []clientView }
	await(t, "the inventory knows them", func() bool {
		p.ops(&clients, "GET", "/inventory")
		return len(clients.Clients) == 5 // the copier at both addresses
	})
	for _, c := range clients.Clients {
		if c.Greeting != "printer.test" || c.Address != "127.0.0.1" || c.FirstSeen.IsZero() || c.LastSeen.Before(c.FirstSeen) {
			t.Errorf("client %+v", c)
		}
		if c.Listen == starttls && (c.Name != "Copier" || c.Messages != 2 || c.TLS != "TLS 1.3" || c.Mechanism != "LOGIN" || c.Tenant != "default") {
			t.Errorf("client %+v", c)
		}
		if c.Kind == "network" && (c.Name != "127.0.0.0/8" || c.TLS != "" || c.Mechanism != "") {
			t.Errorf("client %+v", c)
		}
	}
	for sample, want := range map[string]float64{
		`caddy_oauth_mail_smtp_messages_total{result="accepted"}`:        6,
		`caddy_oauth_mail_smtp_messages_total{result="failed"}`:          1,
		`caddy_oauth_mail_smtp_sessions_total{end="quit",tls="TLS 1.3"}`: 5,
		`caddy_oauth_mail_smtp_sessions_total{end="quit",tls="none"}`:    1,
		`caddy_oauth_mail_smtp_refusals_total{command="mail"}`:           2,

		`caddy_oauth_mail_smtp_caller_messages_total{caller="user Copier",mechanism="LOGIN",tls="TLS 1.3"}`:     1,
		`caddy_oauth_mail_smtp_caller_messages_total{caller="user Copier",mechanism="PLAIN",tls="TLS 1.3"}`:     2,
		`caddy_oauth_mail_smtp_caller_messages_total{caller="network 127.0.0.0/8",mechanism="none",tls="none"}`: 1,
		`caddy_oauth_mail_smtp_wrong_passwords_total`:                                                           2,
	} {
		await(t, sample, func() bool { return p.metric(sample) == want })
	}
	for _, want := range []string{`"greeting":"printer.test"`, `"tls":"TLS 1.3"`, `"mechanism":"LOGIN"`, `"caller":"user Copier"`, `"messages":1`, `"caller":"network 127.0.0.0/8"`} {
		await(t, "the log of sessions has "+want, func() bool {
			return strings.Contains(grepLines(p.output.String(), `"SMTP session ended"`), want)
		})
	}
	await(t, "the log has the wrong passwords", func() bool { return strings.Count(p.output.String(), `"wrong SMTP password"`) >= 2 })
	if at := p.metric(`caddy_oauth_mail_smtp_caller_last_seen_timestamp_seconds{caller="user Copier"}`); time.Since(time.Unix(int64(at), 0)).Abs() > time.Minute {
		t.Errorf("the copier was last seen at %v", at)
	}
	log := p.output.String()
	if strings.Contains(log, "ops-password") || strings.Contains(log, long) && !strings.Contains(log, "a secret stands in the configuration in clear") {
		t.Error("a password is in the log")
	}
	if lines := grepLines(log, `"wrong SMTP password"`); strings.Count(lines, "\n") != 2 || !strings.Contains(lines, `"user":"elsewhere"`) {
		t.Errorf("wrong passwords in the log:\n%s", lines)
	}
}

// TestSMTPCertificate: sessions have a certificate by Caddy's policies, with and
// without SNI, over reloads and renewals.
func TestSMTPCertificate(t *testing.T) {
	t.Parallel()
	_, tenants := sinkTenants(t)
	const host = "smtp.renewed.test"
	address := freeAddress(t)
	p := startCaddy(t, tenants+beside("cert_issuer internal {\nlifetime 5s\n}\nrenew_interval 1s")+
		"smtp "+address+" {\nhostname "+host+"\nnetwork 127.0.0.1 {\ntenant default\n}\n}\n")
	roots := p.roots()
	serial := func(sni bool) (string, *smtp.Client) {
		c := dialSMTP(t, address, clientTLS(roots, host, sni), false)
		state, ok := c.TLSConnectionState()
		if !ok || state.NegotiatedProtocol != "" {
			t.Fatalf("TLS %+v", state)
		}
		return state.PeerCertificates[0].SerialNumber.String(), c
	}
	first, open := serial(true)
	defer open.Close()
	await(t, "the certificate is renewed", func() bool {
		now, c := serial(false)
		c.Close()
		return now != first
	})
	p.mustReload()
	for _, sni := range []bool{true, false} {
		_, c := serial(sni)
		mustSend(t, c, "sender@example.com", "From: sender@example.com\r\n\r\nx\r\n")
		c.Close()
	}
	mustSend(t, open, "sender@example.com", "From: sender@example.com\r\n\r\nafter the renewal\r\n")
	if n := strings.Count(p.output.String(), "acme"); strings.Contains(p.output.String(), "acme-v02") {
		t.Errorf("a public authority was asked (%d)", n)
	}
}

// TestSMTPCertificateOfItself: names that no public authority serves have certificates
// of Caddy's own one without being told so, whatever public names have.
func TestSMTPCertificateOfItself(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, global string }{
		{"no setting", ""},
		{"an address for public authorities", "email ops@example.com"},
		{"a public authority", "cert_issuer acme"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, tenants := sinkTenants(t)
			address := freeAddress(t)
			p := startCaddy(t, tenants+beside(tt.global)+"smtp "+address+" {\nhostname localhost\nnetwork 127.0.0.1 {\ntenant default\n}\n}\n")
			c := dialSMTP(t, address, clientTLS(p.roots(), "localhost", true), false)
			mustSend(t, c, "sender@example.com", "From: sender@example.com\r\n\r\nx\r\n")
		})
	}
}

// TestSMTPReloads: over reloads, failed ones among them, the socket stays, a message
// that is on its way arrives, and nothing is left behind. It counts files in /proc.
func TestSMTPReloads(t *testing.T) {
	t.Parallel()
	sink, tenants := sinkTenants(t)
	address, second, third := freeAddress(t), freeAddress(t), freeAddress(t)
	entrance := func(at, more string) string {
		return "smtp " + at + " {\ntls off\n" + more + "network 127.0.0.1 {\ntenant default\n}\n}\n"
	}
	usual := entrance(address, "")
	p := startCaddy(t, tenants+usual)
	p.mustReload()
	running, files := p.figures()
	mail := func(at string) *smtp.Client {
		t.Helper()
		c, err := openSMTP(at, nil, false) // once: the socket must be there at any time
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	slow := mail(address)
	content := beginMail(t, slow)
	sent := 0
	for i := range 50 {
		switch i % 5 {
		case 1:
			p.mustReload(usual, usual+entrance(second, ""))
		case 2:
			p.mustReload(usual, entrance(address, "max_recipients 7\n"))
		case 3:
			if status, body := p.reload(usual, usual+entrance(third, ""), "redirect_base", "outbox bbolt /dev/null/outbox\nredirect_base"); status != 400 {
				t.Fatalf("an outbox that cannot be: status %d: %s", status, body)
			}
		case 4:
			if status, body := p.reload(usual, entrance(address, "max_size 1KiB\n"), "\trespond 404\n}\n", "\trespond 404\n}\nhttp://"+sinkAddress(t)+" {\n\trespond 404\n}\n"); status != 400 {
				t.Fatalf("a listener that cannot be: status %d: %s", status, body)
			}
		default:
			p.mustReload()
		}
		fmt.Fprintf(content, "line %d\r\n", i)
		c := mail(address)
		if _, ok := c.MaxMessageSize(); !ok {
			t.Error("no size is offered")
		}
		if n, _ := c.MaxMessageSize(); n != 36<<20 {
			t.Errorf("reload %d: a message may have %d octets", i, n)
		}
		mustSend(t, c, "sender@example.com", "From: sender@example.com\r\n\r\nx\r\n")
		sent++
		if err := c.Quit(); err != nil {
			t.Error(err)
		}
	}
	p.mustReload()
	if err := content.Close(); err != nil {
		t.Errorf("the message that was on its way: %v", err)
	}
	slow.Close()
	await(t, "all arrive", func() bool { return len(sink.Messages()) == sent+1 })
	found := false
	for _, m := range sink.Messages() {
		found = found || strings.Contains(m.Data, "line 0\r\n") && strings.Contains(m.Data, "line 49\r\n")
	}
	if !found {
		t.Error("the message that was on its way is not whole")
	}
	for _, gone := range []string{second, third} {
		await(t, gone+" is closed", func() bool {
			c, err := net.Dial("tcp", gone)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	}
	var now, open int
	await(t, "what reloads left has ended", func() bool {
		now, open = p.figures()
		return now <= running+2 && open <= files+2
	})
	t.Logf("%d goroutines and %d files before, %d and %d after", running, files, now, open)
}

// sinkAddress is an address that somebody else listens at.
func sinkAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// TestSMTPWrongPassword: a wrong password costs time, is logged without a trace of it,
// and touches nothing upstream.
func TestSMTPWrongPassword(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	s := startOAuthSite(t, "smtp "+address+" {\ntls off\nplaintext_auth 127.0.0.1\nuser printer {\npassword "+opsHash+"\ntenant default\n}\n}\n")
	asked := len(s.idp.Requests())
	const guess = "a-guess-that-is-wrong"
	c := dialSMTP(t, address, nil, false)
	began := time.Now()
	for try, want := range []string{"535 5.7.8", "535 5.7.8", "421 4.7.0"} {
		user := "printer"
		if try == 1 {
			user = "nobody-" + guess
		}
		if got := code(c.Auth(sasl.NewLoginClient(user, guess))); got != want {
			t.Errorf("try %d: %s, want %s", try, got, want)
		}
	}
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("three tries took %v", took)
	}
	if n := len(s.idp.Requests()); n != asked {
		t.Errorf("%d requests went to the provider", n-asked)
	}
	if l := s.mail.Logins(); len(l) != 0 {
		t.Errorf("the mail server saw %+v", l)
	}
	await(t, "the log has the wrong passwords", func() bool { return strings.Count(s.output.String(), `"wrong SMTP password"`) >= 3 })
	log := s.output.String()
	if strings.Contains(log, guess) {
		t.Errorf("what was typed is in the log:\n%s", grepLines(log, guess))
	}
	if n := strings.Count(grepLines(log, `"wrong SMTP password"`), `"remote_ip":"127.0.0.1"`); n != 3 {
		t.Errorf("%d lines about wrong passwords:\n%s", n, grepLines(log, "wrong"))
	}
	s.awaitLog("passwords for SMTP may travel without encryption")
}

// TestSMTPQueuedUntilSignIn: what comes by SMTP while nobody has signed in upstream is
// accepted and kept, and goes when somebody has.
func TestSMTPQueuedUntilSignIn(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	s := startOAuthSite(t, "smtp "+address+" {\ntls off\nnetwork 127.0.0.1 {\ntenant default\n}\n}\n")
	c := dialSMTP(t, address, nil, false)
	content := "From: " + mailbox + "\r\n\r\nx\r\n"
	first := mustSend(t, c, mailbox, content)
	await(t, "the tenant is parked", func() bool {
		var box outboxView
		s.ops(&box, "GET", "/outbox")
		return len(box.Tenants) == 1 && box.Tenants[0].State == "parked"
	})
	s.mustReload()
	c = dialSMTP(t, address, nil, false)
	sent := 1
	await(t, "the log tells that messages wait", func() bool {
		mustSend(t, c, mailbox, content)
		sent++
		return strings.Contains(s.output.String(), "messages that come by SMTP wait in the outbox")
	})
	s.signIn()
	await(t, "all are sent", func() bool { return len(s.mail.Messages()) == sent })
	var m messageView
	s.ops(&m, "GET", "/outbox/messages/"+first)
	if m.Caller.Kind != "network" || m.Caller.Name != "127.0.0.1/32" {
		t.Errorf("caller %+v", m.Caller)
	}
}

// TestSMTPWithoutOutbox: the client gets the mail server's own words.
func TestSMTPWithoutOutbox(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{"RCPT": {"550 5.1.1 no such user here", ""}}}
	address := freeAddress(t)
	startCaddy(t, withoutOutbox+scripted(t, script)+"smtp "+address+" {\ntls off\nnetwork 127.0.0.1 {\ntenant default\n}\n}\n")
	c := dialSMTP(t, address, nil, false)
	content := "From: sender@example.com\r\n\r\nx\r\n"
	_, err := sendMail(c, "sender@example.com", content)
	if code(err) != "550 5.1.1" || !strings.Contains(err.Error(), "no such user here") {
		t.Errorf("refused with %v", err)
	}
	if words, err := sendMail(c, "sender@example.com", content); err != nil || !strings.Contains(words, "sent as ") {
		t.Errorf("%q, %v", words, err)
	}
}

// TestSMTPRevoked: who is taken out of the configuration sends no further message,
// also in a session that is open. Others go on.
func TestSMTPRevoked(t *testing.T) {
	t.Parallel()
	_, tenants := sinkTenants(t)
	address := freeAddress(t)
	const other = "$2a$04$RbAFPPsTv5Eb8x1m.6N8/eJ1wE4njy0qDlQ/7V78PC90gLUx/Q1bT"
	p := startCaddy(t, tenants+"smtp "+address+" {\ntls off\nplaintext_auth 127.0.0.1\ntenant default\nuser a {\npassword "+opsHash+"\n}\nuser b {\npassword "+opsHash+"\n}\n}\n")
	a, b := dialSMTP(t, address, nil, false), dialSMTP(t, address, nil, false)
	content := "From: sender@example.com\r\n\r\nx\r\n"
	for user, c := range map[string]*smtp.Client{"a": a, "b": b} {
		if err := c.Auth(sasl.NewPlainClient("", user, "ops-password")); err != nil {
			t.Fatal(err)
		}
		mustSend(t, c, "sender@example.com", content)
	}
	p.mustReload("user a {\npassword "+opsHash, "user a {\npassword "+other)
	if err := a.Mail("sender@example.com", nil); code(err) != "421 4.7.0" {
		t.Errorf("a, whose password has changed: %v", err)
	}
	mustSend(t, b, "sender@example.com", content)
	p.mustReload("user b {\npassword "+opsHash+"\n}", "network 127.0.0.1")
	if err := b.Mail("sender@example.com", nil); code(err) != "421 4.7.0" {
		t.Errorf("b, who is no longer a user: %v", err)
	}
	mustSend(t, dialSMTP(t, address, nil, false), "sender@example.com", content)
}

// TestSMTPStop: a stop lets a message in that is on its way, and tells those that wait
// for nothing to come back.
func TestSMTPStop(t *testing.T) {
	t.Parallel()
	_, tenants := sinkTenants(t)
	address := freeAddress(t)
	p := startCaddy(t, tenants+"smtp "+address+" {\ntls off\nnetwork 127.0.0.1 {\ntenant default\n}\n}\n")
	idle, busy := dialSMTP(t, address, nil, false), dialSMTP(t, address, nil, false)
	content := beginMail(t, busy)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var told error
	await(t, "the idle client is told", func() bool {
		told = idle.Noop()
		return told != nil
	})
	if code(told) != "421 4.3.2" {
		t.Errorf("the idle client was told %v", told)
	}
	fmt.Fprint(content, "the end\r\n")
	if err := content.Close(); err != nil {
		t.Errorf("the message that was on its way: %v", err)
	}
	busy.Close()
	p.wait()
	p.start()
	var page messagesView
	await(t, "the message is there", func() bool {
		p.ops(&page, "GET", "/outbox/messages")
		return len(page.Messages) == 1 && page.Messages[0].State == "sent"
	})
}

// TestSMTPValidate: to validate a configuration needs no address; to run it does.
func TestSMTPValidate(t *testing.T) {
	t.Parallel()
	_, tenants := sinkTenants(t)
	taken := sinkAddress(t)
	p := configureCaddy(t, tenants+"smtp "+taken+" {\ntls off\nnetwork 127.0.0.1 {\ntenant default\n}\n}\n", "")
	if out, err := p.command("validate", "--config", p.config, "--adapter", "caddyfile").CombinedOutput(); err != nil {
		t.Errorf("validate: %v: %s", err, out)
	}
	out, err := p.command("run", "--config", p.config, "--adapter", "caddyfile").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "smtp "+taken+": listen tcp "+taken) {
		t.Errorf("run: %v: %s", err, out)
	}
}

// TestSMTPInJSON: what the documentation says of the JSON form.
func TestSMTPInJSON(t *testing.T) {
	t.Parallel()
	var a App
	if err := json.Unmarshal([]byte(`{"smtp":[{"listen":[":587"],"users":{"u":{"password":"x","tenant":"t","rewrite_from":"a@example.com"}},"networks":[{"ranges":["::1"],"tenant":"t"}]}]}`), &a); err != nil {
		t.Fatal(err)
	}
	if s := a.SMTP[0]; s.Users["u"].Tenant != "t" || s.Users["u"].RewriteFrom != "a@example.com" || s.Networks[0].Tenant != "t" {
		t.Errorf("%+v", s)
	}
}
