package mailer

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// serveProxy serves each connection to a listener on loopback by serve, until
// the test ends, and returns its address.
func serveProxy(t *testing.T, serve func(nc net.Conn)) string {
	t.Helper()
	host, port := mailertest.Listen(t, func(nc net.Conn) {
		defer nc.Close()
		serve(nc)
	})
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// join carries octets both ways until one side ends.
func join(a, b net.Conn, fromA io.Reader) {
	go func() {
		_, _ = io.Copy(b, fromA)
		b.Close()
	}()
	_, _ = io.Copy(a, b)
}

const (
	proxyUser     = "squid"
	proxyPassword = "canary:pass/word"
	behindProxy   = "mail.example.com" // a name that the proxy alone can resolve
)

// connectProxy serves HTTP CONNECT: it leads every tunnel for behindProxy to the
// given port. It brings the first octets of the server in one piece with its
// answer, as many as are named.
func connectProxy(t *testing.T, port, early int) func(net.Conn) {
	return func(nc net.Conn) {
		r := bufio.NewReader(nc)
		ask, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		ask.Header.Set("Authorization", ask.Header.Get("Proxy-Authorization"))
		user, password, _ := ask.BasicAuth()
		switch {
		case ask.Method != http.MethodConnect || ask.RequestURI != behindProxy+":587" || ask.Host != ask.RequestURI:
			t.Errorf("%s %s, host %s", ask.Method, ask.RequestURI, ask.Host)
		case user != proxyUser || password != proxyPassword:
			_, _ = io.WriteString(nc, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
		default:
			to, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
			if err != nil {
				t.Error(err)
				return
			}
			greeting := make([]byte, early)
			if _, err := io.ReadFull(to, greeting); err != nil {
				t.Error(err)
			}
			_, _ = nc.Write(append([]byte("HTTP/1.1 200 Connection established\r\nX-Via: test\r\n\r\n"), greeting...))
			join(nc, to, r)
		}
	}
}

// socksProxy serves SOCKS5 with user name and password, likewise. Unless refusal
// is zero, that is its answer.
func socksProxy(t *testing.T, port int, refusal byte) func(net.Conn) {
	return func(nc net.Conn) {
		read := func(n int) []byte {
			b := make([]byte, n)
			_, _ = io.ReadFull(nc, b)
			return b
		}
		methods := read(int(read(2)[1]))
		if !strings.Contains(string(methods), "\x02") {
			_, _ = nc.Write([]byte{5, 0xff})
			return
		}
		_, _ = nc.Write([]byte{5, 2})
		user := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(user) != proxyUser || string(password) != proxyPassword {
			_, _ = nc.Write([]byte{1, 1})
			return
		}
		_, _ = nc.Write([]byte{1, 0})
		head := read(4)
		if head[3] != 3 {
			t.Errorf("asked for an address of type %d, want a name", head[3])
			return
		}
		host, p := read(int(read(1)[0])), read(2)
		if string(host) != behindProxy || binary.BigEndian.Uint16(p) != 587 {
			t.Errorf("asked for %s:%d", host, binary.BigEndian.Uint16(p))
		}
		_, _ = nc.Write([]byte{5, refusal, 0, 1, 0, 0, 0, 0, 0, 0})
		if refusal != 0 {
			return
		}
		to, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Error(err)
			return
		}
		join(nc, to, nc)
	}
}

func parsedProxy(t *testing.T, scheme, user, password, addr string) Proxy {
	t.Helper()
	text := scheme + "://" + addr
	if user != "" {
		text = scheme + "://" + user + ":" + strings.NewReplacer(":", "%3A", "/", "%2F").Replace(password) + "@" + addr
	}
	p, err := ParseProxy(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProxies: mail goes through each kind of proxy, which is told the server's
// name, and the trace tells of it.
func TestProxies(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https", "socks5", "socks5h"} {
		for _, security := range []Security{StartTLS, ImplicitTLS} {
			t.Run(scheme+" "+security.String(), func(t *testing.T) {
				t.Parallel()
				s := &mailertest.Script{Auth: "PLAIN", Implicit: security == ImplicitTLS}
				var roots *x509.CertPool
				s.TLS, roots = mailertest.NewCertificate(t)
				_, port := s.Listen(t)
				early := 9
				if security == ImplicitTLS {
					early = 0 // the client speaks first
				}
				serve := connectProxy(t, port, early)
				switch scheme {
				case "https":
					plain := serve
					serve = func(nc net.Conn) { plain(tls.Server(nc, s.TLS)) }
				case "socks5", "socks5h":
					serve = socksProxy(t, port, 0)
				}
				addr := serveProxy(t, serve)
				named := addr
				if scheme == "socks5h" { // a proxy that has to be looked up itself
					named = net.JoinHostPort("localhost", portOf(t, addr))
				}
				tenant := &Tenant{
					Server: Server{Host: behindProxy, Port: 587, Security: security, RootCAs: roots, Proxy: parsedProxy(t, scheme, proxyUser, proxyPassword, named)},
					Auth:   Password{User: "u", Password: "p"},
				}
				if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil || len(s.Contents()) != 1 {
					t.Fatalf("%v, contents %q", err, s.Contents())
				}
				got := tenant.Test(t.Context(), Probe{From: sender})
				if got.Err != nil || !strings.HasPrefix(outline(got.Steps), "-dns connect ") {
					t.Fatalf("%v; stages %s", got.Err, outline(got.Steps))
				}
				if f := got.Steps[1].Facts; f.Proxy != scheme+"://"+named || f.Address != addr || !strings.Contains(got.Steps[0].Skipped, "proxy") {
					t.Errorf("dns skipped because %q, connect %+v", got.Steps[0].Skipped, f)
				}
			})
		}
	}
}

// TestProxyRefusals: errors of proxies name the proxy, tell whose job it is, and
// show no password.
func TestProxyRefusals(t *testing.T) {
	t.Parallel()
	answer := func(text string) func(*testing.T) func(net.Conn) {
		return func(*testing.T) func(net.Conn) {
			return func(nc net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(nc)); err == nil {
					_, _ = io.WriteString(nc, text)
				}
			}
		}
	}
	words := func(refusal byte) func(*testing.T) func(net.Conn) {
		return func(t *testing.T) func(net.Conn) { return socksProxy(t, 0, refusal) }
	}
	rows := map[string]string{
		"proxy_unreachable": "proxy_unreachable", "proxy_tls": "proxy_tls", "proxy_authentication": "proxy_auth", "proxy_forbidden": "proxy_refused",
		"proxy_wrong_kind": "proxy_wrong_kind", "proxy_no_route": "proxy_failed", "proxy_trouble": "proxy_failed",
	}
	for name, tt := range map[string]struct {
		scheme string
		serve  func(*testing.T) func(net.Conn)
		user   string // other than proxyUser
		// nowhere: the proxy's name is not found.
		nowhere bool
		want    Kind
		code    string
		status  int
		says    string
	}{
		"unknown":            {scheme: "http", nowhere: true, want: KindTemporary, code: "proxy_unreachable", says: "no such host"},
		"unknown socks":      {scheme: "socks5", nowhere: true, want: KindTemporary, code: "proxy_unreachable", says: "no such host"},
		"unreachable":        {scheme: "http", want: KindTemporary, code: "proxy_unreachable", says: "connection refused"},
		"unreachable socks":  {scheme: "socks5", want: KindTemporary, code: "proxy_unreachable", says: "connection refused"},
		"407":                {scheme: "http", user: "other", serve: func(t *testing.T) func(net.Conn) { return connectProxy(t, 0, 0) }, want: KindConfig, code: "proxy_authentication", status: 407, says: "user name and password"},
		"403":                {scheme: "http", serve: answer("HTTP/1.1 403 Forbidden\r\n\r\n"), want: KindConfig, code: "proxy_forbidden", status: 403, says: "its administrator has to allow CONNECT"},
		"502":                {scheme: "http", serve: answer("HTTP/1.1 502 Bad Gateway\r\n\r\n"), want: KindTemporary, code: "proxy_no_route", status: 502, says: "cannot reach mail.example.com:587"},
		"503":                {scheme: "http", serve: answer("HTTP/1.1 503 Service Unavailable\r\n\r\n"), want: KindTemporary, code: "proxy_trouble", status: 503, says: "trouble of its own"},
		"405":                {scheme: "http", serve: answer("HTTP/1.1 405 Method Not Allowed\r\n\r\n"), want: KindConfig, code: "proxy_wrong_kind", status: 405, says: "no proxy for CONNECT"},
		"control characters": {scheme: "http", serve: answer("HTTP/1.1 403 \x1b[31mred\r\n\r\n"), want: KindConfig, code: "proxy_forbidden", status: 403, says: "answered 403  [31mred:"},
		"no HTTP":            {scheme: "http", serve: answer("220 mail.example.com ESMTP\r\n"), want: KindConfig, code: "proxy_wrong_kind", says: "does not speak HTTP"},
		"hangs up":           {scheme: "http", serve: answer(""), want: KindTemporary, code: "proxy_unreachable", says: "EOF"},
		"untrusted": {scheme: "https", serve: func(t *testing.T) func(net.Conn) {
			config, _ := mailertest.NewCertificate(t)
			return func(nc net.Conn) { _ = tls.Server(nc, config).Handshake() }
		}, want: KindConfig, code: "proxy_tls", says: "unknown authority"},
		"endless": {scheme: "http", serve: func(*testing.T) func(net.Conn) {
			return func(nc net.Conn) {
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n")
				for {
					if _, err := io.WriteString(nc, "X-More: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
						return
					}
				}
			}
		}, want: KindTemporary, code: "proxy_unreachable", says: "EOF"},
		"socks password":    {scheme: "socks5", user: "other", serve: words(0), want: KindConfig, code: "proxy_authentication", says: "user name and password"},
		"socks ruleset":     {scheme: "socks5", serve: words(2), want: KindConfig, code: "proxy_forbidden", says: "its administrator has to allow mail.example.com:587"},
		"socks unreachable": {scheme: "socks5", serve: words(4), want: KindTemporary, code: "proxy_no_route", says: "cannot reach mail.example.com:587"},
		"socks command":     {scheme: "socks5", serve: words(7), want: KindConfig, code: "proxy_wrong_kind", says: "no proxy for SOCKS5"},
		"no socks": {scheme: "socks5", serve: func(*testing.T) func(net.Conn) {
			return func(nc net.Conn) { _, _ = io.WriteString(nc, "HTTP/1.1 400\r\n\r\n") }
		}, want: KindConfig, code: "proxy_wrong_kind", says: "no proxy for SOCKS5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := fmt.Sprintf("127.0.0.1:%d", closedPort(t))
			if tt.nowhere {
				addr = "no..such.proxy:3128"
			}
			if tt.serve != nil {
				addr = serveProxy(t, tt.serve(t))
			}
			user := proxyUser
			if tt.user != "" {
				user = tt.user
			}
			tenant := &Tenant{Server: Server{Host: behindProxy, Port: 587, Proxy: parsedProxy(t, tt.scheme, user, proxyPassword, addr)}}
			got := tenant.Test(t.Context(), Probe{From: sender})
			checkBroken(t, got, StageConnect, tt.want, "general."+rows[tt.code], "proxy "+tt.scheme+"://"+addr, tt.says)
			p, ok := errors.AsType[*ProxyError](got.Err.Err)
			if !ok || p.Status != tt.status || p.Code != tt.code || got.Err.Code != tt.code {
				t.Errorf("error %#v, want status %d, code %s", got.Err, tt.status, tt.code)
			}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
				if text := fmt.Sprintf(verb+" "+verb+" "+verb, tenant.Server, got, p); strings.Contains(text, "canary") {
					t.Errorf("%s shows the password: %s", verb, text)
				}
			}
		})
	}
}

// TestProxyHangs: a proxy that says nothing costs no more than any dialing.
func TestProxyHangs(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			addr := serveProxy(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
			server := Server{Host: behindProxy, Port: 587, Proxy: parsedProxy(t, scheme, proxyUser, proxyPassword, addr), Timeouts: Timeouts{Dial: 200 * time.Millisecond}}
			err := (&Tenant{Server: server}).SignIn(t.Context(), nil)
			if e := wantError(t, err, StageConnect, KindTemporary); !strings.Contains(e.Error(), "proxy "+scheme+"://"+addr) || e.Diagnosis().ID != "general.proxy_unreachable" {
				t.Error(e)
			}
		})
	}
}

// TestPlaintextTakesNoProxy: where it led could not be checked.
func TestPlaintextTakesNoProxy(t *testing.T) {
	t.Parallel()
	proxy := parsedProxy(t, "http", "", "", "127.0.0.1:1")
	err := (&Tenant{Server: Server{Host: "127.0.0.1", Port: 25, Security: Plaintext, Proxy: proxy}}).SignIn(t.Context(), nil)
	if e := wantError(t, err, StageConnect, KindConfig); !strings.Contains(e.Error(), "proxy") {
		t.Error(e)
	}
}

func TestParseProxy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"http://proxy.example.com":               "http://proxy.example.com:80",
		"https://u:p%40@proxy.example.com/":      "https://proxy.example.com:443",
		"socks5://u:p@[::1]":                     "socks5://[::1]:1080",
		"socks5h://proxy.example.com:9":          "socks5h://proxy.example.com:9",
		"proxy.example.com:3128":                 "",
		"ftp://u:canary@proxy.example.com":       "",
		"http://":                                "",
		"http://u:canary@/":                      "",
		"http://u:canary@proxy.example.com/path": "",
		"http://u:canary@proxy.example.com?q":    "",
		"http://u:canary%zz@proxy.example.com":   "",
		"http://u:canary@proxy.example.com:x":    "",
	} {
		p, err := ParseProxy(text)
		if want == "" && (err == nil || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v", text, err)
		}
		if want != "" && (err != nil || p.String() != want || p.URL().String() != text) {
			t.Errorf("%s: %q, %v", text, p, err)
		}
	}
}
