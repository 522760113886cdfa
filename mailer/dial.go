package mailer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
)

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
	c := &Conn{server: *s, addr: s.addr(), timeouts: s.Timeouts.withDefaults()}
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
		e := &Error{Stage: StageConnect, Kind: KindTemporary, Server: c.addr, Err: err}
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
	addrs := []string{c.addr}
	if c.server.Security == Plaintext {
		var err error
		if addrs, err = c.server.nearAddrs(ctx); err != nil {
			return fail(err)
		}
		if len(addrs) == 0 {
			return &Error{
				Stage: StageConnect, Kind: KindConfig, Server: c.addr,
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
			c.hangUp = func() { c.raw.Close() }
			c.use(c.raw)
			return nil
		}
	}
	return fail(err)
}

// addressError is why an address may not be connected to.
type addressError struct{ error }

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
	t := tls.Client(c.corked(), c.server.Sessions.config(&c.server))
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
