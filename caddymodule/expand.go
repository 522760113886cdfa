package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// expander replaces the placeholders of a configuration. Each string passes it
// exactly once, and nothing that came with a request ever does: a value that
// looks like a placeholder must not be taken for one.
type expander struct {
	replacer *caddy.Replacer
	logger   *slog.Logger
	// place names the block being expanded, such as "provider m365".
	place string
	// files are those that were read already, by name.
	files map[string][]byte
	errs  []error
}

// text expands one string in place.
func (e *expander) text(word string, s *string) {
	t := liveText{text: *s, replacer: e.replacer}
	expanded, err := t.expand()
	if err != nil {
		e.fail(word, err)
		return
	}
	*s = expanded
}

// secret expands a string that should not stand in the configuration itself.
func (e *expander) secret(word string, s *string) {
	e.warnLiteral(word, *s)
	e.text(word, s)
}

// proxy expands the URL of a proxy, which may hold a password.
func (e *expander) proxy(s *string) {
	if strings.Contains(*s, "@") { // and so a password
		e.warnLiteral("proxy", *s)
	}
	e.text("proxy", s)
}

func (e *expander) warnLiteral(word, s string) {
	if _, err := os.Stat(s); err == nil && strings.HasPrefix(s, "/") {
		e.fail(word, fmt.Errorf("this is the path of a file; write {file.%s} for what is in it", s))
		return
	}
	if s != "" && !strings.Contains(s, "{") {
		e.logger.Warn("a secret stands in the configuration in clear; better use {file.*} or {env.*}",
			"place", e.place, "setting", word)
	}
}

func (e *expander) list(word string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		e.text(word, &s)
		out[i] = s
	}
	return out
}

// fail notes an error.
func (e *expander) fail(word string, err error) {
	place := e.place
	if place != "" {
		place += ", "
	}
	e.errs = append(e.errs, fmt.Errorf("%s%s: %w", place, word, err))
}

// path expands the name of a file, and reports whether there is one. The content
// of a file in its place would be a secret that every error shows.
func (e *expander) path(word string, name *string) bool {
	if strings.Contains(*name, "{file.") {
		e.fail(word, errors.New("it takes the path of a file, such as /run/secrets/app.pem, without {file.}"))
		return false
	}
	before := len(e.errs)
	e.text(word, name)
	return *name != "" && len(e.errs) == before
}

// file reads a file that the configuration names; nil for none.
func (e *expander) file(word string, name *string) []byte {
	if !e.path(word, name) {
		return nil
	}
	if content, read := e.files[*name]; read {
		return content
	}
	content, err := os.ReadFile(*name)
	if err != nil {
		e.fail(word, err)
		return nil
	}
	if e.files == nil {
		e.files = make(map[string][]byte)
	}
	e.files[*name] = content
	return content
}

// expand replaces the placeholders of the app's configuration and reads the
// files that it names.
func (a *App) expand() (settings, error) {
	e := &expander{replacer: caddy.NewReplacer().WithoutFile(), logger: a.logger}
	s := settings{
		redirectBase: a.RedirectBase,
		refresh:      a.Refresh,
		keepSent:     time.Duration(a.KeepSent),
		keepFailed:   time.Duration(a.KeepFailed),
		providers:    make(map[string]providerSettings, len(a.Providers)),
		tenants:      make(map[string]tenantSettings, len(a.Tenants)),
		keys:         make(map[string]keySettings, len(a.Keys)),
	}
	e.text("redirect_base", &s.redirectBase)
	e.text("refresh", &s.refresh)
	for _, name := range slices.Sorted(maps.Keys(a.Providers)) {
		if p := a.Providers[name]; e.present("provider "+name, p != nil) {
			s.providers[name] = e.provider(*p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Tenants)) {
		if t := a.Tenants[name]; e.present("tenant "+name, t != nil) {
			s.tenants[name] = e.tenant(*t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Keys)) {
		k := a.Keys[name]
		if !e.present("key "+name, k != nil) {
			continue
		}
		s.keys[name] = e.key(*k)
	}
	for _, v := range a.SMTP {
		if e.present("smtp", v != nil) {
			s.smtp = append(s.smtp, e.smtp(*v))
		}
	}
	return s, errors.Join(e.errs...)
}

// present begins a block. In JSON it may be null.
func (e *expander) present(place string, ok bool) bool {
	e.place = place
	if !ok {
		e.errs = append(e.errs, fmt.Errorf("%s: is null", place))
	}
	return ok
}

func (e *expander) provider(p Provider) providerSettings {
	for _, t := range []struct {
		word string
		text *string
	}{
		{"display_name", &p.DisplayName},
		{"preset", &p.Preset},
		{"directory", &p.Directory},
		{"grant", &p.Grant},
		{"issuer", &p.Issuer},
		{"authorization_endpoint", &p.AuthorizationEndpoint},
		{"token_endpoint", &p.TokenEndpoint},
		{"revocation_endpoint", &p.RevocationEndpoint},
		{"device_authorization_endpoint", &p.DeviceAuthorizationEndpoint},
		{"admin_consent_endpoint", &p.AdminConsentEndpoint},
		{"client_id", &p.ClientID},
		{"client_auth", &p.ClientAuth},
		{"prompt", &p.Prompt},
		{"redirect_uri", &p.RedirectURI},
		{"rotation", &p.Rotation},
	} {
		e.text(t.word, t.text)
	}
	p.Scopes = e.list("scopes", p.Scopes)
	p.Servers = e.list("servers", p.Servers)
	params := make(map[string]string, len(p.AuthParams))
	for k, v := range p.AuthParams {
		e.text("auth_param "+k, &v)
		params[k] = v
	}
	p.AuthParams = params
	e.proxy(&p.Proxy)
	s := providerSettings{origin: originFile, credentials: e.credentials(p.Credentials)}
	if p.ServiceAccount != "" {
		s.serviceAccount = e.keyFunc("service_account", p.ServiceAccount, tokens.ParseServiceAccountKey)
	}
	s.authorities = e.file("ca_file", &p.CAFile)
	s.Provider = p
	return s
}

func (e *expander) tenant(t Tenant) tenantSettings {
	e.text("server", &t.Server)
	e.text("auth", &t.Auth.Method)
	e.text("auth", &t.Auth.Mechanism)
	e.text("auth", &t.Auth.Provider)
	e.text("auth", &t.Auth.Username)
	e.secret("auth", &t.Auth.Password)
	e.text("user", &t.User)
	e.text("from", &t.From)
	t.Senders = e.list("senders", t.Senders)
	t.AllowedRecipients = e.list("allowed_recipients", t.AllowedRecipients)
	t.Domains = e.list("domains", t.Domains)
	e.text("recipients", &t.Recipients)
	e.text("failover", &t.Failover)
	e.text("on_unknown", &t.OnUnknown)
	e.text("deliver", &t.Deliver.To)
	e.proxy(&t.Proxy)
	s := tenantSettings{origin: originFile, authorities: e.file("ca_file", &t.CAFile)}
	s.Tenant = t
	return s
}

func (e *expander) key(k Key) keySettings {
	if isKeyHash(k.Key) {
		e.text("key", &k.Key)
	} else {
		e.secret("key", &k.Key)
	}
	e.text("user", &k.User)
	e.text("tenant", &k.Tenant)
	k.Tenants = e.list("tenants", k.Tenants)
	k.Scopes = e.list("scopes", k.Scopes)
	k.Senders = e.list("senders", k.Senders)
	k.AllowedRecipients = e.list("allowed_recipients", k.AllowedRecipients)
	k.Networks = e.list("networks", k.Networks)
	e.text("expires", &k.Expires)
	return keySettings{Key: k, origin: originFile}
}
