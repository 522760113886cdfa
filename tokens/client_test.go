package tokens

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestDiscovery(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(*tokenstest.Server, *Provider)
		want    string // part of the error; empty for none
	}{
		"OpenID Connect":        {func(*tokenstest.Server, *Provider) {}, ""},
		"issuer with a path":    {func(s *tokenstest.Server, _ *Provider) { s.Issuer = "https://idp.example.net/realms/a" }, ""},
		"RFC 8414":              {func(s *tokenstest.Server, _ *Provider) { s.PlainOAuth = true }, ""},
		"RFC 8414 with a path":  {func(s *tokenstest.Server, _ *Provider) { s.PlainOAuth, s.Issuer = true, "https://idp.example.net/a/b" }, ""},
		"loopback":              {func(s *tokenstest.Server, _ *Provider) { s.Issuer = "http://127.0.0.1:8080" }, ""},
		"other issuer":          {metadataWith("issuer", "https://evil.example"), "metadata is of issuer"},
		"issuer with a slash":   {metadataWith("issuer", "https://idp.example.net/"), "metadata is of issuer"},
		"no issuer":             {metadataWith("issuer", nil), "metadata is of issuer"},
		"plain token endpoint":  {metadataWith("token_endpoint", "http://idp.example.net/token"), "must begin with https://"},
		"plain authorization":   {metadataWith("authorization_endpoint", "http://idp.example.net/a"), "must begin with https://"},
		"script authorization":  {metadataWith("authorization_endpoint", "javascript:alert(1)"), "must be an absolute URL"},
		"plain revocation":      {metadataWith("revocation_endpoint", "http://idp.example.net/r"), "must begin with https://"},
		"endpoint with user":    {metadataWith("token_endpoint", "https://u:p@idp.example.net/token"), "without user"},
		"no token endpoint":     {metadataWith("token_endpoint", nil), "lacks an endpoint"},
		"no revocation is fine": {metadataWith("revocation_endpoint", nil), ""},
		"no authorization":      {metadataWith("authorization_endpoint", nil), "lacks an endpoint"},
		"plain device":          {metadataWith("device_authorization_endpoint", "http://idp.example.net/d"), "must begin with https://"},
		"not JSON": {func(s *tokenstest.Server, _ *Provider) {
			s.Metadata = func(m map[string]any) { clear(m); m["issuer"] = []int{1} }
		}, "no JSON object"},
		"nothing there": {func(s *tokenstest.Server, p *Provider) {
			s.Issuer = "https://idp.example.net/x"
			p.Issuer = "https://idp.example.net/y"
		}, "status 404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setUp(t)
			p := f.provider()
			p.AuthorizationEndpoint, p.TokenEndpoint, p.RevocationEndpoint, p.Issuer = "", "", "", ""
			test.prepare(f.server, &p)
			if p.Issuer == "" {
				p.Issuer = f.server.Issuer
			}
			f.expired()
			c := NewClient(p, f.server)
			_, err := c.resolve(t.Context())
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				var e *Error
				if !errors.As(err, &e) || e.Kind != KindConfig || e.Op != "discovery" {
					t.Errorf("error %#v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			f.mustToken(f.sourceOf(&Cell{}, c))
		})
	}
}

func metadataWith(name string, value any) func(*tokenstest.Server, *Provider) {
	return func(s *tokenstest.Server, _ *Provider) {
		s.Metadata = func(m map[string]any) {
			m[name] = value
			if value == nil {
				delete(m, name)
			}
		}
	}
}

// transportFunc is a func as an [http.RoundTripper].
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestDiscoveryIsSharedAndKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		p := f.provider()
		p.AuthorizationEndpoint, p.TokenEndpoint = "", ""
		gate := make(chan struct{})
		var gets atomic.Int32
		c := NewClient(p, transportFunc(func(r *http.Request) (*http.Response, error) {
			if gets.Add(1) == 1 {
				return nil, errors.New("the first one fails")
			}
			<-gate
			return f.server.RoundTrip(r)
		}))
		if _, err := c.resolve(t.Context()); err == nil || !err.(*Error).Temporary() {
			t.Errorf("error %v, want a temporary one", err)
		}
		// Impatient callers leave when they like, and harm nobody.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan error, 10)
		go func() { _, err := c.resolve(ctx); done <- err }()
		synctest.Wait()
		for range 9 {
			go func() { _, err := c.resolve(t.Context()); done <- err }()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient caller got %v", err)
		}
		close(gate)
		for range 9 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if _, err := c.resolve(t.Context()); err != nil || gets.Load() != 2 {
			t.Errorf("error %v, %d requests, want 2", err, gets.Load())
		}
	})
}

func TestDiscoveryDoesNotFollowRedirects(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	p := f.provider()
	p.AuthorizationEndpoint, p.TokenEndpoint = "", ""
	gets := 0
	c := NewClient(p, transportFunc(func(r *http.Request) (*http.Response, error) {
		gets++
		return &http.Response{StatusCode: 302, Header: http.Header{"Location": {"https://evil.example/"}}, Body: http.NoBody, Request: r}, nil
	}))
	if _, err := c.resolve(t.Context()); err == nil || gets != 1 {
		t.Errorf("error %v, %d requests", err, gets)
	}
}

func TestDiscoverySettings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		methods any
		iss     any
		style   AuthStyle
		rule    IssRule
		want    AuthStyle
		wantIss IssRule
	}{
		"post and iss":        {[]string{"client_secret_basic", "client_secret_post"}, true, AuthFromMetadata, IssIfPresent, AuthPost, IssRequired},
		"basic alone":         {[]string{"client_secret_basic"}, false, AuthFromMetadata, IssIfPresent, AuthBasic, IssIfPresent},
		"nothing said":        {nil, nil, AuthFromMetadata, IssIfPresent, AuthBasic, IssIfPresent},
		"settings come first": {[]string{"client_secret_post"}, true, AuthBasic, IssIgnored, AuthBasic, IssIgnored},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setUp(t)
			f.server.Metadata = func(m map[string]any) {
				m["token_endpoint_auth_methods_supported"] = test.methods
				m["authorization_response_iss_parameter_supported"] = test.iss
			}
			p := f.provider()
			p.AuthorizationEndpoint, p.TokenEndpoint = "", ""
			p.AuthStyle, p.IssRule = test.style, test.rule
			got, err := NewClient(p, f.server).resolve(t.Context())
			if err != nil || got.AuthStyle != test.want || got.IssRule != test.wantIss {
				t.Errorf("style %v, rule %v, %v", got.AuthStyle, got.IssRule, err)
			}
		})
	}
}

// Without a person, nothing asks for an authorization endpoint: neither the
// settings nor the metadata.
func TestDiscoveryWithoutAPerson(t *testing.T) {
	t.Parallel()
	for _, grant := range []Grant{GrantClientCredentials, GrantServiceAccount} {
		f, p := app(t, grant)
		f.server.Metadata = func(map[string]any) { t.Error("discovery") }
		if _, err := NewClient(p, f.server).mint(t.Context(), f.account.User); err != nil {
			t.Error(err)
		}
		p.TokenEndpoint = ""
		metadataWith("authorization_endpoint", nil)(f.server, nil)
		if _, err := NewClient(p, f.server).mint(t.Context(), f.account.User); err != nil {
			t.Error(err)
		}
		metadataWith("token_endpoint", nil)(f.server, nil)
		if _, err := NewClient(p, f.server).mint(t.Context(), f.account.User); err == nil || !strings.Contains(err.Error(), "lacks an endpoint") {
			t.Errorf("without a token endpoint: %v", err)
		}
	}
}

func TestDeviceEndpointIsDiscovered(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ given, told, want string }{
		"discovered": {"", "https://idp.example.net/device", "https://idp.example.net/device"},
		"given":      {"https://a/device", "https://idp.example.net/device", "https://a/device"},
		"neither":    {"", "", ""},
	} {
		f := setUp(t)
		metadataWith("device_authorization_endpoint", test.told)(f.server, nil)
		p := f.provider()
		p.TokenEndpoint, p.DeviceAuthorizationEndpoint = "", test.given
		got, err := NewClient(p, f.server).resolve(t.Context())
		if err != nil || got.DeviceAuthorizationEndpoint != test.want {
			t.Errorf("%s: %q, %v", name, got.DeviceAuthorizationEndpoint, err)
		}
	}
}

func TestAuthorizationURL(t *testing.T) {
	t.Parallel()
	google, err := FromPreset("google", "", GrantAuthorizationCode)
	if err != nil {
		t.Fatal(err)
	}
	google.ClientID, google.RedirectURI = "id", "https://mail.example.com/cb"
	u, err := url.Parse(NewClient(google, nil).authorizationURL(google, "st", "no", strings.Repeat("v", 43), "a@example.com", "select_account"))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for name, want := range map[string]string{
		"client_id": "id", "redirect_uri": "https://mail.example.com/cb", "response_type": "code", "state": "st", "nonce": "no",
		"login_hint": "a@example.com", "access_type": "offline", "code_challenge_method": "S256",
		// Without consent Google gives no refresh token.
		"prompt": "select_account consent",
		"scope":  "https://mail.google.com/ openid email",
	} {
		if got := q.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if q.Has("code_verifier") || strings.Contains(u.String(), "vvvv") {
		t.Error("the verifier is in the URL")
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := Provider{ClientID: "c", Issuer: "https://idp.example.net", Servers: []string{"smtp.example.net"}}
	with := func(changes ...func(*Provider)) func(*Provider) {
		return func(p *Provider) {
			for _, change := range changes {
				change(p)
			}
		}
	}
	appOnly := func(p *Provider) {
		p.Grant, p.Credentials, p.Scopes = GrantClientCredentials, NewClientSecret("x"), []string{"https://a/.default"}
	}
	service := func(p *Provider) {
		p.Grant, p.ClientID, p.Scopes = GrantServiceAccount, "", []string{"mail"}
		p.ServiceAccount = func() (*SigningKey, error) { return serviceKey(), nil }
	}
	for name, test := range map[string]struct {
		change func(*Provider)
		want   string
	}{
		"good": {func(*Provider) {}, ""},
		"endpoints, no issuer": {func(p *Provider) {
			p.Issuer, p.AuthorizationEndpoint, p.TokenEndpoint = "", "https://a/a", "https://a/t"
		}, ""},
		"loopback":              {func(p *Provider) { p.Issuer = "http://localhost:8080" }, ""},
		"loopback, IPv6":        {func(p *Provider) { p.Issuer = "http://[::1]:8080" }, ""},
		"harmless parameter":    {func(p *Provider) { p.AuthParams = map[string]string{"hd": "example.com"} }, ""},
		"no client id":          {func(p *Provider) { p.ClientID = "" }, "client_id"},
		"no endpoint":           {func(p *Provider) { p.Issuer = "" }, "issuer"},
		"one endpoint":          {func(p *Provider) { p.Issuer, p.TokenEndpoint = "", "https://a/t" }, "issuer"},
		"no servers":            {func(p *Provider) { p.Servers = nil }, "servers"},
		"plain issuer":          {func(p *Provider) { p.Issuer = "http://idp.example.net" }, "https://"},
		"looks like loopback":   {func(p *Provider) { p.Issuer = "http://localhost.evil.example" }, "https://"},
		"plain redirect":        {func(p *Provider) { p.RedirectURI = "http://mail.example.com/cb" }, "https://"},
		"no URL":                {func(p *Provider) { p.TokenEndpoint = "https://a b/" }, "token_endpoint"},
		"fragment":              {func(p *Provider) { p.TokenEndpoint = "https://a/#x" }, "fragment"},
		"relative":              {func(p *Provider) { p.TokenEndpoint = "/token" }, "absolute"},
		"parameter of our own":  {func(p *Provider) { p.AuthParams = map[string]string{"state": "x"} }, "state"},
		"challenge of our own":  {func(p *Provider) { p.AuthParams = map[string]string{"code_challenge_method": "plain"} }, "code_challenge_method"},
		"redirect of their own": {func(p *Provider) { p.AuthParams = map[string]string{"redirect_uri": "https://evil"} }, "redirect_uri"},
		"device, no address":    {func(p *Provider) { p.DeviceAuthorizationEndpoint = "device" }, "device_authorization_endpoint"},
		"credential of nothing": {func(p *Provider) { p.Credentials = []Credential{{Name: "client_secret 2"}} }, "client_secret 2"},
		"credential of two": {func(p *Provider) {
			p.Credentials = []Credential{{Name: "x", Secret: reads("x"), Assertion: reads("x")}}
		}, "must be one"},
		".default, sign-in":      {func(p *Provider) { p.Scopes = []string{"https://a/.default", "openid", "offline_access"} }, ""},
		".default and a name":    {func(p *Provider) { p.Scopes = []string{"https://a/.default", "https://a/SMTP.Send"} }, ".default"},
		".default of two":        {func(p *Provider) { p.Scopes = []string{"https://a/.default", "https://b/.default"} }, ".default"},
		"app":                    {appOnly, ""},
		"app, by endpoint":       {with(appOnly, func(p *Provider) { p.Issuer, p.TokenEndpoint = "", "https://a/t" }), ""},
		"app, no endpoint":       {with(appOnly, func(p *Provider) { p.Issuer = "" }), "token_endpoint"},
		"app, wrong one":         {with(appOnly, func(p *Provider) { p.Issuer, p.AuthorizationEndpoint = "", "https://a/a" }), "token_endpoint"},
		"app, public":            {with(appOnly, func(p *Provider) { p.Credentials = nil }), "client_credentials"},
		"app, no scope":          {with(appOnly, func(p *Provider) { p.Scopes = nil }), "scopes"},
		"app, no client id":      {with(appOnly, func(p *Provider) { p.ClientID = "" }), "client_id"},
		"service account":        {service, ""},
		"service account, id":    {with(service, func(p *Provider) { p.ClientID = "c" }), ""},
		"service account, key":   {with(service, func(p *Provider) { p.ServiceAccount = nil }), "key"},
		"service account, scope": {with(service, func(p *Provider) { p.Scopes = nil }), "scopes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := good
			test.change(&p)
			err := p.Check()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Check: %v, want %q", err, test.want)
			}
		})
	}
}
