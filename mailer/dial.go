package mailer

import (
	"context"
	"crypto/tls"
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

// connect returns a connection that is ready for mail. With a nil
// authenticator it does not sign in. Where there is no token it does not dial.
func (s *Server) connect(ctx context.Context, a Authenticator) (*Conn, *Error) {
	if p, ok := a.(interface{ prepare(context.Context) *Error }); ok {
		if e := p.prepare(ctx); e != nil {
			named := *e
			named.Server = s.addr()
			return nil, &named
		}
	}
	return s.enter(ctx, a)
}

// enter dials and signs in. Where the server refuses the sign-in and another one
// may fare better, it does both once more.
func (s *Server) enter(ctx context.Context, a Authenticator) (*Conn, *Error) {
	for again := true; ; again = false {
		c, e := s.open(ctx)
		if e != nil || a == nil {
			return c, e
		}
		client, e := c.signIn(ctx, a)
		if e == nil {
			return c, nil
		}
		// Some servers limp after a refused AUTH, so a second try gets a
		// connection of its own.
		c.close()
		if !again || !authRefused(e) || !a.Rejected(client, e) {
			return nil, e
		}
	}
}

// open dials and goes on until EHLO has been answered, over TLS unless
// Plaintext is set.
func (s *Server) open(ctx context.Context) (*Conn, *Error) {
	if e := s.check(); e != nil {
		return nil, e
	}
	c := &Conn{server: s, timeouts: s.Timeouts.withDefaults()}
	if e := c.dial(ctx); e != nil {
		return nil, e
	}
	if e := c.begin(ctx); e != nil {
		c.close()
		return nil, e
	}
	return c, nil
}

func (c *Conn) begin(ctx context.Context) *Error {
	if c.server.Security == ImplicitTLS {
		if e := c.handshake(ctx); e != nil {
			return e
		}
	}
	if e := c.greeting(ctx); e != nil {
		return e
	}
	if e := c.hello(ctx); e != nil {
		return e
	}
	if c.server.Security != StartTLS {
		return nil
	}
	if e := c.startTLS(ctx); e != nil {
		return e
	}
	return c.hello(ctx)
}

func (c *Conn) dial(ctx context.Context) *Error {
	dctx, trace := traceDial(ctx, !c.server.Proxy.IsZero())
	dctx, cancel := context.WithTimeout(dctx, c.timeouts.Dial)
	defer cancel()
	e := c.dialAny(dctx)
	if e != nil && ctx.Err() != nil {
		e.Err = context.Cause(ctx)
	}
	trace.done(c, e)
	return e
}

// dialAny looks the server up and tries its addresses one after the other.
func (c *Conn) dialAny(ctx context.Context) *Error {
	fail := func(err error) *Error {
		e := &Error{Stage: StageConnect, Kind: KindTemporary, Server: c.server.addr(), Err: err}
		if r, ok := errors.AsType[addressError](err); ok {
			e.Kind, e.Code, e.Err = KindConfig, "address_refused", r.error
		} else if p, ok := errors.AsType[*ProxyError](err); ok {
			e.Kind, e.Code = p.Kind, p.Code
		} else if _, ok := errors.AsType[*net.DNSError](err); ok {
			// A name that is not found may be a typing error as well as a
			// resolver that is not up yet, and the latter heals by itself.
			e.Stage = StageDNS
		}
		return e
	}
	addrs := []string{c.server.addr()}
	if c.server.Security == Plaintext {
		var err error
		if addrs, err = c.server.nearAddrs(ctx); err != nil {
			return fail(err)
		}
		if len(addrs) == 0 {
			return &Error{
				Stage: StageConnect, Kind: KindConfig, Server: c.server.addr(),
				Err: errors.New("plaintext to an address that is neither loopback nor private"),
			}
		}
	}
	dial := c.server.Dial
	if dial == nil {
		direct := c.server.dialer()
		dial = direct.DialContext
		if !c.server.Proxy.IsZero() {
			dial = proxyDialer{c.server.Proxy, c.server.RootCAs, direct}.DialContext
		}
	}
	var err error
	for _, a := range addrs {
		if c.raw, err = dial(ctx, "tcp", a); err == nil {
			c.use(c.raw)
			return nil
		}
	}
	return fail(err)
}

// addressError is why an address may not be connected to.
type addressError struct{ error }

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

func (c *Conn) use(nc net.Conn) {
	c.r.rest() // it is empty
	c.nc, c.r = nc, ear{from: nc}
}

func (c *Conn) startTLS(ctx context.Context) *Error {
	wrong := func(code, what string) *Error {
		e := c.lost(StageSTARTTLS, errors.New(what))
		e.Kind, e.Code = KindConfig, code
		return e
	}
	e := traced(ctx, StageSTARTTLS, func(f *Facts) *Error {
		if !c.offers("STARTTLS") {
			return wrong("starttls_not_offered", "server does not offer STARTTLS")
		}
		raw, e := c.expect(ctx, StageSTARTTLS, 2, "STARTTLS")
		f.reply(raw)
		if e != nil {
			return e
		}
		if c.r.Buffered() > 0 {
			// Whoever put it there wants it taken for words of the server spoken
			// under TLS (CVE-2011-0411 and its kin).
			return wrong("starttls_injection", "server sent plaintext behind its answer to STARTTLS")
		}
		return nil
	})
	if e != nil {
		return e
	}
	return c.handshake(ctx)
}

func (c *Conn) handshake(ctx context.Context) *Error {
	t := tls.Client(c.corked(), c.server.Sessions.config(c.server))
	e := traced(ctx, StageTLS, func(f *Facts) *Error {
		e := c.do(ctx, StageTLS, c.timeouts.Greeting, t.Handshake)
		f.handshake(t.ConnectionState(), e)
		if e != nil && needsAPerson(e.Err) {
			e.Kind = KindConfig
		}
		return e
	})
	if e != nil {
		return e
	}
	c.use(t)
	c.secure = true
	return nil
}

// needsAPerson tells a handshake that cannot work from one that may the next
// time.
func needsAPerson(err error) bool {
	var (
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
	)
	if errors.As(err, &cert) || errors.As(err, &record) {
		return true
	}
	// crypto/tls has no type for the alerts that settings cause; others come from
	// overload and damage on the way.
	return containsAny(err.Error(), "protocol version", "handshake failure", "unrecognized name",
		"certificate", "insufficient security", "no application protocol")
}
