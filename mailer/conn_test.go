package mailer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// wireContent is a message in memory.
type wireContent struct {
	text       string
	eightBit   bool
	utf8Header bool
}

func (w wireContent) WriteTo(to io.Writer) (int64, error) {
	n, err := io.WriteString(to, w.text)
	return int64(n), err
}
func (w wireContent) Size() int64      { return int64(len(w.text)) }
func (w wireContent) EightBit() bool   { return w.eightBit }
func (w wireContent) UTF8Header() bool { return w.utf8Header }

var (
	hello   = wireContent{text: "Subject: hello\r\n\r\n.dot\r\n"}
	sender  = Address{Local: "a", Domain: "example.com"}
	someone = Address{Local: "b", Domain: "example.net"}
	other   = Address{Local: "c", Domain: "example.net"}
	letter  = Envelope{From: sender, To: []Address{someone}}
)

// plainTenant sends to a script over a pipe, without TLS.
func plainTenant(s *mailertest.Script) *Tenant {
	return &Tenant{Name: "lab", Server: Server{Host: "127.0.0.1", Port: 25, Security: Plaintext, Dial: s.Dial}}
}

// tlsTenant sends to a script over a pipe, with STARTTLS.
func tlsTenant(t *testing.T, s *mailertest.Script) *Tenant {
	t.Helper()
	var pool *x509.CertPool
	s.TLS, pool = mailertest.NewCertificate(t)
	return &Tenant{Name: "lab", Server: Server{Host: "mail.example.com", Port: 587, RootCAs: pool, Dial: s.Dial}}
}

func wantError(t *testing.T, err error, stage Stage, kind Kind) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("error %v, want one at %s of kind %v", err, stage, kind)
	}
	if e.Stage != stage || e.Kind != kind {
		t.Fatalf("%v: at %s of kind %v, want %s, %v", err, e.Stage, e.Kind, stage, kind)
	}
	return e
}

func TestSubmitOverTLS(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Offer: []string{"SIZE 1000", "8BITMIME"}}
	tenant := tlsTenant(t, s)
	tenant.Server.LocalName = "web.example.com"
	r, err := tenant.Submit(t.Context(), Envelope{To: []Address{someone, other}}, hello, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != StatusSent || r.QueueID != "4F1A2B3C" || r.Tenant != "lab" || r.Server != "mail.example.com:587" || len(r.Recipients) != 2 {
		t.Errorf("receipt %+v", r)
	}
	want := []string{
		"EHLO web.example.com", "STARTTLS", "EHLO web.example.com",
		"MAIL FROM:<> SIZE=24", "RCPT TO:<b@example.net>", "RCPT TO:<c@example.net>", "DATA", "QUIT",
	}
	if got := s.Lines(); !slices.Equal(got, want) {
		t.Errorf("said %q, want %q", got, want)
	}
	if got := s.Contents(); !slices.Equal(got, []string{"Subject: hello\r\n\r\n..dot\r\n"}) {
		t.Errorf("content %q", got)
	}
}

func TestSTARTTLSMissing(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Auth: "PLAIN"}
	tenant := tlsTenant(t, s)
	s.TLS = nil
	tenant.Auth = Password{User: "u", Password: "secret-password"}
	_, err := tenant.Submit(t.Context(), letter, hello, Options{})
	wantError(t, err, StageSTARTTLS, KindConfig)
	if s.Said("AUTH")+s.Said("MAIL") > 0 {
		t.Errorf("said %q", s.Lines())
	}
}

// TestSTARTTLSInjection has somebody on the way put words behind the plaintext
// answer, and offer in plaintext what the server itself does not.
func TestSTARTTLSInjection(t *testing.T) {
	t.Parallel()
	t.Run("words", func(t *testing.T) {
		t.Parallel()
		s := &mailertest.Script{Answers: map[string][]string{"STARTTLS": {"220 go\n250-evil\n250 AUTH PLAIN"}}}
		_, err := tlsTenant(t, s).Submit(t.Context(), letter, hello, Options{})
		wantError(t, err, StageSTARTTLS, KindConfig)
	})
	t.Run("capabilities", func(t *testing.T) {
		t.Parallel()
		s := &mailertest.Script{Answers: map[string][]string{"EHLO": {"250-evil\n250-STARTTLS\n250-SIZE 1\n250 AUTH PLAIN", "250 honest"}}}
		tenant := tlsTenant(t, s)
		tenant.Auth = Password{User: "u", Password: "secret-password"}
		_, err := tenant.Submit(t.Context(), letter, hello, Options{})
		wantError(t, err, StageAuth, KindConfig)
		tenant.Auth = nil
		if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err == nil {
			t.Error("the forged SIZE was not believed at the second connection, whose EHLO is plain")
		}
	})
}

func TestTLSIsVerified(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*Server, *tls.Config)
	}{
		{"unknown authority", func(s *Server, _ *tls.Config) { s.RootCAs = x509.NewCertPool() }},
		{"another name", func(s *Server, _ *tls.Config) { s.Host = "mail.example.org" }},
		{"TLS 1.1", func(_ *Server, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := new(mailertest.Script)
			tenant := tlsTenant(t, s)
			tt.change(&tenant.Server, s.TLS)
			host, port := s.Listen(t) // a pipe has no room for the alert
			tenant.Server.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(host, strconv.Itoa(port)))
			}
			_, err := tenant.Submit(t.Context(), letter, hello, Options{})
			wantError(t, err, StageTLS, KindConfig)
			if s.Said("MAIL") > 0 {
				t.Error("sent mail")
			}
		})
	}
}

func TestImplicitTLS(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Implicit: true}
	tenant := tlsTenant(t, s)
	tenant.Server.Security = ImplicitTLS
	if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil {
		t.Error(err)
	}
	if s.Said("STARTTLS") > 0 {
		t.Error("STARTTLS inside TLS")
	}
}

// TestImplicitTLSToPlaintextPort meets a server that speaks first, and no TLS.
func TestImplicitTLSToPlaintextPort(t *testing.T) {
	t.Parallel()
	host, port := new(mailertest.Script).Listen(t)
	tenant := &Tenant{Server: Server{Host: host, Port: port, Security: ImplicitTLS}}
	wantError(t, tenant.SignIn(t.Context(), nil), StageTLS, KindConfig)
}

func TestPlaintextStaysNear(t *testing.T) {
	t.Parallel()
	tests := []struct {
		host string
		ok   bool
	}{
		{"127.0.0.1", true},
		{"::1", true},
		{"10.1.2.3", true},
		{"192.168.0.1", true},
		{"fd00::1", true},
		{"::ffff:10.0.0.1", true},
		{"192.0.2.1", false},
		{"169.254.169.254", false},
		{"100.64.0.1", false},
		{"2001:db8::1", false},
		{"0.0.0.0", false},
	}
	for _, tt := range tests {
		t.Run(tt.host, func(t *testing.T) {
			t.Parallel()
			s := new(mailertest.Script)
			tenant := plainTenant(s)
			tenant.Server.Host = tt.host
			_, err := tenant.Submit(t.Context(), letter, hello, Options{})
			if tt.ok && err != nil {
				t.Error(err)
			}
			if !tt.ok {
				wantError(t, err, StageConnect, KindConfig)
				if s.Sessions() > 0 {
					t.Error("dialed")
				}
			}
		})
	}
}

func TestDialFailure(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		err   error
		stage Stage
	}{
		{"refused", &net.OpError{Op: "dial", Err: errors.New("connection refused")}, StageConnect},
		{"no such host", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, StageDNS},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tenant := &Tenant{Server: Server{Host: "mail.example.com", Port: 587, Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, tt.err
			}}}
			err := tenant.SignIn(t.Context(), nil)
			e := wantError(t, err, tt.stage, KindTemporary)
			if !errors.Is(e, tt.err) {
				t.Errorf("cause %v", e.Err)
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			tenant := &Tenant{Server: Server{Host: "mail.example.com", Port: 587, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}}}
			begin := time.Now()
			wantError(t, tenant.SignIn(t.Context(), nil), StageConnect, KindTemporary)
			if took := time.Since(begin); took != 30*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	})
}

func TestServerCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		server Server
	}{
		{"no host", Server{Port: 25}},
		{"no port", Server{Host: "h"}},
		{"port too high", Server{Host: "h", Port: 65536}},
		{"security", Server{Host: "h", Port: 25, Security: 3}},
		{"local name", Server{Host: "h", Port: 25, LocalName: "a\r\nMAIL"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wantError(t, (&Tenant{Server: tt.server}).SignIn(t.Context(), nil), StageConnect, KindConfig)
		})
	}
}

// TestCancel ends the caller's context at each step. Before the content that
// breaks the session off at once; behind it, it changes nothing.
func TestCancel(t *testing.T) {
	t.Parallel()
	for _, step := range []string{mailertest.Greeting, "EHLO", "MAIL", "RCPT", "DATA"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			tenant := plainTenant(&mailertest.Script{Answers: map[string][]string{step: {mailertest.Silent}}})
			synctest.Test(t, func(t *testing.T) {
				gone := errors.New("gone")
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(gone) })
				begin := time.Now()
				_, err := tenant.Submit(ctx, letter, hello, Options{})
				if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindTemporary || !errors.Is(err, gone) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(begin); took != time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
	t.Run("content", func(t *testing.T) {
		t.Parallel()
		s := new(mailertest.Script)
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := plainTenant(s).Submit(ctx, letter, cancelling{hello, cancel}, Options{}); err != nil {
			t.Error(err)
		}
		if len(s.Contents()) != 1 {
			t.Error("not sent")
		}
	})
}

// cancelling ends a context when it is written.
type cancelling struct {
	wireContent
	cancel func()
}

func (c cancelling) WriteTo(w io.Writer) (int64, error) {
	c.cancel()
	return c.wireContent.WriteTo(w)
}

// TestStalledContent has the server read nothing after 354.
func TestStalledContent(t *testing.T) {
	t.Parallel()
	big := wireContent{text: strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20000)}
	tests := []struct {
		name    string
		content Content
		stage   Stage
		kind    Kind
	}{
		{"in the middle", big, StageData, KindTemporary},
		{"at the end", hello, StageFinal, KindUnknown}, // the dot may have got through
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tenant := plainTenant(nil)
				tenant.Server.Timeouts.Block = 7 * time.Second
				tenant.Server.Dial = dialTo(func(nc net.Conn) {
					play(nc, "220 hi", "250 hi", "250 ok", "250 ok", "354 go")
				})
				begin := time.Now()
				_, err := tenant.Submit(t.Context(), letter, tt.content, Options{})
				wantError(t, err, tt.stage, tt.kind)
				if took := time.Since(begin); took != 7*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestTricklingContent has the server read so slowly that no single write is
// late.
func TestTricklingContent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		content := wireContent{text: strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20000)}
		tenant := plainTenant(nil)
		tenant.Server.Dial = dialTo(func(nc net.Conn) {
			play(nc, "220 hi", "250 hi", "250 ok", "250 ok", "354 go")
			b := make([]byte, 16<<10)
			for {
				<-time.After(time.Minute)
				if _, err := nc.Read(b); err != nil {
					return
				}
			}
		})
		begin := time.Now()
		_, err := tenant.Submit(t.Context(), letter, content, Options{})
		wantError(t, err, StageData, KindTemporary)
		if took, most := time.Since(begin), 3*time.Minute+6*time.Minute; took > most {
			t.Errorf("it took %v, more than %v", took, most)
		}
		<-time.After(time.Minute) // until the server has noticed
	})
}

// TestRefusalInContent has the server say why before it hangs up.
func TestRefusalInContent(t *testing.T) {
	t.Parallel()
	content := wireContent{text: strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20000)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		play(nc, "220 hi", "250 hi", "250 ok", "250 ok", "354 go")
		io.ReadFull(nc, make([]byte, 100))
		io.WriteString(nc, "552 5.3.4 too big\r\n")
		nc.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, nc) // lest a reset overtake the reply
		nc.Close()
	}()
	tenant := plainTenant(nil)
	tenant.Server.Dial = nil
	tenant.Server.Port = l.Addr().(*net.TCPAddr).Port
	_, err = tenant.Submit(t.Context(), letter, content, Options{})
	e := wantError(t, err, StageFinal, KindRejected)
	if e.Reply.Code != 552 {
		t.Errorf("reply %v", e.Reply)
	}
}

// dialTo makes a dialer of pipes whose other end is served by f.
func dialTo(f func(net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go f(server)
		return client, nil
	}
}

// play says the replies, each but the first after reading a line.
func play(nc net.Conn, replies ...string) {
	b := make([]byte, 1024)
	for i, r := range replies {
		if i > 0 {
			if _, err := nc.Read(b); err != nil {
				return
			}
		}
		if _, err := io.WriteString(nc, r+"\r\n"); err != nil {
			return
		}
	}
}
