package caddymodule

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// transportSettings are how a provider's endpoints are reached.
type transportSettings struct {
	// proxy is nil for what the environment says.
	proxy *url.URL
	// roots verify certificates; nil for the system's.
	roots *x509.CertPool
	// authorities is the hash of what roots are made of; zero for the system's.
	authorities [sha256.Size]byte
	// guarded: it leads to no address that [allowAddress] refuses.
	guarded bool
}

// transport checks how a provider's endpoints are reached. An error shows
// nothing of the proxy's URL, which may hold a password.
func (b *builder) transport(at string, s providerSettings) (t transportSettings, ok bool) {
	if s.Proxy != "" {
		proxy, err := mailer.ParseProxy(s.Proxy)
		if err != nil {
			b.errorf("%s, proxy: %w", at, err)
			return t, false
		}
		t.proxy = proxy.URL()
	}
	if s.CAFile != "" || s.authorities != nil {
		t.roots, t.authorities = x509.NewCertPool(), sha256.Sum256(s.authorities)
		if !t.roots.AppendCertsFromPEM(s.authorities) {
			b.errorf("%s, %s has no certificate in PEM form", at, caWord(s.CAFile))
			return t, false
		}
	}
	t.guarded = s.origin == originRuntime
	return t, true
}

// caWord names the setting that authorities come from.
func caWord(file string) string {
	if file == "" {
		return "ca"
	}
	return "ca_file: " + file
}

// key identifies interchangeable transports.
func (t transportSettings) key() transportKey {
	proxy := ""
	if t.proxy != nil {
		proxy = t.proxy.String()
	}
	return digest("transport", proxy, t.authorities, t.guarded)
}

// warmTransport is connections to providers. It outlives a configuration, as
// long as another one has the same.
type warmTransport struct{ *http.Transport }

// Destruct closes the idle connections. Those in use end some time after their
// request, when they were idle too long.
func (w warmTransport) Destruct() error {
	w.CloseIdleConnections()
	return nil
}

var _ caddy.Destructor = warmTransport{}

// newTransport returns a transport for a provider's endpoints.
func newTransport(t transportSettings) warmTransport {
	proxy := http.ProxyFromEnvironment
	if t.proxy != nil {
		proxy = func(r *http.Request) (*url.URL, error) {
			if isLoopback(r.URL.Hostname()) {
				return nil, nil // another machine's loopback is not meant, and http would tell it the secrets
			}
			return t.proxy, nil
		}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if t.guarded {
		dialer.Control = guardDial
	}
	return warmTransport{&http.Transport{
		Proxy:               proxy,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.roots},
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 8, // as many refreshes as run at a time, and sign-ins
	}}
}

// withPassword puts the password back into a proxy's URL that was taken out.
func withPassword(proxy, password string) string {
	u, err := url.Parse(proxy)
	if err != nil || password == "" || u.User == nil {
		return proxy
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String()
}
