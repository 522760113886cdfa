package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// registry publishes the snapshot in force. Readers take it once per request
// and see one consistent configuration.
type registry struct {
	current atomic.Pointer[snapshot]
}

func (r *registry) load() *snapshot { return r.current.Load() }

// attach joins a snapshot with what outlives configurations, and with the parts that
// do the work. What was taken over from another snapshot is attached already.
func (a *App) attach(s *snapshot) error {
	for _, p := range s.providers {
		if p.client != nil {
			continue
		}
		transport, err := a.holdings.transport(p.transport)
		if err != nil {
			return fmt.Errorf("provider %s: %w", p.name, err)
		}
		p.client = tokens.NewClient(p.settings, transport)
	}
	s.users = make(map[tokens.Account][]*tenant)
	if a.sourceOptions == nil {
		a.sourceOptions = &tokens.SourceOptions{Logger: a.logger, Observer: a.observer()}
	}
	names := slices.Sorted(maps.Keys(s.tenants))
	for _, name := range names {
		if t := s.tenants[name]; t.source != nil {
			s.users[t.account] = append(s.users[t.account], t)
		}
	}
	for _, name := range names {
		t := s.tenants[name]
		if t.mail.Pool != nil {
			continue
		}
		if err := a.attachTenant(s, t); err != nil {
			return fmt.Errorf("tenant %s: %w", name, err)
		}
	}
	for _, k := range s.allKeys() {
		if k.use != nil {
			continue
		}
		use, err := a.holdings.keyUse(k)
		if err != nil {
			return fmt.Errorf("key %s: %w", k.name, err)
		}
		k.use = use
		if k.ended(time.Now()) {
			a.logger.Warn("an API key has ended, and whoever presents it is refused; give it another end, or take it away", "key", k.name, "ended", k.expires)
		}
	}
	return nil
}

func (a *App) attachTenant(s *snapshot, t *tenant) error {
	registration := ""
	if t.account != (tokens.Account{}) {
		p := s.providers[t.account.Provider]
		others := s.users[t.account]
		if len(others) > 0 {
			t.source = others[0].source
		} else {
			cell, err := a.holdings.cell(cellKey(digest("cell", t.account, p.settings.Registration(), storageName(a.storage))))
			if err != nil {
				return err
			}
			t.source = tokens.NewSource(t.account, p.client, a.store, cell, a.sourceOptions)
		}
		others = append(others, t)
		slices.SortFunc(others, func(x, y *tenant) int { return strings.Compare(x.name, y.name) })
		s.users[t.account] = others
		registration = p.settings.Registration()
	}
	server := &t.mail.Server
	way := digest("way", server.Host, server.Port, server.Security, server.LocalName,
		t.authorities, t.auth, t.account, strings.ToLower(t.user), t.nobody(), registration, proxyText(server.Proxy), server.Allow != nil)
	t.way = digest("tenant", way, fmt.Sprint(t.limits), t.policy.Brake, t.mail.Failover, t.mail.Deliver.String())
	pool, err := a.holdings.pool(connectionsKey(digest("connections", way, fmt.Sprint(t.limits))), t.limits)
	if err != nil {
		return err
	}
	breaker, err := a.holdings.breaker(breakerKey(way))
	if err != nil {
		return err
	}
	limiter, err := a.holdings.limiter(t.mailbox().hash(), t.limits)
	if err != nil {
		return err
	}
	if server.Security == mailer.Plaintext {
		a.logger.Warn("this tenant speaks to its mail server without encryption; mails, passwords and tokens can be read on the way",
			"tenant", t.name, "server", server.Host)
	}
	a.warnAstray(t)
	t.mail.Pool, t.mail.Auth, t.mail.Limits, t.mail.Breaker = pool, t.authenticator(), limiter, breaker
	t.mail.Paced = func(c mailer.PaceChange) { a.logPace(t.name, c) }
	t.policy.Limits.Drain = pool.Drain
	return nil
}

// warnAstray tells of a tenant whose mail does not reach its recipients.
func (a *App) warnAstray(t *tenant) {
	switch {
	case t.mail.Deliver.Nowhere:
		a.logger.Warn("this tenant delivers nothing: its mail is checked and dropped, and reported as sent; remove `deliver none` to send",
			"tenant", t.name)
	case t.mail.Deliver.Astray():
		a.logger.Warn("this tenant delivers all its mail to one address in place of its recipients; remove `deliver` to send to them",
			"tenant", t.name, "to", t.mail.Deliver.To.Mailbox())
	}
	if t.mail.Deliver.Astray() && t.mail.Failover != "" {
		a.logger.Warn("the failover of this tenant has no effect as long as it has `deliver`: what is for nobody else must not go elsewhere",
			"tenant", t.name, "failover", t.mail.Failover)
	}
}

// storageName tells storages apart, as far as they tell their names.
func storageName(s any) string {
	if named, ok := s.(fmt.Stringer); ok {
		return named.String()
	}
	return fmt.Sprintf("%T", s)
}

// authenticator returns how the tenant signs in.
func (t *tenant) authenticator() mailer.Authenticator {
	switch t.auth.Method {
	case "oauth":
		return mailer.Token{User: t.user, Source: t.source, Mechanism: t.auth.Mechanism, App: t.account.User == tokens.AppUser}
	case "password":
		return mailer.Password{User: t.auth.Username, Password: t.auth.Password}
	}
	return nil
}

// lookup finds a tenant for the mailer.
func (r *registry) lookup(name string) (*mailer.Tenant, bool) {
	t, ok := r.load().tenants[name]
	if !ok {
		return nil, false
	}
	return t.mail, true
}

// sources returns the accounts in use, each once, in no order.
func (s *snapshot) sources() []*tokens.Source {
	list := make([]*tokens.Source, 0, len(s.users))
	for _, users := range s.users {
		list = append(list, users[0].source)
	}
	return list
}

// errNoAccount: no tenant signs in with the account.
var errNoAccount = errors.New("no tenant uses this account; name it with `auth oauth <provider>` and `user <address>`")

// account finds the tenants that use an account, and its source.
func (s *snapshot) account(a tokens.Account) (*tokens.Source, []*tenant, error) {
	users := s.users[a]
	if len(users) == 0 {
		return nil, nil, errNoAccount
	}
	return users[0].source, users, nil
}

// drain ends the connections that an account is signed in on: a mail server
// lets a session go on when its token has ended. Whether its tenants can send is
// found out anew.
func (s *snapshot) drain(a tokens.Account) {
	for _, t := range s.users[a] {
		t.mail.Pool.Drain()
		t.mail.Breaker.Reset()
	}
}
