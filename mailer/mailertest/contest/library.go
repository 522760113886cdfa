package contest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"

	"github.com/emersion/go-smtp"
)

// Library sends by go-smtp's client, each worker over a connection of its own that
// has signed in by XOAUTH2.
func (s Server) Library(b *testing.B, content []byte, mails, workers int) Row {
	b.Helper()
	sends := make([]func() error, workers)
	for i := range sends {
		nc, err := net.Dial("tcp", s.addr())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { nc.Close() })
		c := SignIn(b, nc, s.Roots)
		sends[i] = func() error { return Send(c, content, "b@example.net") }
	}
	return Row{Name: "gosmtp", Mails: mails, Workers: workers, Send: func(w int) error { return sends[w]() }}
}

// SignIn has go-smtp's client ready to send.
func SignIn(t testing.TB, nc net.Conn, roots *x509.CertPool) *smtp.Client {
	t.Helper()
	c, err := smtp.NewClientStartTLS(nc, &tls.Config{ServerName: "mail.example.com", RootCAs: roots})
	if err == nil {
		err = c.Auth(xoauth2{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// xoauth2 is the client side of Google's mechanism, which go-sasl does not have.
type xoauth2 struct{}

// Start implements sasl.Client.
func (xoauth2) Start() (mechanism string, response []byte, err error) {
	return "XOAUTH2", []byte("user=u\x01auth=Bearer secret-token\x01\x01"), nil
}

// Next implements sasl.Client.
func (xoauth2) Next([]byte) ([]byte, error) { return nil, errors.New("unexpected challenge") }

// Send sends a message by it.
func Send(c *smtp.Client, content []byte, to ...string) error {
	if err := c.Mail("a@example.com", nil); err != nil {
		return err
	}
	for _, a := range to {
		if err := c.Rcpt(a, nil); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	return w.Close()
}
