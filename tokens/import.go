package tokens

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Import takes over a refresh token that was obtained elsewhere, for the same
// client registration: it redeems it once, and what comes is checked and saved
// as after any other sign-in (see [Flow.Complete]). By names who asks.
//
// The provider may end the token that was given when it redeems it. Where that
// is possible and nothing was saved, the error says so. The error is a
// [*FlowError]. The caller's going away stops nothing once the token is on its
// way.
func (f *Flow) Import(ctx context.Context, c *Client, a Account, refreshToken Secret, by string) (*Completed, error) {
	fail := func(r Reason, err error) (*Completed, error) {
		return nil, &FlowError{Reason: r, Account: a, Err: err}
	}
	if err := c.signsIn(a); err != nil {
		return nil, err
	}
	given := refreshToken.Reveal()
	if given == "" || strings.ContainsFunc(given, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fail(ReasonRefresh, errors.New("this is no refresh token: it is empty, or has characters that no token has (RFC 6749, appendix A.17)"))
	}
	// Two redeeming one token would end the grant.
	old, err := f.Store.Load(ctx, a)
	switch {
	case unreadable(err):
		return fail(ReasonStorage, fmt.Errorf("%w; disconnect the account first, if that record is lost", err))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fail(ReasonStorage, fmt.Errorf("%w; the refresh token was not used", err))
	case err == nil && subtle.ConstantTimeCompare([]byte(old.RefreshToken.Reveal()), []byte(given)) == 1:
		return fail(ReasonSpent, errors.New("this refresh token is in use for the account already"))
	}
	p, err := c.resolve(ctx)
	if err != nil {
		return fail(ReasonExchange, fmt.Errorf("%w; the refresh token was not used", err))
	}
	underWay.begin()
	defer underWay.end()
	ctx = context.WithoutCancel(ctx)
	g, err := c.refresh(ctx, given, nil)
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok && e.Kind == KindAmbiguous {
			err = fmt.Errorf("%w; %w", err, errMayBeVoid)
		}
		return fail(ReasonExchange, err)
	}
	rotated := g.refreshToken != "" && g.refreshToken != given
	if !rotated {
		g.refreshToken = given
	}
	done, reason, err := f.accept(ctx, c, p, expected{account: a, by: by}, g)
	if err != nil {
		if rotated {
			err = fmt.Errorf("%w; %w", err, errMayBeVoid)
		}
		return fail(reason, err)
	}
	return done, nil
}

// errMayBeVoid: a provider has, or may have, answered with another refresh
// token, which is lost.
var errMayBeVoid = errors.New("the refresh token that was given may be void now: the provider may have replaced it, and what came was not kept")
