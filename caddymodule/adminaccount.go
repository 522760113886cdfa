package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

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
	// TraceID and CorrelationID are what the provider's support asks for.
	TraceID       string `json:"trace_id,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
	// Advice is what it means and what to do about it.
	Advice *tokens.Advice `json:"advice,omitempty"`
}

// accounts lists the accounts that tenants use, by provider and user.
func (a admin) accounts(ctx context.Context, l listing) ([]accountView, string) {
	s := a.app.snapshot(ctx)
	sources := make(map[string]*tokens.Source, len(s.users))
	for account, users := range s.users {
		sources[account.String()] = users[0].source
	}
	names, next := l.page(slices.Sorted(maps.Keys(sources)))
	views := make([]accountView, 0, len(names))
	for _, name := range names {
		views = append(views, viewAccount(ctx, s, sources[name]))
	}
	return views, next
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
		v.Failure = &failureView{
			At: f.At, Kind: f.Kind, Code: f.Code, Description: f.Description,
			TraceID: f.TraceID, CorrelationID: f.CorrelationID,
		}
		if advice, ok := f.Advice(); ok {
			v.Failure.Advice = &advice
		}
	}
	_, users, _ := s.account(st.Account)
	for _, t := range users {
		v.Tenants = append(v.Tenants, t.name)
	}
	return v
}

// find finds an account that a tenant uses. Its user is a mailbox, or
// [tokens.AppUser].
func (a admin) find(provider, user string) (*snapshot, *tokens.Source, error) {
	s := a.app.registry.load()
	if s.providers[provider] == nil {
		return nil, nil, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no provider %q", provider)}
	}
	if user != tokens.AppUser {
		address, err := mailer.ParseAddress(user)
		if err != nil {
			return nil, nil, &adminError{kind: adminInvalid, err: reason(err)}
		}
		user = address.Mailbox()
	}
	source, _, err := s.account(newAccount(provider, user))
	if err != nil {
		return nil, nil, &adminError{kind: adminNotFound, err: err}
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

// disconnection says what became of a grant.
type disconnection struct {
	// Revoked: the provider was told. Where it cannot be told, the person can
	// remove the application in the account's settings there.
	Revoked bool `json:"revoked_at_provider"`
}

// disconnect ends an account's grant and forgets its token. Where nobody signs
// in it is refused: the next mail would get another token.
func (a admin) disconnect(ctx context.Context, provider, user, by string) (disconnection, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return disconnection{}, err
	}
	if s.providers[provider].settings.Grant.Unattended() {
		return disconnection{}, &adminError{
			kind: adminInvalid, err: errors.New("nobody has signed in to this account, so there is no sign-in to end: the client's own credentials get it a token whenever one is needed"),
			reason: string(tokens.ReasonUnavailable), who: tokens.WhoOperator, do: "remove the tenants that use it, or take the permission away at the provider",
		}
	}
	revoked, err := source.Disconnect(ctx)
	if err != nil {
		return disconnection{}, &adminError{kind: adminUpstream, err: err}
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
			return accountView{}, &adminError{kind: adminConflict, err: fmt.Errorf("%w; a person must sign in first, by the link that %s answers, or by `%s`", err, authorizeCall(source.Account()), signInCommand(source.Account()))}
		}
		return accountView{}, &adminError{kind: adminUpstream, err: err}
	}
	a.app.unparkAccount(s, source.Account())
	return viewAccount(ctx, s, source), nil
}
