package contest

import (
	"crypto/x509"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// Server is where a mail server listens, and who trusts it.
type Server struct {
	Host  string
	Port  int
	Roots *x509.CertPool
}

// Sink is a mail server on loopback.
type Sink struct {
	*mailertest.Sink
	Server
}

// NewSink starts a sink that offers PIPELINING and perhaps CHUNKING. It stops when
// the benchmark ends.
func NewSink(b *testing.B, chunking bool) Sink {
	b.Helper()
	config, roots := mailertest.NewCertificate(b)
	s := &mailertest.Sink{TLS: config, Pipelining: true, Chunking: chunking}
	host, port := s.Listen(b)
	return Sink{s, Server{host, port, roots}}
}

func (s Server) addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Away is the server behind a proxy that takes its time.
func (s Server) Away(b *testing.B, delay time.Duration) Server {
	b.Helper()
	host, port, _ := net.SplitHostPort(mailertest.DelayProxy(b, s.addr(), delay))
	s.Host = host
	s.Port, _ = strconv.Atoi(port)
	return s
}
