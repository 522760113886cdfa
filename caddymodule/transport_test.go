package caddymodule

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// endpoint is a provider's endpoint with a certificate of its own for
// example.com.
func endpoint(t *testing.T, change func(*httptest.Server)) (server *httptest.Server, authorities []byte) {
	t.Helper()
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if change != nil {
		change(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// connectProxy is an HTTP proxy whose every tunnel leads to one address.
type connectProxy struct {
	*httptest.Server
	// hosts is how many were asked for; authorization is what came with the last.
	hosts         atomic.Int32
	host          atomic.Value
	authorization atomic.Value
}

func newConnectProxy(t *testing.T, to string) *connectProxy {
	t.Helper()
	p := new(connectProxy)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only tunnels", http.StatusMethodNotAllowed)
			return
		}
		p.hosts.Add(1)
		p.host.Store(r.Host)
		p.authorization.Store(r.Header.Get("Proxy-Authorization"))
		out, err := net.Dial("tcp", to)
		if err != nil {
			http.Error(w, "unreachable", http.StatusBadGateway)
			return
		}
		in, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			out.Close()
			return
		}
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(out, bufio.NewReader(buffered)); out.Close() }()
		_, _ = io.Copy(in, out)
		in.Close()
	}))
	t.Cleanup(p.Close)
	return p
}

// settingsOf builds the transport that a provider's words ask for.
func settingsOf(t *testing.T, p Provider, authorities []byte) transportSettings {
	t.Helper()
	var b builder
	s, ok := b.transport("provider p", providerSettings{Provider: p, authorities: authorities})
	if !ok {
		t.Fatal(b.errs)
	}
	return s
}

func fetch(s transportSettings, url string) error {
	transport := newTransport(s)
	defer func() { _ = transport.Destruct() }()
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// TestProviderProxy: the provider is reached through the proxy and nowhere else.
func TestProviderProxy(t *testing.T) {
	t.Parallel()
	server, authorities := endpoint(t, nil)
	proxy := newConnectProxy(t, server.Listener.Addr().String())
	s := settingsOf(t, Provider{Proxy: strings.Replace(proxy.URL, "//", "//user:canary-pass%2Fword@", 1), CAFile: "ca.pem"}, authorities)
	if err := fetch(s, "https://example.com/"); err != nil {
		t.Fatal(err)
	}
	if host := proxy.host.Load(); host != "example.com:443" {
		t.Errorf("asked for %v", host)
	}
	if got := proxy.authorization.Load(); got != "Basic dXNlcjpjYW5hcnktcGFzcy93b3Jk" { // user:canary-pass/word
		t.Errorf("authorization %v", got)
	}
	// What is on this machine is not asked from another one.
	if err := fetch(s, server.URL); err != nil || proxy.hosts.Load() != 1 {
		t.Errorf("loopback: %v, %d tunnels", err, proxy.hosts.Load())
	}
	proxy.Close()
	if err := fetch(s, "https://example.com/"); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("without the proxy: %v", err)
	}
}

// TestProviderAuthorities: a provider's own authorities replace the system's.
func TestProviderAuthorities(t *testing.T) {
	t.Parallel()
	server, authorities := endpoint(t, nil)
	if err := fetch(settingsOf(t, Provider{}, nil), server.URL); err == nil {
		t.Error("a certificate of nobody's was accepted")
	}
	if err := fetch(settingsOf(t, Provider{CAFile: "ca.pem"}, authorities), server.URL); err != nil {
		t.Error(err)
	}
	other, _ := pem.Decode(certificatePEM(t, server.Certificate().NotAfter))
	if err := fetch(settingsOf(t, Provider{CAFile: "ca.pem"}, pem.EncodeToMemory(other)), server.URL); err == nil {
		t.Error("a certificate of another authority was accepted")
	}
}

func TestProviderTLSVersion(t *testing.T) {
	t.Parallel()
	server, authorities := endpoint(t, func(s *httptest.Server) {
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11} //nolint:gosec // what is to be refused
	})
	if err := fetch(settingsOf(t, Provider{CAFile: "ca.pem"}, authorities), server.URL); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

// TestTransportsAreShared: providers with the same ways share connections, also
// over reloads, and the last one to go closes them.
func TestTransportsAreShared(t *testing.T) {
	t.Parallel()
	opened, closed := make(chan struct{}, 9), make(chan struct{}, 9)
	server, authorities := endpoint(t, func(s *httptest.Server) {
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				opened <- struct{}{}
			case http.StateClosed:
				closed <- struct{}{}
			default:
			}
		}
	})
	a := settingsOf(t, Provider{CAFile: "ca.pem", Proxy: "http://proxy.example:1"}, authorities)
	b := settingsOf(t, Provider{CAFile: "elsewhere.pem", Proxy: "http://proxy.example:1"}, authorities)
	var old, fresh holdings
	first, err := old.transport(a)
	if err != nil {
		t.Fatal(err)
	}
	get := func(r http.RoundTripper) {
		t.Helper()
		resp, err := (&http.Client{Transport: r}).Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	get(first)
	second, err := fresh.transport(b)
	if err != nil || second != first {
		t.Fatalf("not shared: %v", err)
	}
	old.release()
	old.release() // once more is once
	get(second)
	if len(opened) != 1 || len(closed) != 0 {
		t.Errorf("%d connections were opened and %d closed over a reload, want the old one", len(opened), len(closed))
	}
	fresh.release()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is left open")
	}
	for name, other := range map[string]transportSettings{
		"other proxy":       settingsOf(t, Provider{CAFile: "ca.pem", Proxy: "http://proxy.example:2"}, authorities),
		"other password":    settingsOf(t, Provider{CAFile: "ca.pem", Proxy: "http://a:b@proxy.example:1"}, authorities),
		"other authorities": {proxy: a.proxy, authorities: sha256.Sum256(nil)},
		"no proxy":          settingsOf(t, Provider{CAFile: "ca.pem"}, authorities),
	} {
		if other.key() == a.key() {
			t.Errorf("%s: shared", name)
		}
	}
}
