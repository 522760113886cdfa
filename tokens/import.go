package tokens

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Import takes over a refresh token that was obtained elsewhere, for the same
// client registration: it redeems it once, and what comes is checked and saved
// as after any other sign-in (see [Flow.Complete]). By names who asks.
//
// A token that an account lives on, or was imported with, is not redeemed again:
// the provider might end the grant. All records are looked at for that.
//
// The provider may end the token that was given when it redeems it. Where that
// is possible and nothing was saved, the error says so; the same import may be
// tried again then, since nothing is left that it could harm. The error is a
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
	mark := importMark(given)
	release, ok := f.Store.claimImport(mark)
	if !ok {
		return fail(ReasonSpent, errors.New("this refresh token is being imported already"))
	}
	defer release()
	if reason, err := f.Store.unused(ctx, a, given, c.registration); err != nil {
		return fail(reason, err)
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
		if e, ok := errors.AsType[*Error](err); ok && (e.Kind == KindAmbiguous || e.Status >= 500) {
			err = fmt.Errorf("%w; %w", err, errMayBeVoid)
		}
		return fail(ReasonExchange, err)
	}
	rotated := g.refreshToken != "" && g.refreshToken != given
	if !rotated {
		g.refreshToken = given
	}
	done, reason, err := f.accept(ctx, c, p, expected{account: a, by: by, imported: mark}, g)
	if err != nil {
		if rotated {
			err = fmt.Errorf("%w; %w", err, errMayBeVoid)
		}
		return fail(reason, err)
	}
	return done, nil
}

// unused returns an error where a refresh token is in use for an account, or
// where that is not known. The account that it is to be for comes first: its
// record must be readable. What can't be read of the others can't be compared.
func (s *Store) unused(ctx context.Context, a Account, refreshToken, registration string) (Reason, error) {
	inUse := func(t *Token) (Reason, error) {
		return ReasonSpent, errors.New("this refresh token is in use for " + t.Account.User + " already, or was: imported or not, it is good for one use")
	}
	t, err := s.Load(ctx, a)
	switch {
	case unreadable(err):
		return ReasonStorage, fmt.Errorf("%w; disconnect the account first, if that record is lost", err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return ReasonStorage, fmt.Errorf("%w; the refresh token was not used", err)
	case err == nil && t.uses(refreshToken, registration):
		return inUse(t)
	}
	ring, err := s.keys()
	if err != nil {
		return ReasonStorage, err
	}
	for key, err := range s.records(ctx) {
		var sealed []byte
		if err == nil {
			sealed, err = s.loadSealed(ctx, key)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted since it was listed
		}
		if err != nil {
			return ReasonStorage, fmt.Errorf("looking whether it is in use: %w; the refresh token was not used", err)
		}
		plain, err := ring.Open(key, sealed)
		if err != nil {
			continue
		}
		if t, err := decodeToken(plain); err == nil && t.uses(refreshToken, registration) {
			return inUse(t)
		}
	}
	return "", nil
}

// errMayBeVoid: a provider has, or may have, answered with another refresh
// token, which is lost.
var errMayBeVoid = errors.New("the refresh token that was given may be void now: the provider may have replaced it, and what came was not kept")
