package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
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
	// reason tells programs why a sign-in failed; who has to do something about
	// it, and what. Empty with other errors.
	reason string
	who    tokens.Who
	do     string
}

type adminErrorKind int

const (
	adminNotFound adminErrorKind = iota
	adminInvalid
	adminConflict // somebody has to do something else first
	adminGone     // it took too long
	adminUpstream // the provider or the storage failed
)

func (e *adminError) Error() string { return e.err.Error() }
func (e *adminError) Unwrap() error { return e.err }

// providerView is a provider as administrators see it.
type providerView struct {
	Name                  string `json:"name"`
	DisplayName           string `json:"display_name"`
	Origin                origin `json:"origin"`
	Issuer                string `json:"issuer,omitempty"`
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty"`
	TokenEndpoint         string `json:"token_endpoint,omitempty"`
	ClientID              string `json:"client_id"`
	// Credentials are the names of what the client proves itself with; none for a
	// public client.
	Credentials []string `json:"credentials"`
	// ClientSecretExpires is the soonest end of the client's credentials that is
	// known.
	ClientSecretExpires *time.Time `json:"client_secret_expires,omitempty"`
	Scopes              []string   `json:"scopes"`
	RedirectURI         string     `json:"redirect_uri"`
	Servers             []string   `json:"servers"`
	Grant               string     `json:"grant"`
	// DeviceCode: sign-ins by device code are allowed.
	DeviceCode bool `json:"device_code"`
	// AdminConsentURL is where an administrator consents for the whole
	// organization.
	AdminConsentURL string `json:"admin_consent_url,omitempty"`
	// Rotation says whether a refresh token is good for one use only.
	Rotation string `json:"rotation"`
}

func (a admin) providers() []providerView {
	s := a.app.registry.load()
	views := make([]providerView, 0, len(s.providers))
	for _, name := range slices.Sorted(maps.Keys(s.providers)) {
		p := s.providers[name]
		views = append(views, providerView{
			Name: name, DisplayName: p.settings.Title(), Origin: p.origin,
			Issuer: p.settings.Issuer, AuthorizationEndpoint: p.settings.AuthorizationEndpoint, TokenEndpoint: p.settings.TokenEndpoint,
			ClientID: p.settings.ClientID, Credentials: credentialNames(p.settings), ClientSecretExpires: given(p.expires()),
			Scopes: p.settings.Scopes, RedirectURI: p.settings.RedirectURI, Servers: p.settings.Servers,
			Grant: p.settings.Grant.String(), DeviceCode: p.settings.DeviceCode,
			AdminConsentURL: adminConsentURL(p.settings), Rotation: rotationNames[p.settings.Rotation],
		})
	}
	return views
}

// credentialNames returns the Caddyfile's words for what proves the client.
func credentialNames(p tokens.Provider) []string {
	names := make([]string, 0, len(p.Credentials))
	for _, c := range p.Credentials {
		names = append(names, c.Name)
	}
	if p.ServiceAccount != nil {
		names = append(names, "service_account")
	}
	return names
}

// rotationNames are kinds of rotation as administrators see them.
var rotationNames = map[tokens.Rotation]string{
	tokens.RotationUnknown: "unknown",
	tokens.RotationNone:    "none",
	tokens.RotationStrict:  "strict",
}

// adminConsentURL is the page where an administrator consents for the whole
// organization (learn.microsoft.com: "Admin consent on the Microsoft identity
// platform"); empty where there is none. It has no state: what comes back from
// there is not believed.
func adminConsentURL(p tokens.Provider) string {
	u, err := url.Parse(p.AdminConsentEndpoint)
	if err != nil || p.AdminConsentEndpoint == "" {
		return ""
	}
	q := u.Query()
	q.Set("client_id", p.ClientID)
	if p.RedirectURI != "" {
		q.Set("redirect_uri", p.RedirectURI)
	}
	if len(p.Scopes) > 0 {
		q.Set("scope", strings.Join(p.Scopes, " "))
	}
	u.RawQuery = q.Encode()
	return u.String()
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
	// Messages in Window, and recipients in a day, are the limits; zero for none.
	Messages         int    `json:"messages,omitempty"`
	Window           string `json:"window,omitempty"`
	RecipientsPerDay int    `json:"recipients_per_day,omitempty"`
	// Recipients is "some" or "all".
	Recipients string `json:"recipients"`
	Failover   string `json:"failover,omitempty"`
	// Deliver is "none" or an address where mail does not reach its recipients.
	Deliver string `json:"deliver,omitempty"`
	// Proxy has no user and no password.
	Proxy string `json:"proxy,omitempty"`
	// State is the account's, with OAuth; else "ready".
	State string `json:"state"`
	sendingView
}

// sendingView says whether a tenant sends at present.
type sendingView struct {
	// Sending is "ready"; "failed_over" while messages go to the failover tenant,
	// "paused" after the mail server asked for less mail, "used_up" where no
	// recipients are left for the day.
	Sending string `json:"sending"`
	// Until is when the next message may try, and Cause why not now.
	Until *time.Time `json:"until,omitempty"`
	Cause string     `json:"cause,omitempty"`
}

func viewSending(t *tenant) sendingView {
	if t.deliver.Nowhere {
		return sendingView{Sending: "ready"}
	}
	view := func(sending string, until time.Time, cause *mailer.Error) sendingView {
		return sendingView{sending, given(until.UTC().Round(time.Second)), cause.Error()}
	}
	if cause, next := t.mail.Breaker.Down(); cause != nil && t.failover != "" && !t.deliver.Astray() {
		return view("failed_over", next, cause)
	}
	held := t.mail.Limits.Held()
	switch {
	case held == nil:
		return sendingView{Sending: "ready"}
	case held.Code == "mailbox_recipients":
		return view("used_up", time.Now().Add(held.RetryAfter), held)
	}
	return view("paused", time.Now().Add(held.RetryAfter), held)
}

func (a admin) tenants(ctx context.Context) []tenantView {
	s := a.app.registry.load()
	views := make([]tenantView, 0, len(s.tenants))
	for _, name := range slices.Sorted(maps.Keys(s.tenants)) {
		t := s.tenants[name]
		v := tenantView{
			Name: name, Origin: t.origin, Server: net.JoinHostPort(t.server.Host, strconv.Itoa(t.server.Port)), Security: t.server.Security.String(),
			Auth: t.auth.Method, Provider: t.account.Provider, User: strings.ToLower(t.user),
			Senders: t.senderRules, Connections: t.limits.connections, State: "ready",
			Messages: t.limits.rate, RecipientsPerDay: t.limits.recipientsPerDay, Recipients: "some",
			Failover: t.failover, Deliver: t.deliver.To.Mailbox(), Proxy: t.server.Proxy.String(), sendingView: viewSending(t),
		}
		if t.limits.rate > 0 {
			v.Window = t.limits.window.String()
		}
		if t.all {
			v.Recipients = "all"
		}
		if t.deliver.Nowhere {
			v.Deliver = "none"
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

func (a admin) storage() storageView { return a.app.storageReport() }

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

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
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
			return accountView{}, &adminError{kind: adminConflict, err: fmt.Errorf("%w; a person must sign in first, by the link that POST /accounts/%s/%s/authorize answers", err, provider, user)}
		}
		return accountView{}, &adminError{kind: adminUpstream, err: err}
	}
	return viewAccount(ctx, s, source), nil
}
