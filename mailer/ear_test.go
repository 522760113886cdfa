package mailer

import (
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestIdleConnections: a connection that nobody uses holds no buffer, and what very many
// have in common is there once.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	sink := &mailertest.Sink{Pipelining: true}
	config, roots := mailertest.NewCertificate(t)
	sink.TLS = config
	host, port := sink.Listen(t)
	server := Server{Host: host, Port: port, RootCAs: roots, Sessions: new(Sessions)}
	var conns []*Conn
	for range 2 {
		tenant := &Tenant{Server: server, Auth: Password{User: "u", Password: "p"}, Pool: new(Pool)}
		t.Cleanup(func() { tenant.Pool.Close() })
		if err := tenant.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, tenant.Pool.idle...)
		if _, err := tenant.Submit(t.Context(), Envelope{From: mustParse(t, "a@x.jp"), To: []Address{mustParse(t, "b@x.jp")}}, wireContent{text: "\r\nx\r\n"}, Options{}); err != nil {
			t.Fatal(err)
		}
		if len(tenant.Pool.idle) != 1 || tenant.Pool.idle[0] != conns[len(conns)-1] {
			t.Fatalf("idle %v, warm %v", tenant.Pool.idle, conns)
		}
	}
	for _, c := range conns {
		if c.r.buf != nil || c.out.buf != nil || c.cork.buf != nil {
			t.Error("an idle connection has a buffer")
		}
		if !c.offers("PIPELINING") || c.offers("CHUNKING") || c.offered.all().maxSize == 0 {
			t.Errorf("offered %q", c.offered.all().lines)
		}
	}
	if conns[0].offered != conns[1].offered {
		t.Error("the same offers are kept twice")
	}
	if server.Sessions.config(&server) != server.Sessions.config(&server) {
		t.Error("the settings of TLS are kept twice")
	}
	other := server
	other.RootCAs = nil
	if server.Sessions.config(&other).RootCAs != nil {
		t.Error("other authorities verify a server")
	}
}
