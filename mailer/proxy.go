package mailer

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/proxy"
)

// Proxy is a proxy through which servers are reached: by HTTP CONNECT (RFC
// 9110, section 9.3.6), itself with or without TLS, or by SOCKS5 (RFC 1928).
// The proxy resolves the names of the servers. The zero value is none. No print
// verb shows its password.
type Proxy struct {
	url *url.URL
}

// The kinds of proxies, and the ports that they have where the URL has none.
var proxyPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// ParseProxy reads `<scheme>://[<user>:<password>@]<host>[:<port>]`, where the
// scheme is http, https, socks5 or socks5h; the latter two mean the same. The
// error shows nothing of the text, which may hold a password.
func ParseProxy(text string) (Proxy, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return Proxy{}, errors.New("must be [<user>:<password>@]<host>:<port> after http://, https:// or socks5://; signs other than letters and digits in a password are percent-encoded")
	case proxyPorts[u.Scheme] == "":
		return Proxy{}, errors.New("must begin with http://, https:// or socks5://")
	}
	return Proxy{u}, nil
}

// IsZero reports whether there is no proxy.
func (p Proxy) IsZero() bool { return p.url == nil }

// URL returns the proxy's address with user and password, nil for no proxy. It
// must not be changed.
func (p Proxy) URL() *url.URL { return p.url }

// String returns scheme, host and port, and no user or password.
func (p Proxy) String() string {
	if p.url == nil {
		return ""
	}
	return p.url.Scheme + "://" + p.addr()
}

// GoString hides the password from print verbs.
func (p Proxy) GoString() string { return p.String() }

func (p Proxy) addr() string {
	port := p.url.Port()
	if port == "" {
		port = proxyPorts[p.url.Scheme]
	}
	return net.JoinHostPort(p.url.Hostname(), port)
}

// proxyDialer dials through a proxy, which must not be zero. It may be used
// concurrently.
type proxyDialer struct {
	Proxy Proxy
	// RootCAs verify the certificate of a proxy that is spoken to by TLS; nil
	// means those of the system.
	RootCAs *x509.CertPool
	// Direct connects to the proxy.
	Direct *net.Dialer
}

// DialContext returns a connection to addr, host:port, that the proxy made. The
// end of ctx breaks it off as long as it is not there. The error is a
// [*ProxyError].
func (d proxyDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := d.dial(ctx, network, addr)
	if err == nil {
		return nc, nil
	}
	e, ok := errors.AsType[*ProxyError](err)
	if !ok {
		e = &ProxyError{Kind: KindTemporary, Code: codeProxyNoAnswer, Err: err}
		if needsAPerson(err) { // its certificate
			e.Kind, e.Code = KindConfig, codeProxyTLS
		}
	}
	e.Proxy = d.Proxy.String()
	return nil, e
}

func (d proxyDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if strings.HasPrefix(d.Proxy.url.Scheme, "socks5") {
		return d.socks(ctx, network, addr)
	}
	nc, err := d.Direct.DialContext(ctx, "tcp", d.Proxy.addr())
	if err != nil {
		return nil, err
	}
	tunnel, err := d.connect(ctx, nc, addr)
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return tunnel, nil
}

// maxProxyAnswer is the largest answer to CONNECT, in octets; what the tunnel
// brings at once behind it included.
const maxProxyAnswer = 64 << 10

// connect makes a tunnel out of a connection to the proxy.
func (d proxyDialer) connect(ctx context.Context, nc net.Conn, addr string) (net.Conn, error) {
	raw := nc
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if d.Proxy.url.Scheme == "https" {
		t := tls.Client(nc, &tls.Config{ServerName: d.Proxy.url.Hostname(), RootCAs: d.RootCAs, MinVersion: tls.VersionTLS12})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		nc = t
	}
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: make(http.Header)}
	if user := d.Proxy.url.User; user != nil {
		password, _ := user.Password()
		ask.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := ask.Write(nc); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(nc, maxProxyAnswer))
	answer, err := http.ReadResponse(r, ask) //nolint:bodyclose // what would be the body is the tunnel
	if err != nil {
		if _, network := errors.AsType[net.Error](err); network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, &ProxyError{Kind: KindConfig, Code: codeNoProxy, Err: errors.New("what answers there does not speak HTTP; is it a proxy, and is its scheme right?")}
	}
	if answer.StatusCode/100 != 2 {
		return nil, proxyRefusal(answer, addr)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	early, _ := r.Peek(r.Buffered())
	return &tunnel{Conn: nc, early: slices.Clone(early)}, nil
}

// proxyRefusal says what an answer to CONNECT means, and whose job it is.
func proxyRefusal(answer *http.Response, addr string) *ProxyError {
	e := &ProxyError{Kind: KindConfig, Code: codeNoProxy, Status: answer.StatusCode}
	do := "it may be no proxy for CONNECT"
	switch {
	case answer.StatusCode == http.StatusProxyAuthRequired:
		e.Code = codeProxyAuth
		do = "it wants a user name and password, or others; correct them in the setting `proxy`"
	case answer.StatusCode == http.StatusForbidden:
		e.Code = codeProxyForbids
		do = "it does not allow a tunnel to " + addr + "; its administrator has to allow CONNECT to this host and port"
	case answer.StatusCode == http.StatusBadGateway, answer.StatusCode == http.StatusGatewayTimeout:
		e.Kind, e.Code = KindTemporary, codeProxyNoWay
		do = "it cannot reach " + addr + "; look at the name and port, and at the network behind the proxy"
	case answer.StatusCode >= 500, answer.StatusCode == http.StatusTooManyRequests:
		e.Kind, e.Code = KindTemporary, codeProxyTrouble
		do = "it has trouble of its own, or is overloaded; if it lasts, its administrator has to look"
	}
	e.Err = fmt.Errorf("answered %s: %s", printable(answer.Status, 100), do)
	return e
}

// socks dials through SOCKS5, with user name and password (RFC 1929) where
// there are some.
func (d proxyDialer) socks(ctx context.Context, network, addr string) (net.Conn, error) {
	var auth *proxy.Auth
	if user := d.Proxy.url.User; user != nil {
		password, _ := user.Password()
		auth = &proxy.Auth{User: user.Username(), Password: password}
	}
	s, err := proxy.SOCKS5("tcp", d.Proxy.addr(), auth, d.Direct)
	if err != nil {
		return nil, err
	}
	nc, err := s.(proxy.ContextDialer).DialContext(ctx, network, addr)
	if err == nil {
		return nc, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, socksRefusal(err, addr)
}

// socksRefusal says what an error of the library means, and whose job it is. It
// has no types for these.
func socksRefusal(err error, addr string) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // what is around it names the proxy once more
	}
	if _, network := errors.AsType[net.Error](err); network {
		return err
	}
	reason, answered := strings.CutPrefix(err.Error(), "unknown error ")
	switch {
	case containsAny(reason, "authentication", "username/password"):
		return &ProxyError{Kind: KindConfig, Code: codeProxyAuth, Err: errors.New(reason + ": it wants a user name and password, or others; correct them in the setting `proxy`")}
	case containsAny(reason, "not allowed by ruleset"):
		return &ProxyError{Kind: KindConfig, Code: codeProxyForbids, Err: errors.New(reason + ": its administrator has to allow " + addr)}
	case containsAny(reason, "unexpected protocol version", "not supported"):
		return &ProxyError{Kind: KindConfig, Code: codeNoProxy, Err: errors.New(reason + ": it may be no proxy for SOCKS5")}
	case answered:
		return &ProxyError{Kind: KindTemporary, Code: codeProxyNoWay, Err: errors.New(reason + ": it cannot reach " + addr + "; look at the name and port, and at the network behind the proxy")}
	}
	return err
}

// The codes of errors with a proxy. Package diagnosis has a row for each.
const (
	codeProxyAuth     = "proxy_authentication"
	codeProxyForbids  = "proxy_forbidden"
	codeProxyNoWay    = "proxy_no_route" // from it to the server
	codeNoProxy       = "proxy_wrong_kind"
	codeProxyTrouble  = "proxy_trouble"
	codeProxyNoAnswer = "proxy_unreachable"
	codeProxyTLS      = "proxy_tls"
)

// ProxyError is a connection that a proxy did not make.
type ProxyError struct {
	// Proxy is its scheme, host and port.
	Proxy string
	// Kind is KindConfig where a person has to change something, and
	// KindTemporary otherwise.
	Kind Kind
	// Code refines Kind for programs: "proxy_authentication", "proxy_forbidden",
	// "proxy_no_route", "proxy_wrong_kind", "proxy_trouble", "proxy_unreachable",
	// "proxy_tls".
	Code string
	// Status is the status of the answer to CONNECT, if that was the reason.
	Status int
	// Err is the cause. It holds no password.
	Err error
}

func (e *ProxyError) Error() string { return "proxy " + e.Proxy + ": " + e.Err.Error() }

func (e *ProxyError) Unwrap() error { return e.Err }

// tunnel is a connection through a proxy whose first octets came along with the
// proxy's answer: mail servers speak first.
type tunnel struct {
	net.Conn
	early []byte
}

func (t *tunnel) Read(b []byte) (int, error) {
	if len(t.early) > 0 {
		n := copy(b, t.early)
		t.early = t.early[n:]
		return n, nil
	}
	return t.Conn.Read(b)
}
