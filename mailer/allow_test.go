package mailer

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestAllow: an address that is refused is not connected to, whatever name or
// proxy leads there.
func TestAllow(t *testing.T) {
	t.Parallel()
	no := errors.New("not there")
	refuse := func(a netip.Addr) error {
		if a.IsLoopback() {
			return no
		}
		return nil
	}
	for name, change := range map[string]func(s *Server, addr string){
		"address":      func(s *Server, _ string) { s.Host = "127.0.0.1" },
		"name":         func(s *Server, _ string) { s.Host = "localhost" },
		"mapped":       func(s *Server, _ string) { s.Host = "::ffff:127.0.0.1" },
		"plaintext":    func(s *Server, _ string) { s.Security = Plaintext },
		"HTTP proxy":   func(s *Server, addr string) { s.Host, s.Proxy = "smtp.example.net", mustProxy(t, "http://"+addr) },
		"SOCKS5 proxy": func(s *Server, addr string) { s.Host, s.Proxy = "smtp.example.net", mustProxy(t, "socks5://"+addr) },
		"proxy by name": func(s *Server, addr string) {
			_, port, _ := net.SplitHostPort(addr)
			s.Proxy = mustProxy(t, "http://localhost:"+port)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := &mailertest.Script{}
			s := Server{Host: "localhost", Allow: refuse}
			host, port := script.Listen(t)
			s.Port = port
			change(&s, net.JoinHostPort(host, strconv.Itoa(port)))
			_, e := s.open(t.Context())
			if e == nil || e.Kind != KindConfig || e.Code != "address_refused" || !errors.Is(e, no) {
				t.Errorf("error %v, kind %v, code %q", e, e.Kind, e.Code)
			}
			if n := script.Sessions(); n != 0 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

func mustProxy(t *testing.T, text string) Proxy {
	t.Helper()
	p, err := ParseProxy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
