package mailer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
)

// ServerInfo is what an [Authenticator] may know of a server. The connection
// is either verified TLS or plaintext to a near host that the operator asked
// for.
type ServerInfo struct {
	Host string
	Port int
	// Mechanisms are those offered, in upper case.
	Mechanisms []string
}

func (s ServerInfo) offers(mechanism string) bool { return slices.Contains(s.Mechanisms, mechanism) }

// noMechanism is the error when the server offers nothing that fits.
func (s ServerInfo) noMechanism(want string) *Error {
	offered, code := "none", "auth_not_offered"
	if len(s.Mechanisms) > 0 {
		offered, code = strings.Join(s.Mechanisms, " "), "mechanism_not_offered"
	}
	return &Error{
		Stage: StageAuth, Kind: KindConfig, Code: code,
		Err: fmt.Errorf("server does not offer %s; it offers: %s", want, offered),
	}
}

// Authenticator signs in to mail servers (RFC 4954). It may be called
// concurrently.
type Authenticator interface {
	// Client returns the client side of one sign-in. An error that is an
	// [*Error] keeps its kind.
	Client(ctx context.Context, s ServerInfo) (sasl.Client, error)
	// Rejected is told that the server refused the sign-in of a client that
	// Client returned. It reports whether another Client may fare better; it
	// is then asked for one, once.
	Rejected(c sasl.Client, err *Error) (again bool)
}

// TokenSource gives out access tokens of one account.
type TokenSource interface {
	// AccessToken returns a token that is valid now. Where the error has a
	// method Temporary() bool that returns true, a later call may succeed;
	// otherwise a person must act.
	AccessToken(ctx context.Context) (string, error)
	// Reject tells that a mail server did not take a token, so that the next
	// AccessToken returns another. It says nothing about the grant: servers
	// refuse good tokens during outages of their own. It reports whether
	// AccessToken will answer otherwise now: where not, the same token need not
	// be tried again.
	Reject(token string) bool
}

// Password signs in by PLAIN (RFC 4616) or, where the server offers only that,
// LOGIN.
type Password struct {
	User     string
	Password string
}

// Client implements [Authenticator].
func (p Password) Client(_ context.Context, s ServerInfo) (sasl.Client, error) {
	if p.User == "" || hasControl(p.User) || hasControl(p.Password) {
		return nil, &Error{Stage: StageAuth, Kind: KindConfig, Err: errors.New("user is empty, or user or password has control characters")}
	}
	switch {
	case s.offers(sasl.Plain):
		return secretClient{sasl.NewPlainClient("", p.User, p.Password), p.Password}, nil
	case s.offers(sasl.Login):
		return secretClient{&loginClient{user: p.User, password: p.Password}, p.Password}, nil
	}
	return nil, s.noMechanism("PLAIN or LOGIN")
}

// Rejected implements [Authenticator]: a password does not get better.
func (p Password) Rejected(sasl.Client, *Error) bool { return false }

// String names the user only.
func (p Password) String() string { return "password of " + p.User }

// GoString names the user only.
func (p Password) GoString() string { return p.String() }

// Token signs in with an access token: by XOAUTH2 or OAUTHBEARER, and never by
// a mechanism that would take it for a password.
type Token struct {
	User   string
	Source TokenSource
	// Mechanism is "XOAUTH2" or "OAUTHBEARER". Empty means whichever is
	// offered, XOAUTH2 first, as that is the one all providers document.
	Mechanism string
	// App says that the tokens are an application's own and not a person's.
	App bool
}

// Client implements [Authenticator].
func (t Token) Client(ctx context.Context, s ServerInfo) (sasl.Client, error) {
	mechanism, e := t.mechanism(s)
	if e != nil {
		return nil, e
	}
	if t.User == "" || hasControl(t.User) {
		return nil, &Error{Stage: StageAuth, Kind: KindConfig, Err: errors.New("user is empty or has control characters")}
	}
	token, e := t.token(ctx)
	if e != nil {
		return nil, e
	}
	if mechanism == sasl.OAuthBearer {
		return secretClient{&oauthBearerClient{user: t.User, host: s.Host, port: s.Port, token: token}, token}, nil
	}
	return secretClient{&xoauth2Client{user: t.User, token: token}, token}, nil
}

func (t Token) token(ctx context.Context) (token string, e *Error) {
	e = traced(ctx, StageToken, func(f *Facts) (e *Error) {
		var err error
		token, err = t.Source.AccessToken(ctx)
		if err != nil {
			return tokenError(ctx, err)
		}
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			// It would end its field early (RFC 6750, section 2.1).
			return &Error{Stage: StageToken, Kind: KindConfig, Err: errors.New("access token is empty or has characters that no token has")}
		}
		if s, ok := t.Source.(interface{ Expiry() time.Time }); ok && f != nil {
			f.Expires = s.Expiry()
		}
		return nil
	})
	return token, e
}

// prepare finds out whether there is a token before any server is dialed: where
// nobody has signed in, whether the server can be reached is of no interest.
func (t Token) prepare(ctx context.Context) *Error {
	if _, err := t.Source.AccessToken(ctx); err != nil {
		return tokenError(ctx, err)
	}
	return nil
}

func (t Token) mechanism(s ServerInfo) (string, *Error) {
	switch want := strings.ToUpper(t.Mechanism); want {
	case "":
		for _, m := range []string{xoauth2, sasl.OAuthBearer} {
			if s.offers(m) {
				return m, nil
			}
		}
		return "", s.noMechanism("XOAUTH2 or OAUTHBEARER")
	case xoauth2, sasl.OAuthBearer:
		if s.offers(want) {
			return want, nil
		}
		return "", s.noMechanism(want)
	}
	return "", &Error{Stage: StageAuth, Kind: KindConfig, Err: errors.New("no such mechanism for tokens")}
}

// Rejected implements [Authenticator]. It drops the token, unless the reply
// shows that a switch is off at the server, which no token can turn on.
func (t Token) Rejected(c sasl.Client, err *Error) bool {
	s, ok := c.(secretClient)
	if !ok || switchedOff(err.Reply) {
		return false
	}
	return t.Source.Reject(s.secret)
}

// switchedOff recognises Exchange's answers when SMTP AUTH as such is disabled
// for a mailbox or an organization, whatever the credentials.
func switchedOff(r Reply) bool {
	return r.Enhanced == EnhancedCode{5, 7, 139} || r.Enhanced == EnhancedCode{5, 7, 30} ||
		containsAny(strings.ToLower(r.Text), "smtpclientauthentication is disabled", "basic authentication is disabled", "5.7.30", "5.7.139")
}

func tokenError(ctx context.Context, err error) *Error {
	e := &Error{Stage: StageToken, Kind: KindUnauthorized, Err: err}
	var t interface{ Temporary() bool }
	if ctx.Err() != nil || errors.As(err, &t) && t.Temporary() {
		e.Kind = KindTemporary
	}
	return e
}

// secretClient carries the secret beside the mechanism, to give back a token
// that was refused and to keep it out of replies that echo it.
type secretClient struct {
	sasl.Client
	secret string
}

// status is the server's own word for a failure, from its last challenge.
func (s secretClient) status() string {
	if c, ok := s.Client.(interface{ status() string }); ok {
		return c.status()
	}
	return ""
}

// String hides the secret from print verbs.
func (s secretClient) String() string { return "sasl client" }

// GoString hides the secret from print verbs.
func (s secretClient) GoString() string { return "sasl client" }

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// authRefused reports whether the server looked at the credentials and said
// no. It may say so for good only: temporary trouble is no verdict.
func authRefused(e *Error) bool {
	return e.Stage == StageAuth && e.Reply.Code >= 500 && (e.Kind == KindUnauthorized || e.Reply.Enhanced == EnhancedCode{5, 5, 127})
}

// signIn gets a client from a and runs its dialogue.
func (c *Conn) signIn(ctx context.Context, a Authenticator) (sasl.Client, *Error) {
	if !c.secure && c.server.Security != Plaintext {
		return nil, c.lost(StageAuth, errors.New("no TLS"))
	}
	client, e := c.saslClient(ctx, a)
	if e != nil && e.Stage == StageToken {
		return nil, e
	}
	e = traced(ctx, StageAuth, func(f *Facts) *Error {
		if f != nil {
			f.Mechanisms = c.mechanisms()
		}
		if e != nil {
			return e
		}
		e := c.authenticate(ctx, client, f)
		if e != nil {
			e.Grant = grantOf(a)
		}
		if s, ok := client.(secretClient); ok && e != nil {
			e.Reply.Text = redact(e.Reply.Text, s.secret)
			e.AuthStatus = redact(s.status(), s.secret)
		}
		return e
	})
	return client, e
}

// saslClient gets a client from a.
func (c *Conn) saslClient(ctx context.Context, a Authenticator) (sasl.Client, *Error) {
	client, err := a.Client(ctx, c.info())
	if err == nil {
		return client, nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Stage: StageAuth, Kind: KindConfig, Err: err}
	}
	named := *e // the authenticator's own
	named.Server = c.addr
	return nil, &named
}
