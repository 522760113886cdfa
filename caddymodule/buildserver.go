package caddymodule

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

func (b *builder) tenantServer(at string, s tenantSettings, t *tenant, p *provider) bool {
	address := s.Server
	if address == "" && p != nil {
		address = p.settings.Servers[0]
	}
	server, err := parseServer(address)
	if err != nil {
		b.errorf("%s, server: %w", at, err)
		return false
	}
	if p != nil && !p.settings.AllowsServer(server.Host) {
		b.errorf("%s, server: %s is not among the servers that may see tokens of provider %s (%s); name it there with `servers` if it may",
			at, server.Host, p.name, strings.Join(p.settings.Servers, ", "))
	}
	if s.CAFile != "" || s.authorities != nil {
		t.authorities = sha256.Sum256(s.authorities)
		if server.RootCAs = b.snapshot.trust.authorities(t.authorities, s.authorities); server.RootCAs == nil {
			b.errorf("%s, %s has no certificate in PEM form", at, caWord(s.CAFile))
		}
	}
	server.Sessions = b.snapshot.trust.sessions(t.authorities)
	if s.Proxy != "" {
		if server.Proxy, err = mailer.ParseProxy(s.Proxy); err != nil {
			b.errorf("%s, proxy: %w", at, err)
		} else if server.Security == mailer.Plaintext {
			b.errorf("%s, proxy: plaintext:// is for servers near by, and a proxy leads away; write no scheme for STARTTLS, or smtps://", at)
		}
	}
	if s.origin == originRuntime && !b.runtimeServer(at, s, t, server, p) {
		return false
	}
	if s.origin == originRuntime {
		server.Allow = allowAddress
	}
	if b.snapshot.redirectBase != nil {
		server.LocalName = ehloName(b.snapshot.redirectBase.Hostname())
	}
	t.mail.Server = server
	return true
}

// parseServer reads `[scheme://]host[:port]`.
func parseServer(s string) (mailer.Server, error) {
	server := mailer.Server{Security: mailer.StartTLS}
	port := "587"
	rest := s
	if scheme, after, found := strings.Cut(s, "://"); found {
		rest = after
		switch scheme {
		case "smtp":
		case "smtps":
			server.Security, port = mailer.ImplicitTLS, "465"
		case "plaintext":
			server.Security, port = mailer.Plaintext, "25"
		default:
			return server, fmt.Errorf("unknown scheme %q: write smtps:// for TLS from the start, plaintext:// for none, or no scheme for STARTTLS", scheme)
		}
	}
	host := rest
	if h, p, err := net.SplitHostPort(rest); err == nil {
		host, port = h, p
	}
	host = strings.Trim(host, "[]")
	n, err := net.LookupPort("tcp", port)
	if err != nil || n < 1 {
		return server, fmt.Errorf("%q has no valid port", s)
	}
	if host == "" || strings.ContainsAny(host, "/ @?#") {
		return server, fmt.Errorf("%q must be [smtps://|plaintext://]host[:port]", s)
	}
	if host, err = asciiHost(host); err != nil {
		return server, fmt.Errorf("%q is no host name", s)
	}
	if addr, err := netip.ParseAddr(host); err == nil && server.Security == mailer.Plaintext && !addr.IsLoopback() && !addr.IsPrivate() {
		return server, fmt.Errorf("%s is a public address, and plaintext:// is for loopback and private ones; write no scheme for STARTTLS, or smtps://", addr)
	}
	server.Host, server.Port = host, n
	return server, nil
}

// asciiHost returns a host in lower case and in A-labels.
func asciiHost(host string) (string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	return idna.Lookup.ToASCII(strings.ToLower(strings.TrimSuffix(host, ".")))
}

// ehloName is how a host calls itself in EHLO (RFC 5321, section 4.1.3).
func ehloName(host string) string {
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return host
	case addr.Is6():
		return "[IPv6:" + addr.String() + "]"
	}
	return "[" + addr.String() + "]"
}
