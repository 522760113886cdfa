package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// expander replaces the placeholders of a configuration. Each string passes it
// exactly once, and nothing that came with a request ever does: a value that
// looks like a placeholder must not be taken for one.
type expander struct {
	replacer *caddy.Replacer
	logger   *slog.Logger
	// place names the block being expanded, such as "provider m365".
	place string
	errs  []error
}

// text expands one string in place.
func (e *expander) text(word string, s *string) {
	if !strings.Contains(*s, "{") {
		return
	}
	expanded, err := e.replacer.ReplaceOrErr(*s, true, true)
	if err != nil {
		e.errs = append(e.errs, e.errorf(word, "%v", explainPlaceholder(*s, err)))
		return
	}
	*s = expanded
}

// secret expands a string that should not stand in the configuration itself.
func (e *expander) secret(word string, s *string) {
	if *s != "" && !strings.Contains(*s, "{") {
		e.logger.Warn("a secret stands in the configuration in clear; better use {file.*} or {env.*}",
			"place", e.place, "setting", word)
	}
	e.text(word, s)
}

func (e *expander) list(word string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		e.text(word, &s)
		out[i] = s
	}
	return out
}

func (e *expander) errorf(word, format string, args ...any) error {
	place := e.place
	if place != "" {
		place += ", "
	}
	return fmt.Errorf("%s%s: %w", place, word, fmt.Errorf(format, args...))
}

// explainPlaceholder says what is wrong with the first placeholder that has no
// value. It never shows a value.
func explainPlaceholder(s string, err error) error {
	for rest := s; ; {
		_, after, found := strings.Cut(rest, "{")
		name, more, closed := strings.Cut(after, "}")
		if !found || !closed {
			return err
		}
		rest = more
		if file, ok := strings.CutPrefix(name, "file."); ok {
			switch data, err := os.ReadFile(file); {
			case errors.Is(err, os.ErrNotExist):
				return fmt.Errorf("the file %s does not exist", file)
			case err != nil:
				return fmt.Errorf("the file %s cannot be read", file)
			case len(data) == 0:
				return fmt.Errorf("the file %s is empty", file)
			}
		}
		if variable, ok := strings.CutPrefix(name, "env."); ok && os.Getenv(variable) == "" {
			return fmt.Errorf("the environment variable %s is not set, or empty", variable)
		}
	}
}

// expand replaces the placeholders of the app's configuration and reads the
// files that it names.
func (a *App) expand() (settings, error) {
	e := &expander{replacer: caddy.NewReplacer(), logger: a.logger}
	s := settings{
		redirectBase: a.RedirectBase,
		providers:    make(map[string]providerSettings, len(a.Providers)),
		tenants:      make(map[string]tenantSettings, len(a.Tenants)),
		keys:         make(map[string]keySettings, len(a.Keys)),
	}
	e.text("redirect_base", &s.redirectBase)
	for _, name := range slices.Sorted(maps.Keys(a.Providers)) {
		if p := a.Providers[name]; e.present("provider "+name, p != nil) {
			s.providers[name] = providerSettings{Provider: e.provider(*p), origin: originFile}
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
		key := *k
		e.secret("key", &key.Key)
		e.text("tenant", &key.Tenant)
		s.keys[name] = keySettings{Key: key, origin: originFile}
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

func (e *expander) provider(p Provider) Provider {
	e.text("display_name", &p.DisplayName)
	e.text("preset", &p.Preset)
	e.text("directory", &p.Directory)
	e.text("issuer", &p.Issuer)
	e.text("authorization_endpoint", &p.AuthorizationEndpoint)
	e.text("token_endpoint", &p.TokenEndpoint)
	e.text("revocation_endpoint", &p.RevocationEndpoint)
	e.text("client_id", &p.ClientID)
	e.secret("client_secret", &p.ClientSecret)
	e.text("client_auth", &p.ClientAuth)
	e.text("prompt", &p.Prompt)
	e.text("redirect_uri", &p.RedirectURI)
	p.Scopes = e.list("scopes", p.Scopes)
	p.Servers = e.list("servers", p.Servers)
	params := make(map[string]string, len(p.AuthParams))
	for k, v := range p.AuthParams {
		e.text("auth_param "+k, &v)
		params[k] = v
	}
	p.AuthParams = params
	return p
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
	e.text("ca_file", &t.CAFile)
	t.Senders = e.list("senders", t.Senders)
	s := tenantSettings{Tenant: t, origin: originFile}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			e.errs = append(e.errs, e.errorf("ca_file", "%w", err))
		}
		s.authorities = pem
	}
	return s
}
