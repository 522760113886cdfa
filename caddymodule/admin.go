package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// admin is the administration as Go functions. Whatever is mounted on them, an
// HTTP route or a command line, adds nothing but its own form. None of their
// answers holds a secret.
type admin struct {
	app *App
}

// adminError is a call that cannot be served.
type adminError struct {
	kind adminErrorKind
	err  error
}

type adminErrorKind int

const (
	adminNotFound adminErrorKind = iota
	adminInvalid
	adminConflict // somebody has to do something else first
	adminUpstream // the provider or the storage failed
)

func (e *adminError) Error() string { return e.err.Error() }
func (e *adminError) Unwrap() error { return e.err }

// providerView is a provider as administrators see it.
type providerView struct {
	Name                  string   `json:"name"`
	DisplayName           string   `json:"display_name"`
	Origin                origin   `json:"origin"`
	Issuer                string   `json:"issuer,omitempty"`
	AuthorizationEndpoint string   `json:"authorization_endpoint,omitempty"`
	TokenEndpoint         string   `json:"token_endpoint,omitempty"`
	ClientID              string   `json:"client_id"`
	HasClientSecret       bool     `json:"has_client_secret"`
	Scopes                []string `json:"scopes"`
	RedirectURI           string   `json:"redirect_uri"`
	Servers               []string `json:"servers"`
}

func (a admin) providers() []providerView {
	s := a.app.registry.load()
	views := make([]providerView, 0, len(s.providers))
	for _, name := range slices.Sorted(maps.Keys(s.providers)) {
		p := s.providers[name]
		views = append(views, providerView{
			Name: name, DisplayName: p.settings.Title(), Origin: p.origin,
			Issuer: p.settings.Issuer, AuthorizationEndpoint: p.settings.AuthorizationEndpoint, TokenEndpoint: p.settings.TokenEndpoint,
			ClientID: p.settings.ClientID, HasClientSecret: len(p.settings.Credentials) > 0,
			Scopes: p.settings.Scopes, RedirectURI: p.settings.RedirectURI, Servers: p.settings.Servers,
		})
	}
	return views
}

// tenantView is a tenant as administrators see it.
type tenantView struct {
	Name        string   `json:"name"`
	Origin      origin   `json:"origin"`
	Server      string   `json:"server"`
	Security    string   `json:"security"`
	Auth        string   `json:"auth"`
	Provider    string   `json:"provider,omitempty"`
	User        string   `json:"user,omitempty"`
	From        string   `json:"from,omitempty"`
	Senders     []string `json:"senders"`
	Connections int      `json:"connections"`
	// State is the account's, with OAuth; else "ready".
	State string `json:"state"`
}

func (a admin) tenants(ctx context.Context) []tenantView {
	s := a.app.registry.load()
	views := make([]tenantView, 0, len(s.tenants))
	for _, name := range slices.Sorted(maps.Keys(s.tenants)) {
		t := s.tenants[name]
		v := tenantView{
			Name: name, Origin: t.origin, Server: net.JoinHostPort(t.server.Host, strconv.Itoa(t.server.Port)), Security: t.server.Security.String(),
			Auth: t.auth.Method, Provider: t.account.Provider, User: t.account.User,
			Senders: t.senderRules, Connections: t.connections, State: "ready",
		}
		if t.auth.Method == "password" {
			v.User = t.auth.Username
		}
		if !t.from.IsZero() {
			v.From = t.from.String()
		}
		if t.source != nil {
			v.State = string(t.source.Status(ctx).State)
		}
		views = append(views, v)
	}
	return views
}

// accountView is an account as administrators see it.
type accountView struct {
	Provider     string       `json:"provider"`
	User         string       `json:"user"`
	State        string       `json:"state"`
	Tenants      []string     `json:"tenants"`
	SignedInAs   []string     `json:"signed_in_as,omitempty"`
	Scopes       []string     `json:"scopes,omitempty"`
	AuthorizedAt *time.Time   `json:"authorized_at,omitempty"`
	AuthorizedBy string       `json:"authorized_by,omitempty"`
	RefreshedAt  *time.Time   `json:"refreshed_at,omitempty"`
	ExpiresAt    *time.Time   `json:"expires_at,omitempty"`
	RefreshAt    *time.Time   `json:"refresh_at,omitempty"`
	Generation   uint64       `json:"generation,omitempty"`
	Failure      *failureView `json:"failure,omitempty"`
}

type failureView struct {
	At          time.Time `json:"at"`
	Kind        string    `json:"kind"`
	Code        string    `json:"code,omitempty"`
	Description string    `json:"description,omitempty"`
}

func (a admin) accounts(ctx context.Context) []accountView {
	s := a.app.registry.load()
	sources := s.sources()
	views := make([]accountView, 0, len(sources))
	for _, source := range sources {
		views = append(views, viewAccount(ctx, s, source))
	}
	slices.SortFunc(views, func(x, y accountView) int {
		return cmp.Or(cmp.Compare(x.Provider, y.Provider), cmp.Compare(x.User, y.User))
	})
	return views
}

func viewAccount(ctx context.Context, s *snapshot, source *tokens.Source) accountView {
	st := source.Status(ctx)
	v := accountView{
		Provider: st.Account.Provider, User: st.Account.User, State: string(st.State),
		SignedInAs: st.Identity.Names, Scopes: st.Scopes,
		AuthorizedAt: given(st.AuthorizedAt), AuthorizedBy: st.AuthorizedBy,
		RefreshedAt: given(st.IssuedAt), ExpiresAt: given(st.Expiry), RefreshAt: given(st.RefreshAt),
		Generation: st.Generation,
	}
	if f := st.Failure; f != nil {
		v.Failure = &failureView{At: f.At, Kind: f.Kind, Code: f.Code, Description: f.Description}
	}
	_, users, _ := s.account(st.Account)
	for _, t := range users {
		v.Tenants = append(v.Tenants, t.name)
	}
	return v
}

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// find finds an account that a tenant uses.
func (a admin) find(provider, user string) (*snapshot, *tokens.Source, error) {
	s := a.app.registry.load()
	if s.providers[provider] == nil {
		return nil, nil, &adminError{adminNotFound, fmt.Errorf("there is no provider %q", provider)}
	}
	address, err := mailer.ParseAddress(user)
	if err != nil {
		return nil, nil, &adminError{adminInvalid, reason(err)}
	}
	source, _, err := s.account(newAccount(provider, address.Mailbox()))
	if err != nil {
		return nil, nil, &adminError{adminNotFound, err}
	}
	return s, source, nil
}

func (a admin) account(ctx context.Context, provider, user string) (accountView, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return accountView{}, err
	}
	return viewAccount(ctx, s, source), nil
}

// invitation is a link that leads to the start page of a sign-in. It can be
// handed to the owner of the mailbox.
type invitation struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// authorize makes a link to sign in to an account. By names who asks.
func (a admin) authorize(provider, user, by string) (invitation, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return invitation{}, err
	}
	if s.redirectBase == nil {
		return invitation{}, &adminError{adminInvalid, errors.New("set redirect_base in the global option oauth_mail, and serve it with `oauth_mail callback`")}
	}
	ticket, expires, err := a.app.flow.NewTicket(source.Account(), by, "")
	if err != nil {
		return invitation{}, &adminError{adminUpstream, err}
	}
	return invitation{URL: s.startURL(provider, ticket), ExpiresAt: expires}, nil
}

// disconnection says what became of a grant.
type disconnection struct {
	// Revoked: the provider was told. Where it cannot be told, the person can
	// remove the application in the account's settings there.
	Revoked bool `json:"revoked_at_provider"`
}

// disconnect ends an account's grant and forgets its token.
func (a admin) disconnect(ctx context.Context, provider, user, by string) (disconnection, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return disconnection{}, err
	}
	revoked, err := source.Disconnect(ctx)
	if err != nil {
		return disconnection{}, &adminError{adminUpstream, err}
	}
	s.drain(source.Account())
	a.app.logger.Info("account disconnected", "provider", provider, "user", source.Account().User, "by", by, "revoked_at_provider", revoked)
	return disconnection{Revoked: revoked}, nil
}

// refresh renews an account's token now.
func (a admin) refresh(ctx context.Context, provider, user string) (accountView, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return accountView{}, err
	}
	if err := source.Refresh(ctx); err != nil {
		e, _ := errors.AsType[*tokens.Error](err)
		if e != nil && e.Kind == tokens.KindNeedsPerson {
			return accountView{}, &adminError{adminConflict, fmt.Errorf("%w; a person must sign in first, by the link that POST /accounts/%s/%s/authorize answers", err, provider, user)}
		}
		return accountView{}, &adminError{adminUpstream, err}
	}
	return viewAccount(ctx, s, source), nil
}
