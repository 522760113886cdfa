package caddymodule

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// smtpConfig is what sessions at an address of an entrance begin with, and end with.
func (a *App) smtpConfig(e *smtpEntrance, address smtpAddress, s *smtpServer) *listener.Config {
	c := &listener.Config{
		Hostname:      ehloName(e.hostname),
		Implicit:      address.tls == implicitTLS,
		PlaintextFrom: e.plaintext,
		Revoked:       func(id *listener.Identity) bool { return s.revoked(e, id) },
		Send:          a.mailer.Send,
		Outbox:        a.engine != nil,
		Intake:        mailer.Intake{MaxSize: e.maxSize, RefuseBareLF: e.noBareLF, Spool: smtpSpool},
		Limits:        e.limits,
		Hooks:         a.smtpHooks(e, s),
		Logger:        slog.New(&s.relay),
	}
	if address.tls != noTLS {
		c.TLS = e.tls
	}
	if len(e.users) > 0 {
		c.Recognize = func(c listener.Client, user, password string) *listener.Identity {
			u := e.user(c, user)
			if u == nil || !u.password.known(password) {
				return nil
			}
			return a.identity(e, u.smtpSender, c)
		}
		c.Authenticate = func(_ context.Context, c listener.Client, user, password string) (*listener.Identity, error) {
			u, err := e.authenticate(c, user, password)
			if err != nil {
				return nil, err
			}
			return a.identity(e, u.smtpSender, c), nil
		}
	}
	if len(e.networks) > 0 {
		c.Network = func(c listener.Client) *listener.Identity {
			for _, n := range e.networks {
				if n.prefix.Contains(c.Addr.Addr().WithZone("")) {
					return a.identity(e, n.smtpSender, c)
				}
			}
			return nil
		}
	}
	return c
}

// user returns the user of that name; nil if there is none who may sign in from there.
func (e *smtpEntrance) user(c listener.Client, name string) *smtpUser {
	u := e.users[strings.ToLower(name)]
	if u == nil || len(u.networks) > 0 && !inAny(u.networks, c.Addr.Addr()) {
		return nil
	}
	return u
}

// authenticate finds out who signs in. What it takes does not tell whether there is
// such a user.
func (e *smtpEntrance) authenticate(c listener.Client, name, typed string) (*smtpUser, error) {
	u := e.user(c, name)
	if u == nil {
		other := cmp.Or(e.users[strings.ToLower(name)], e.decoy(name))
		if _, err := other.password.matches(typed); err != nil {
			return nil, err
		}
		return nil, listener.ErrWrongPassword
	}
	ok, err := u.password.matches(typed)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, listener.ErrWrongPassword
	}
	u.password.remember(typed)
	return u, nil
}

// decoy is the user whose password is checked where there is no such user: always the
// same one for a name, so that unknown names cost what known ones do.
func (e *smtpEntrance) decoy(name string) *smtpUser {
	m := hmac.New(sha256.New, processKey)
	m.Write([]byte(strings.ToLower(name)))
	return e.decoys[binary.BigEndian.Uint64(m.Sum(nil))%uint64(len(e.decoys))]
}

// knows reports whether somebody who might send by an earlier configuration of the
// entrance still may: a user with the same password, or the same network.
func (e *smtpEntrance) knows(earlier *smtpEntrance, id *listener.Identity) bool {
	if id.Kind == "network" {
		return slices.ContainsFunc(e.networks, func(n *smtpNetwork) bool { return n.name == id.Name })
	}
	key := strings.ToLower(id.Name)
	was, is := earlier.users[key], e.users[key]
	return is != nil && is.password.sum == was.password.sum && bytes.Equal(is.password.hash, was.password.hash)
}

// identity is on whose behalf a client sends.
func (a *App) identity(e *smtpEntrance, s smtpSender, c listener.Client) *listener.Identity {
	name := cmp.Or(s.tenant, e.sni[strings.ToLower(strings.TrimSuffix(c.ServerName, "."))], e.tenant)
	id := &listener.Identity{Kind: s.kind, Name: s.name, Tenant: name, From: s.rewrite, DefaultFrom: s.from}
	if t := a.registry.load().tenants[name]; t != nil && id.DefaultFrom.IsZero() {
		id.DefaultFrom = t.from
	}
	return id
}
