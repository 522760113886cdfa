package mailer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
)

// Security is how a connection to a mail server is protected. There is no
// opportunistic mode.
type Security int

const (
	// StartTLS demands STARTTLS (RFC 3207), usually at port 587.
	StartTLS Security = iota
	// ImplicitTLS begins with the handshake (RFC 8314), usually at port 465.
	ImplicitTLS
	// Plaintext protects nothing, credentials included. It works with loopback
	// and private addresses only.
	Plaintext
)

func (s Security) String() string {
	switch s {
	case StartTLS:
		return "starttls"
	case ImplicitTLS:
		return "tls"
	case Plaintext:
		return "plaintext"
	}
	return fmt.Sprintf("security %d", int(s))
}

// Server is a mail server, as plain values. TLS is version 1.2 or newer; the
// certificate must be valid for Host.
type Server struct {
	Host     string
	Port     int
	Security Security
	// RootCAs are the authorities trusted; nil means those of the system.
	RootCAs *x509.CertPool
	// LocalName is what EHLO says we are. Default: "localhost".
	LocalName string
	Timeouts  Timeouts
	// Sessions keep TLS sessions, which shorten later handshakes. Servers may share
	// them where RootCAs are the same. Nil: every handshake is a full one.
	Sessions *Sessions
	// Proxy leads to the server, unless it is zero. It looks Host up; RootCAs
	// verify its certificate too, where it has one. It excludes Plaintext, since
	// what the proxy would connect to cannot be checked.
	Proxy Proxy
	// Allow checks each address before a connection to it is made, the proxy's own
	// included, and whatever name has led to it. Its error is the reason why not. Nil
	// allows all.
	Allow func(netip.Addr) error
	// Dial replaces the dialer and the proxy, for tests. It is given "tcp" and
	// host:port; with Plaintext the host is an address that was checked.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (s Server) addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

func (s Server) localName() string {
	if s.LocalName == "" {
		return "localhost"
	}
	return s.LocalName
}

func (s Server) check() *Error {
	bad := func(what string) *Error {
		return &Error{Stage: StageConnect, Kind: KindConfig, Server: s.addr(), Err: errors.New(what)}
	}
	switch {
	case s.Host == "":
		return bad("no host")
	case s.Port < 1 || s.Port > 65535:
		return bad("no such port")
	case s.Security < StartTLS || s.Security > Plaintext:
		return bad("no such security")
	case s.Security == Plaintext && !s.Proxy.IsZero():
		return bad("plaintext through a proxy, which may lead anywhere; use STARTTLS or TLS, or no proxy")
	case strings.ContainsFunc(s.localName(), func(r rune) bool { return r <= ' ' || r > '~' }):
		return bad("malformed local name")
	}
	return nil
}

// dialer connects to addresses that are allowed.
func (s Server) dialer() *net.Dialer {
	if s.Allow == nil {
		return new(net.Dialer)
	}
	return &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err == nil {
			err = s.Allow(to.Addr().Unmap())
		}
		if err != nil {
			return addressError{err}
		}
		return nil
	}}
}

// nearAddrs looks the host up and keeps the addresses that plaintext may go
// to. They, not the name, are dialed: a proxy or a second look-up might lead
// elsewhere.
func (s Server) nearAddrs(ctx context.Context) ([]string, error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", s.Host)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, ip := range ips {
		ip = ip.Unmap()
		if ip.IsLoopback() || ip.IsPrivate() {
			out = append(out, netip.AddrPortFrom(ip, uint16(s.Port)).String())
		}
	}
	return out, nil
}
