package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// fixedSecret is a credential for settings that no file makes.
func fixedSecret(value string) []credential {
	return []credential{{Credential: tokens.NewClientSecret(value)[0], expires: neverExpires}}
}

// application is a provider of Microsoft's without a person.
func application(secret string) providerSettings {
	return providerSettings{
		Provider:    Provider{Preset: "microsoft", Directory: "contoso.com", Grant: "client_credentials", ClientID: "c"},
		credentials: fixedSecret(secret),
	}
}

func oauthTenant(provider, user string) tenantSettings {
	return tenantSettings{Tenant: Tenant{Auth: Auth{Method: "oauth", Provider: provider}, User: user}}
}

func mustBuild(t *testing.T, s settings) *snapshot {
	t.Helper()
	v, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestApplicationNeedsNoSignIn: without a person there is no redirect URI, and
// one account for all mailboxes; each signs in as itself.
func TestApplicationNeedsNoSignIn(t *testing.T) {
	t.Parallel()
	b := oauthTenant("app", "b@contoso.com")
	b.Connections = 1 // another mailbox, another limit
	s := mustBuild(t, settings{
		providers: map[string]providerSettings{
			"app": application("s"),
			"workspace": {
				Provider:       Provider{Preset: "google", Grant: "service_account"},
				serviceAccount: func() (*tokens.SigningKey, error) { return nil, nil },
			},
		},
		tenants: map[string]tenantSettings{
			"a": oauthTenant("app", "A@contoso.com"), "b": b,
			"c": oauthTenant("workspace", "C@shop.example"), "d": oauthTenant("workspace", "d@shop.example"),
		},
	})
	if len(s.callbacks) != 0 || s.providers["app"].settings.RedirectURI != "" {
		t.Errorf("redirect URIs: %v", s.callbacks)
	}
	for name, want := range map[string]struct {
		account tokens.Account
		user    string
	}{
		"a": {tokens.Account{Provider: "app", User: tokens.AppUser}, "A@contoso.com"},
		"b": {tokens.Account{Provider: "app", User: tokens.AppUser}, "b@contoso.com"},
		"c": {tokens.Account{Provider: "workspace", User: "c@shop.example"}, "C@shop.example"},
		"d": {tokens.Account{Provider: "workspace", User: "d@shop.example"}, "d@shop.example"},
	} {
		if got := s.tenants[name]; got.account != want.account || got.user != want.user {
			t.Errorf("%s: account %s, user %s", name, got.account, got.user)
		}
	}
}

// TestPresetReachesTenants: what the preset knows of the mail servers is a
// tenant's default, and the tenant's own word comes first.
func TestPresetReachesTenants(t *testing.T) {
	t.Parallel()
	own := oauthTenant("m", "b@contoso.com")
	own.Connections, own.Auth.Mechanism = 1, "oauthbearer"
	s := mustBuild(t, settings{
		redirectBase: "https://a.example/cb",
		providers: map[string]providerSettings{
			"m": {Provider: Provider{Preset: "microsoft", Directory: "contoso.com", ClientID: "c"}},
			"g": {Provider: Provider{Issuer: "https://idp.example", ClientID: "c", Servers: []string{"smtp.example"}}},
		},
		tenants: map[string]tenantSettings{"preset": oauthTenant("m", "a@contoso.com"), "own": own, "generic": oauthTenant("g", "a@example.com")},
	})
	for name, want := range map[string]struct {
		connections int
		mechanism   string
	}{"preset": {3, "xoauth2"}, "own": {1, "oauthbearer"}, "generic": {2, ""}} {
		if got := s.tenants[name]; got.limits.connections != want.connections || got.auth.Mechanism != want.mechanism {
			t.Errorf("%s: %d connections, mechanism %q", name, got.limits.connections, got.auth.Mechanism)
		}
	}
}

// TestProviderWords: the words override the preset.
func TestProviderWords(t *testing.T) {
	t.Parallel()
	p := mustBuild(t, settings{
		redirectBase: "https://a.example/cb",
		providers: map[string]providerSettings{"p": {Provider: Provider{
			Preset: "microsoft", Directory: "contoso.com", ClientID: "c", DeviceCode: true, ClientAuth: "basic",
			DeviceAuthorizationEndpoint: "https://idp.example/device", AdminConsentEndpoint: "https://idp.example/consent",
			Rotation: "strict", Margin: caddy.Duration(time.Minute), RefreshRate: 2.5,
		}}},
	}).providers["p"].settings
	if !p.DeviceCode || p.DeviceAuthorizationEndpoint != "https://idp.example/device" || p.AdminConsentEndpoint != "https://idp.example/consent" ||
		p.Rotation != tokens.RotationStrict || p.Margin != time.Minute || p.RefreshRate != 2.5 || p.AuthStyle != tokens.AuthBasic {
		t.Errorf("got %+v", p)
	}
}

// TestConnectionsAreOfOneMailbox: an application's mailboxes share its token, and
// never a connection: a session is signed in as one of them. A new secret keeps
// the connections.
func TestConnectionsAreOfOneMailbox(t *testing.T) {
	t.Parallel()
	attach := func(secret string) (*App, *snapshot) {
		t.Helper()
		a := &App{}
		t.Cleanup(a.holdings.release)
		s := mustBuild(t, settings{
			providers: map[string]providerSettings{"app": application(secret)},
			tenants: map[string]tenantSettings{
				"a": oauthTenant("app", "a@contoso.com"), "A": oauthTenant("app", "A@contoso.com"), "b": oauthTenant("app", "b@contoso.com"),
			},
		})
		if err := a.attach(s); err != nil {
			t.Fatal(err)
		}
		return a, s
	}
	old, before := attach("one secret")
	fresh, after := attach("another secret")
	tenants := before.tenants
	if tenants["a"].mail.Pool == tenants["b"].mail.Pool {
		t.Error("two mailboxes share connections")
	}
	if tenants["a"].mail.Pool != tenants["A"].mail.Pool {
		t.Error("one mailbox, written in two ways, has two limits")
	}
	if tenants["a"].source != tenants["b"].source {
		t.Error("the application's token is fetched for each mailbox")
	}
	if after.tenants["a"].mail.Pool != tenants["a"].mail.Pool || !maps.Equal(old.holdings.cells, fresh.holdings.cells) {
		t.Error("a new secret ended connections or tokens")
	}
}

// TestECCertificate: Entra takes certificates of RSA keys only, others take both.
func TestECCertificate(t *testing.T) {
	t.Parallel()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tokens.ParseSigningKey(certifiedPEM(t, signer, time.Now().Add(day)))
	if err != nil {
		t.Fatal(err)
	}
	entra := application("s")
	generic := providerSettings{Provider: Provider{
		Issuer: "https://idp.example", ClientID: "c", Grant: "client_credentials", Scopes: []string{"smtp"}, Servers: []string{"smtp.example"},
	}}
	for want, p := range map[string]providerSettings{"client_certificate: the provider takes RSA keys only": entra, "": generic} {
		p.credentials = []credential{{
			Credential: tokens.Credential{Name: "client_certificate", Key: func() (*tokens.SigningKey, error) { return key, nil }}, expires: neverExpires,
		}}
		_, err := build(settings{providers: map[string]providerSettings{"p": p}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestRefreshPolicy(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]tokens.Policy{"": "", "auto": tokens.PolicyAuto, "always": tokens.PolicyAlways, "on_use": tokens.PolicyOnUse} {
		if got := mustBuild(t, settings{refresh: word}).refresh; got != want {
			t.Errorf("%q: %q", word, got)
		}
	}
	if _, err := build(settings{refresh: "never"}); err == nil || !strings.Contains(err.Error(), `refresh: "never" must be one of auto, always, on_use`) {
		t.Errorf("got error %v", err)
	}
}
