package mailertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
)

// client speaks SMTP word by word.
type client struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
}

type server interface {
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// connect begins a session and reads the greeting.
func connect(t *testing.T, s server) *client {
	t.Helper()
	nc, err := s.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return greeted(t, nc)
}

func greeted(t *testing.T, nc net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	c := &client{t: t, nc: nc, r: bufio.NewReader(nc)}
	c.want("220 ")
	return c
}

func (c *client) startTLS(pool *x509.CertPool) {
	c.t.Helper()
	c.ask("STARTTLS", "220 ")
	t := tls.Client(c.nc, &tls.Config{ServerName: "mail.example.com", RootCAs: pool})
	c.nc, c.r = t, bufio.NewReader(t)
}

// send writes octets at once.
func (c *client) send(octets string) {
	c.t.Helper()
	if _, err := c.nc.Write([]byte(octets)); err != nil {
		c.t.Fatal(err)
	}
}

// read returns one reply, its lines separated by "\n".
func (c *client) read() string {
	c.t.Helper()
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return strings.Join(append(lines, err.Error()), "\n")
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

// want reads a reply and checks how it begins.
func (c *client) want(prefix string) string {
	c.t.Helper()
	got := c.read()
	if !strings.HasPrefix(got, prefix) {
		c.t.Errorf("answered %q, not %q", got, prefix)
	}
	return got
}

// ask says a line and checks how the reply begins.
func (c *client) ask(line, prefix string) string {
	c.t.Helper()
	c.send(line + "\r\n")
	return c.want(prefix)
}
