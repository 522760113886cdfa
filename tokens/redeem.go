package tokens

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// redeem redeems the refresh token; where the provider says that it is void,
// the storage is looked at once more, and the previous one tried. Used is the
// one that was redeemed.
func (s *Source) redeem(ctx context.Context, t *Token) (g *grant, used Secret, e *Error) {
	if s.unattended() {
		g, e := s.ask(func() (*grant, error) { return s.client.mint(ctx, s.account.User) })
		return g, Secret{}, e
	}
	if t.RefreshToken.IsZero() {
		return nil, Secret{}, s.fail("refresh", KindNeedsPerson, errors.New("there is no refresh token"))
	}
	g, e = s.ask(func() (*grant, error) { return s.client.refresh(ctx, t.RefreshToken.Reveal(), t.Requested) })
	if e == nil {
		return g, t.RefreshToken, nil
	}
	if e.Code != "invalid_grant" || e.Kind != KindNeedsPerson {
		return nil, Secret{}, e
	}
	// With a lock that does not hold, another instance may have been first: then
	// its token counts, and presenting an older one would harm it.
	time.Sleep(rivalWait)
	if stored, err := s.store.reload(ctx, s.account, t); err != nil || stored.supersedes(t) {
		return nil, Secret{}, e
	}
	if t.PreviousRefreshToken.IsZero() {
		return nil, Secret{}, e
	}
	s.pacer().atOnce()
	g, last := s.ask(func() (*grant, error) { return s.client.refresh(ctx, t.PreviousRefreshToken.Reveal(), t.Requested) })
	if last == nil {
		return g, t.PreviousRefreshToken, nil
	}
	if last.Temporary() {
		return nil, Secret{}, last // it isn't known yet whether it is void, too
	}
	return nil, Secret{}, e
}

// ask makes a request to the token endpoint. What it shows of the client and of
// the host counts for all their accounts.
func (s *Source) ask(request func() (*grant, error)) (*grant, *Error) {
	g, err := request()
	p := &s.client.provider
	if err == nil {
		s.client.circuit.learn(s.account, nil, p.Grant, s.now())
		return g, nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		s.client.circuit.learn(s.account, e, p.Grant, s.now())
		if e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable {
			s.pacer().complain(e.RetryAfter)
		}
	}
	return nil, s.own(err)
}

// own makes an error of the client one of this account.
func (s *Source) own(err error) *Error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return s.fail("refresh", KindTransient, err)
	}
	copied := *e
	copied.Account = s.account
	return &copied
}

// refused is an account's share in a refusal of the client.
func (s *Source) refused(e *Error) *Error {
	copied := *e
	copied.Account, copied.Err = s.account, errOpen
	return &copied
}
