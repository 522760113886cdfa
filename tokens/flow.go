package tokens

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"golang.org/x/oauth2"
)

// flowLife is how long a sign-in may take: from the link to the start page, and
// again from there to the callback.
const flowLife = 10 * time.Minute

// The names under which tickets, cookies and sessions are sealed: none opens as
// another.
const (
	ticketName  = "oauth_mail/flow/ticket"
	pendingName = "oauth_mail/flow/cookie"
	pasteName   = "oauth_mail/flow/paste"
	deviceName  = "oauth_mail/flow/device"
)

// Flow signs accounts in: in a browser with an authorization code and PKCE (RFC
// 6749, section 4.1; RFC 7636), the same with the final address pasted, by
// device code, or with a refresh token from elsewhere. Nothing about a sign-in
// is kept on the server: a sealed ticket leads to the start page, a sealed
// cookie binds what follows to the browser that opened it, sealed sessions take
// the cookie's place where no browser reaches us, and any instance that has the
// keys can finish it. It is safe for concurrent use.
type Flow struct {
	Store *Store
	Keys  func() (*KeyRing, error)
	// Verify tries the new access token at the mail server, before it is saved.
	// nil means that it lets the token in, an error that is ErrRefused that it
	// does not, and any other that it could not be asked. What follows from it
	// depends on who signed in; see [Flow.Complete]. Optional.
	Verify func(ctx context.Context, a Account, accessToken string) error
	// Now is the clock; nil is time.Now.
	Now func() time.Time

	devices deviceTurns
}

// ErrRefused: the mail server does not let the new token open the mailbox.
var ErrRefused = errors.New("the mail server refuses the token for this mailbox")

// pending is a sign-in under way. Sealed, it is the cookie of the browser, or
// the session of a paste.
type pending struct {
	Ticket Ticket `json:"ticket"`
	// Registration is the client that the person was asked for.
	Registration string `json:"registration"`
	State        string `json:"state"`
	Nonce        string `json:"nonce"`
	Verifier     string `json:"verifier"`
}

func (f *Flow) now() time.Time {
	if f.Now != nil {
		return f.Now()
	}
	return time.Now()
}

// Begun is a sign-in that was begun: where to send the browser, and the cookie
// that it must bring back.
type Begun struct {
	URL         string
	CookieName  string
	CookieValue string
	// Expires is when the cookie is of no more use.
	Expires time.Time
}

// Begin begins the sign-in that a ticket invites to. The error is a
// [*FlowError], or one of the key ring.
func (f *Flow) Begin(ctx context.Context, c *Client, t Ticket) (*Begun, error) {
	address, pend, err := f.begin(ctx, c, t)
	if err != nil {
		return nil, err
	}
	value, err := f.seal(pendingName, pend)
	if err != nil {
		return nil, err
	}
	return &Begun{URL: address, CookieName: CookieName(pend.State), CookieValue: value, Expires: pend.Ticket.Expires}, nil
}

// begin returns where a person consents, and what is to be known when the
// answer comes.
func (f *Flow) begin(ctx context.Context, c *Client, t Ticket) (address string, pend *pending, err error) {
	if err := c.signsIn(t.Account); err != nil {
		return "", nil, err
	}
	p, err := c.resolve(ctx)
	if err != nil {
		return "", nil, &FlowError{Reason: ReasonExchange, Account: t.Account, Err: err}
	}
	pend = &pending{Ticket: t, Registration: c.registration, State: rand.Text(), Verifier: oauth2.GenerateVerifier()}
	pend.Ticket.Expires = f.now().Add(flowLife).UTC()
	if slices.Contains(p.Scopes, "openid") {
		pend.Nonce = rand.Text()
	}
	return c.authorizationURL(p, pend.State, pend.Nonce, pend.Verifier, t.Account.User, t.Prompt), pend, nil
}

// signsIn reports why nobody can sign in to an account at the client's
// provider: nil where somebody can. The error is a [*FlowError].
func (c *Client) signsIn(a Account) error {
	p := &c.provider
	switch {
	case a.Provider != p.Name:
		return &FlowError{Reason: ReasonProvider, Account: a, Err: errors.New("this was begun for another provider")}
	case p.Grant.Unattended():
		return &FlowError{Reason: ReasonUnavailable, Account: a, Err: fmt.Errorf("nobody signs in to %s; it works with the client's own credentials", p.Title())}
	}
	return nil
}

// CookiePrefix begins the names of the cookies of sign-ins under way.
const CookiePrefix = "oauth_mail_flow_"

// CookieName is the name of the cookie of the sign-in with the given state. Each
// has its own, so that two tabs do not disturb each other.
func CookieName(state string) string {
	sum := sha256.Sum256([]byte(state))
	return CookiePrefix + hex.EncodeToString(sum[:8])
}

// Completed is a sign-in that has ended with a token.
type Completed struct {
	// Token is saved. The account's [Source] is to adopt it.
	Token *Token
	// Doubt is why mail may not flow all the same, as the mail server told when
	// it was tried: nil where it let the token in or was not asked, an error that
	// is [ErrRefused] where it did not, and another where it could not be asked.
	// It holds no secret, and a stranger's words: escape them.
	Doubt error
}

// Complete ends a sign-in: it checks the authorization response that came to
// the provider's redirect URI, redeems the code, checks what was granted and to
// whom, and saves the token. A token saved before stays when anything fails.
// The error is a [*FlowError].
//
// Whom the mail server lets in may use the mailbox. Where it refuses, or can't
// be asked, the names in the ID token count: somebody else's end the sign-in;
// with the mailbox's own the token is saved, with a doubt, since then it is the
// mail server's settings that are in the way. A refusal and no names end it.
//
// The caller's going away does not stop it once the code is on its way: a code
// is good for one use only.
func (f *Flow) Complete(ctx context.Context, c *Client, response url.Values, cookie string) (*Completed, error) {
	if cookie == "" {
		return nil, &FlowError{Reason: ReasonBrowser, Err: errors.New("this browser did not begin the sign-in, or blocks cookies")}
	}
	var pend pending
	if err := f.open(pendingName, cookie, &pend); err != nil {
		return nil, &FlowError{Reason: ReasonState, Err: err}
	}
	return f.complete(ctx, c, response, &pend)
}

// complete ends the sign-in that a response is said to belong to.
func (f *Flow) complete(ctx context.Context, c *Client, response url.Values, pend *pending) (*Completed, error) {
	if err := f.match(c, response, pend); err != nil {
		return nil, err
	}
	account := pend.Ticket.Account
	fail := func(r Reason, err error) (*Completed, error) {
		return nil, &FlowError{Reason: r, Account: account, Err: err, ticket: pend.Ticket}
	}
	p, err := c.resolve(ctx)
	if err != nil {
		return fail(ReasonExchange, err)
	}
	if err := checkIss(p, response); err != nil {
		return fail(ReasonIssuer, err)
	}
	ctx = context.WithoutCancel(ctx)
	if err := f.Store.claimState(ctx, pend.State, f.now()); err != nil {
		return fail(ReasonSpent, err)
	}
	secrets := []string{pend.State, pend.Nonce, pend.Verifier, response.Get("code")}
	if code := response.Get("error"); code != "" {
		return fail(ReasonDenied, &Error{
			Op: "authorization", Kind: authorizationKind(code), Account: account,
			Code: tidy(code, secrets...), Description: tidy(response.Get("error_description"), secrets...),
		})
	}
	code := response.Get("code")
	if code == "" {
		return fail(ReasonState, errors.New("the provider's answer has no code"))
	}
	underWay.begin()
	defer underWay.end()
	g, err := c.exchange(ctx, code, pend.Verifier)
	if err != nil {
		return fail(ReasonExchange, err)
	}
	done, reason, err := f.accept(ctx, c, p, expected{account: account, by: pend.Ticket.By, nonce: pend.Nonce}, g)
	if err != nil {
		return fail(reason, err)
	}
	return done, nil
}

// match checks that a response belongs to a sign-in.
func (f *Flow) match(c *Client, response url.Values, pend *pending) error {
	account := pend.Ticket.Account
	for _, name := range []string{"state", "code", "error", "iss"} {
		if len(response[name]) > 1 { // RFC 6749, section 3.1
			return &FlowError{Reason: ReasonState, Account: account, Err: errors.New("the answer has " + name + " more than once")}
		}
	}
	if subtle.ConstantTimeCompare([]byte(pend.State), []byte(response.Get("state"))) != 1 {
		return &FlowError{Reason: ReasonState, Account: account, Err: errors.New("the state is not the one of this sign-in")}
	}
	if err := c.signsIn(account); err != nil {
		return err
	}
	if pend.Registration != c.registration {
		// Its code is no business of whoever is behind the settings now.
		return &FlowError{Reason: ReasonProvider, Account: account, Err: errors.New("the provider's issuer, endpoint or client id was changed since this was begun; begin anew")}
	}
	if f.now().After(pend.Ticket.Expires) {
		return &FlowError{Reason: ReasonExpired, Account: account, Err: errors.New("the sign-in took more than ten minutes")}
	}
	return nil
}

// checkIss applies RFC 9207, section 2.4.
func checkIss(p Provider, response url.Values) error {
	iss, present := response.Get("iss"), response.Has("iss")
	switch {
	case p.IssRule == IssIgnored || p.Issuer == "":
		return nil
	case present && iss != p.Issuer:
		return errors.New("the answer names another issuer: " + tidy(iss))
	case !present && p.IssRule == IssRequired:
		return errors.New("the answer names no issuer, though this provider says that it always does")
	}
	return nil
}

func (f *Flow) seal(name string, v any) (string, error) {
	ring, err := f.Keys()
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sealed, err := ring.Seal(name, plain)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

func (f *Flow) open(name, text string, v any) error {
	ring, err := f.Keys()
	if err != nil {
		return err
	}
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return ErrCorrupt
	}
	plain, err := ring.Open(name, sealed)
	if err != nil {
		return err
	}
	if json.Unmarshal(plain, v) != nil {
		return ErrCorrupt
	}
	return nil
}
