package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// signedIn takes over the token of a sign-in that has ended, in whichever way.
func (a *App) signedIn(s *snapshot, done *tokens.Completed) {
	t := done.Token
	if source, _, err := s.account(t.Account); err == nil {
		source.Adopt(t)
		s.drain(t.Account)
		a.unparkAccount(s, t.Account)
	}
	a.audit("account.authorized", "provider", t.Account.Provider, "user", t.Account.User, "by", t.AuthorizedBy, "signed_in_as", t.Identity.Names)
	a.logger.Info("account authorized", "provider", t.Account.Provider, "user", t.Account.User, "by", t.AuthorizedBy)
}

// The ways of signing in that the administration can begin.
const (
	flowBrowser = "browser" // a link to our start page
	flowDevice  = "device"  // a code that is typed elsewhere (RFC 8628)
	flowPaste   = "paste"   // the last address is handed in
)

// invitation is what a person needs to sign in, and, with the flows device and
// paste, what [admin.complete] wants back.
type invitation struct {
	Flow string `json:"flow"`
	// URL is our start page, which can be handed to the owner of the mailbox; the
	// provider's page with the flow paste.
	URL string `json:"url,omitempty"`
	// RedirectURI begins the address that is to be handed in.
	RedirectURI             string `json:"redirect_uri,omitempty"`
	UserCode                string `json:"user_code,omitempty"`
	VerificationURI         string `json:"verification_uri,omitempty"`
	VerificationURIComplete string `json:"verification_uri_complete,omitempty"`
	// Message is the provider's text for the person.
	Message string `json:"message,omitempty"`
	// Interval is after how many seconds to ask whether the person is done.
	Interval  int       `json:"interval,omitempty"`
	Session   string    `json:"session,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
}

// authorize begins a sign-in to an account. By names who asks.
func (a admin) authorize(ctx context.Context, provider, user, flow, by string) (invitation, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return invitation{}, err
	}
	account, c := source.Account(), s.providers[provider].client
	switch flow {
	case flowDevice:
		d, err := a.app.flow.BeginDevice(ctx, c, account, by)
		if err != nil {
			return invitation{}, signInError(err)
		}
		return invitation{
			Flow: flow, UserCode: d.UserCode, VerificationURI: d.VerificationURI, VerificationURIComplete: d.VerificationURIComplete,
			Message: d.Message, Interval: wholeSeconds(d.Interval), Session: d.Session, ExpiresAt: d.Expires,
		}, nil
	case flowPaste:
		p, err := a.app.flow.BeginPaste(ctx, c, account, by, "")
		if err != nil {
			return invitation{}, signInError(err)
		}
		return invitation{
			Flow: flow, URL: p.URL, RedirectURI: s.providers[provider].settings.RedirectURI, Session: p.Session, ExpiresAt: p.Expires,
		}, nil
	case flowBrowser:
		ticket, expires, err := a.app.flow.NewTicket(c, account, by, "")
		if err != nil {
			return invitation{}, signInError(err)
		}
		if s.redirectBase == nil {
			return invitation{}, &adminError{kind: adminInvalid, err: errors.New("set redirect_base in the global option oauth_mail, and serve it with `oauth_mail callback`")}
		}
		return invitation{Flow: flow, URL: s.startURL(provider, ticket), ExpiresAt: expires}, nil
	}
	return invitation{}, invalid("flow", "unsupported", "must be %s, %s or %s", flowBrowser, flowDevice, flowPaste)
}

// completion is how a sign-in stands.
type completion struct {
	// Status is "completed" or "pending".
	Status string `json:"status"`
	// Account is there when it is completed.
	Account *accountView `json:"account,omitempty"`
	// Doubt is why mail may not flow all the same.
	Doubt string `json:"doubt,omitempty"`
	// Interval is after how many seconds to call again, with Session.
	Interval int    `json:"interval,omitempty"`
	Session  string `json:"session,omitempty"`
	// Trouble is why the provider could not say.
	Trouble string `json:"trouble,omitempty"`
}

// complete goes on with a sign-in by device code, or ends one whose last address
// is given.
func (a admin) complete(ctx context.Context, provider, user, session, address string) (completion, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return completion{}, err
	}
	account, c := source.Account(), s.providers[provider].client
	if address != "" {
		done, err := a.app.flow.CompletePaste(ctx, c, account, address, session)
		return a.completed(ctx, s, source, done, err)
	}
	poll, err := a.app.flow.PollDevice(ctx, c, account, session)
	if err != nil || poll.Completed != nil {
		var done *tokens.Completed
		if poll != nil {
			done = poll.Completed
		}
		return a.completed(ctx, s, source, done, err)
	}
	v := completion{Status: "pending", Interval: wholeSeconds(poll.Wait), Session: poll.Session}
	if poll.Trouble != nil {
		v.Trouble = poll.Trouble.Error()
	}
	return v, nil
}

// importToken takes over a refresh token that was obtained elsewhere.
func (a admin) importToken(ctx context.Context, provider, user string, refreshToken tokens.Secret, by string) (completion, error) {
	s, source, err := a.find(provider, user)
	if err != nil {
		return completion{}, err
	}
	done, err := a.app.flow.Import(ctx, s.providers[provider].client, source.Account(), refreshToken, by)
	v, err := a.completed(ctx, s, source, done, err)
	if e, ok := errors.AsType[*adminError](err); ok && e.reason == string(tokens.ReasonExchange) && e.who == tokens.WhoOwner {
		// No owner has seen anything of it.
		e.who, e.do = tokens.WhoOperator, "bring a refresh token that lives and was issued to this client id, or begin a sign-in"
	}
	return v, err
}

// completed ends every sign-in that ends here.
func (a admin) completed(ctx context.Context, s *snapshot, source *tokens.Source, done *tokens.Completed, err error) (completion, error) {
	if err != nil {
		account := source.Account()
		reason := tokens.Reason("")
		if f, ok := errors.AsType[*tokens.FlowError](err); ok {
			reason = f.Reason
		}
		a.app.logger.Warn("sign-in failed", "provider", account.Provider, "user", account.User, "reason", string(reason), "error", err)
		return completion{}, signInError(err)
	}
	a.app.signedIn(s, done)
	view := viewAccount(ctx, s, source)
	v := completion{Status: "completed", Account: &view}
	if done.Doubt != nil {
		v.Doubt = done.Doubt.Error()
	}
	return v, nil
}

// wholeSeconds rounds up: whoever waits that long is not too early.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// signInError makes an error of the administration of one of a sign-in, and
// says whose job it is.
func signInError(err error) error {
	f, ok := errors.AsType[*tokens.FlowError](err)
	if !ok {
		return &adminError{kind: adminUpstream, err: err}
	}
	e := &adminError{err: f.Err, reason: string(f.Reason)}
	if f.Err == nil {
		e.err = f
	}
	e.kind, e.who, e.do = signInDuty(f.Reason)
	cause, ok := errors.AsType[*tokens.Error](f.Err)
	if !ok {
		return e
	}
	switch {
	case cause.Op == "discovery" && cause.Temporary():
		e.who, e.do = tokens.WhoOperator, "see that the issuer's address is right and can be reached from this server (DNS, proxy); if so, begin anew in a while"
	case cause.Kind == tokens.KindConfig:
		e.who, e.do = tokens.WhoOperator, "correct the provider's settings, here or there; the detail says which"
	case f.Reason == tokens.ReasonExchange && cause.Kind == tokens.KindNeedsPerson:
		e.kind, e.who = adminConflict, tokens.WhoOwner
	}
	if advice, ok := cause.Advice(); ok {
		e.err = fmt.Errorf("%w: %s", e.err, advice.Meaning)
		e.who, e.do = advice.Who, advice.Do
	}
	return e
}

// signInDuty says what kind of error a reason is, who has to do something, and
// what.
func signInDuty(r tokens.Reason) (kind adminErrorKind, who tokens.Who, do string) {
	switch r {
	case tokens.ReasonUnavailable:
		return adminInvalid, tokens.WhoOperator, "choose another way of signing in, or change the provider's settings"
	case tokens.ReasonSession:
		return adminInvalid, tokens.WhoOperator, "give the session of the last answer for this account and this way of signing in (a paste needs url as well), or begin anew"
	case tokens.ReasonAddress:
		return adminInvalid, tokens.WhoOwner, "after consenting, copy the whole address of the page where the browser arrives, even if that page does not open"
	case tokens.ReasonState, tokens.ReasonProvider, tokens.ReasonIssuer:
		return adminInvalid, tokens.WhoOperator, "begin anew; if that address came from somebody else, do not use it"
	case tokens.ReasonTicket, tokens.ReasonExpired:
		return adminGone, tokens.WhoOperator, "begin anew"
	case tokens.ReasonSpent:
		return adminConflict, tokens.WhoOperator, "look at the account's state; begin anew if it needs authorization"
	case tokens.ReasonDenied:
		return adminConflict, tokens.WhoOwner, "begin anew and accept"
	case tokens.ReasonScope:
		return adminConflict, tokens.WhoOwner, "begin anew and grant all that is asked for"
	case tokens.ReasonIdentity:
		return adminConflict, tokens.WhoOwner, "sign in as exactly this mailbox"
	case tokens.ReasonMailServer:
		return adminConflict, tokens.WhoAdministrator, "let the mailbox send by SMTP, or sign in as exactly this mailbox"
	case tokens.ReasonRefresh:
		return adminInvalid, tokens.WhoOperator, "see that the provider's settings ask for offline access, and that it is a refresh token that is given"
	case tokens.ReasonStorage:
		return adminUpstream, tokens.WhoOperator, "see what is wrong with the storage, and begin anew"
	case tokens.ReasonBrowser, tokens.ReasonExchange:
	}
	return adminUpstream, tokens.WhoNobody, "begin anew in a while"
}
