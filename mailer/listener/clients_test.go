package listener

import (
	"errors"
	"fmt"
	"net"
	netsmtp "net/smtp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestClients: real clients, by each mechanism and each kind of TLS. What comes out
// is what went in.
func TestClients(t *testing.T) {
	t.Parallel()
	server, pool := mailertest.NewCertificate(t)
	long := letter + strings.Repeat(".dots and words\r\n..\r\n", 5000)
	mechanisms := map[string]sasl.Client{
		"":      nil,
		"PLAIN": sasl.NewPlainClient("", userName, password),
		"LOGIN": sasl.NewLoginClient(userName, password),
	}
	for _, security := range []string{"none", "STARTTLS", "implicit"} {
		for name, mechanism := range mechanisms {
			t.Run("go-smtp/"+security+"/"+name, func(t *testing.T) {
				r := &recorder{}
				config := r.config()
				if name == "" {
					trusting(config)
				}
				if security != "none" {
					config.TLS, config.PlaintextFrom = server, nil
				}
				config.Implicit = security == "implicit"
				addr := listen(t, New(config))
				var c *smtp.Client
				var err error
				switch security {
				case "none":
					c, err = smtp.Dial(addr)
				case "STARTTLS":
					c, err = smtp.DialStartTLS(addr, clientTLS(pool))
				default:
					c, err = smtp.DialTLS(addr, clientTLS(pool))
				}
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if mechanism != nil {
					if err := c.Auth(mechanism); err != nil {
						t.Fatal(err)
					}
				}
				for _, text := range []string{letter, long, letter} {
					if err := c.SendMail("printer@example.com", []string{"b@example.net", "c@example.net"}, strings.NewReader(text)); err != nil {
						t.Fatal(err)
					}
					got := r.sent()
					if last := got[len(got)-1]; last.text != text || len(last.Envelope.To) != 2 {
						t.Errorf("%d octets came out of %d, to %v", len(last.text), len(text), last.Envelope.To)
					}
				}
				if err := c.Quit(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Run("net/smtp", func(t *testing.T) {
		r := &recorder{}
		config := r.config()
		config.TLS, config.PlaintextFrom = server, nil
		c, err := netsmtp.Dial(listen(t, New(config)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = errors.Join(c.StartTLS(clientTLS(pool)), c.Auth(netsmtp.PlainAuth("", userName, password, "127.0.0.1")), c.Mail("printer@example.com"), c.Rcpt("b@example.net"))
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Data()
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write([]byte(long))
		if err := errors.Join(err, w.Close(), c.Quit()); err != nil {
			t.Error(err)
		}
		if got := r.sent(); len(got) != 1 || got[0].text != long {
			t.Errorf("sent %d", len(got))
		}
	})
}

// TestMailerAsClient sends by our own client, which groups commands, and the next
// message behind the content.
func TestMailerAsClient(t *testing.T) {
	t.Parallel()
	server, pool := mailertest.NewCertificate(t)
	r := &recorder{}
	config := r.config()
	config.TLS, config.PlaintextFrom = server, nil
	host, port, err := net.SplitHostPort(listen(t, New(config)))
	if err != nil {
		t.Fatal(err)
	}
	var number int
	fmt.Sscan(port, &number)
	tenant := &mailer.Tenant{
		Name:   "office",
		Server: mailer.Server{Host: host, Port: number, Security: mailer.StartTLS, RootCAs: pool},
		Auth:   mailer.Password{User: userName, Password: password},
		Pool:   new(mailer.Pool),
	}
	defer tenant.Pool.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			m := &mailer.Message{From: mailer.Address{Local: "a", Domain: "example.com"}, To: []mailer.Address{{Local: "b", Domain: "example.net"}}, Subject: "s", Text: "t"}
			content, err := m.Compose()
			if err == nil {
				_, err = tenant.Submit(t.Context(), m.Envelope(), content, mailer.Options{})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := r.sent(); len(got) != 8 {
		t.Errorf("%d sent", len(got))
	}
}

// TestPipelining: commands may come all at once, and the next message behind the
// content. The replies come in their order.
func TestPipelining(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := dialTalk(t, listen(t, New(trusting(r.config()))))
	one := "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<nonsense>\r\nDATA\r\n" + letter + strings.Repeat("x\r\n", 3000) + ".\r\n"
	c.write("EHLO x\r\n" + strings.Repeat(one, 50) + "NOOP\r\nQUIT\r\n")
	c.hear("220")
	c.hear("250")
	for range 20 {
		for _, want := range []string{"250", "250", "501", "354", "250 2.0.0 Ok: queued"} {
			c.hear(want)
		}
	}
	c.hear("250")
	c.hear("250")
	c.hear("501") // the 21st fault
	c.hear("421 4.7.0 ")
	if got := r.sent(); len(got) != 20 {
		t.Errorf("%d sent", len(got))
	}
}

// counted counts what is written.
type counted struct {
	net.Conn
	writes atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// TestRepliesTogether: commands that come together are answered together.
func TestRepliesTogether(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	l := newMemory()
	go New(trusting(r.config())).Serve(l)
	defer l.Close()
	near, far := mailertest.Pipe(0)
	nc := &counted{Conn: far}
	l.conns <- nc
	c := newTalk(t, near)
	c.hear("220")
	for i, group := range []struct {
		said    string
		replies int
	}{
		{"EHLO x\r\n", 1},
		{"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", 3},
		{letter + ".\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", 4},
		{letter + ".\r\nQUIT\r\n", 2},
	} {
		c.write(group.said)
		for range group.replies {
			c.hear("")
		}
		if got := int(nc.writes.Load()); got != i+2 {
			t.Errorf("%q: %d writes, want %d", group.said, got, i+2)
		}
	}
}
