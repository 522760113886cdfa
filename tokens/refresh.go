package tokens

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// saveTries are the waits between tries to store a token that was just issued:
// about ten seconds in all. After them the token stays in memory, marked
// unsaved, and the refresher goes on trying.
var saveTries = []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 5 * time.Second}

// obtain makes the cell hold a token as wanted: one that is stored already, or
// a new one.
//
//	look at the storage → lock → look again → ask the provider → store → hand out
func (s *Source) obtain(ctx context.Context, want renewal) *Error {
	if err := s.saveUnsaved(ctx); err != nil {
		return err
	}
	t, err := s.look(ctx)
	if err != nil {
		return err
	}
	if s.satisfies(t, want) {
		s.publish(t, false)
		return nil
	}
	unlock, lockErr := s.store.lock(ctx, s.account)
	if lockErr != nil {
		// Somebody else may be at it. Waiting for the lock took a while; what
		// is stored now may be theirs.
		if t, err = s.look(ctx); err != nil {
			return err
		}
		if s.satisfies(t, want) {
			s.publish(t, false)
			return nil
		}
		return s.fallBack(t, s.fail("refresh", KindTransient, lockErr))
	}
	defer unlock()
	if t, err = s.look(ctx); err != nil {
		return err
	}
	if s.satisfies(t, want) {
		s.publish(t, false)
		return nil
	}
	return s.refresh(ctx, t)
}

// look reads the stored token and returns an error where no refresh can be
// tried with it.
func (s *Source) look(ctx context.Context) (*Token, *Error) {
	t, err := s.store.Load(ctx, s.account)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.drop()
		return nil, s.fail("token", KindNeedsPerson, ErrNotAuthorized)
	case errors.Is(err, ErrUnknownKey) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewerFormat):
		return nil, s.fail("token", KindConfig, err)
	case err != nil:
		return nil, s.fail("token", KindTransient, err)
	case t.Revoked:
		e := s.fail("token", KindNeedsPerson, errors.New("the provider has ended the grant"))
		if t.Failure != nil {
			e.Code, e.Description = t.Failure.Code, t.Failure.Description
		}
		s.publish(t, false)
		return nil, e
	}
	return t, nil
}

// drop forgets a token that is gone from the storage.
func (s *Source) drop() {
	s.cell.mu.Lock()
	defer s.cell.mu.Unlock()
	s.cell.token.Store(nil)
}

// satisfies reports whether a stored token makes a refresh unnecessary.
func (s *Source) satisfies(t *Token, want renewal) bool {
	if !t.fresh(s.opts.Now().Add(want.ahead)) || s.refused(t) {
		return false
	}
	return !want.force || t.Generation > want.beyond
}

// refresh asks the provider for a new token and stores it. The caller holds the
// account's lock, as far as the storage's locks hold.
func (s *Source) refresh(ctx context.Context, t *Token) *Error {
	began := s.opts.Now()
	g, err := s.redeem(ctx, t)
	took := s.opts.Now().Sub(began)
	if err != nil {
		return s.refreshFailed(ctx, t, err, took)
	}
	now := s.opts.Now().UTC()
	next := *t
	next.Generation++
	next.AccessToken = NewSecret(g.accessToken)
	if g.refreshToken != "" && g.refreshToken != t.RefreshToken.Reveal() {
		next.PreviousRefreshToken = t.RefreshToken
		next.RefreshToken = NewSecret(g.refreshToken)
	}
	if g.scopes != nil {
		next.Scopes = g.scopes
	}
	next.IssuedAt, next.Expiry = now, now.Add(g.expiresIn)
	next.Failure = nil
	if err := s.save(ctx, &next); err != nil {
		// The provider may have ended the old refresh token already: what came
		// must not be lost with the storage. It serves from memory meanwhile.
		s.opts.Logger.Error("a new token could not be stored and is kept in memory only; check the storage", "error", err)
		s.publish(&next, true)
		return nil
	}
	s.publish(&next, false)
	if t.Failure != nil {
		s.opts.Logger.Info("token refreshed again after failures", "expiry", next.Expiry)
	}
	if f := s.opts.Observer.Refreshed; f != nil {
		f(s.account, took)
	}
	return nil
}

// redeem redeems the refresh token; where the provider says that it is void,
// the storage is looked at once more, and the previous one tried.
func (s *Source) redeem(ctx context.Context, t *Token) (*grant, *Error) {
	if t.RefreshToken.IsZero() {
		return nil, s.fail("refresh", KindNeedsPerson, errors.New("there is no refresh token"))
	}
	g, err := s.client.refresh(ctx, t.RefreshToken.Reveal())
	if err == nil {
		return g, nil
	}
	e := s.own(err)
	if e.Code != "invalid_grant" || t.PreviousRefreshToken.IsZero() {
		return nil, e
	}
	// With a lock that does not hold, another instance may have been first: then
	// its token is stored, and presenting an older one would harm it.
	if stored, err := s.store.Load(ctx, s.account); err != nil || stored.Generation != t.Generation {
		return nil, e
	}
	if g, err := s.client.refresh(ctx, t.PreviousRefreshToken.Reveal()); err == nil {
		return g, nil
	}
	return nil, e
}

// own makes an error of the client one of this account.
func (s *Source) own(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		return s.fail("refresh", KindTransient, err)
	}
	copied := *e
	copied.Account = s.account
	return &copied
}

// refreshFailed keeps what a failed refresh has shown.
func (s *Source) refreshFailed(ctx context.Context, t *Token, e *Error, took time.Duration) *Error {
	if f := s.opts.Observer.RefreshFailed; f != nil {
		f(s.account, e, took)
	}
	stored, err := s.store.Load(ctx, s.account)
	if err == nil && stored.Generation != t.Generation {
		// Another instance won; its token is the one that counts.
		if stored.usable(s.opts.Now()) && !s.refused(stored) {
			s.publish(stored, false)
			return nil
		}
		return s.fallBack(t, s.fail("refresh", KindTransient, errors.New("another instance has refreshed meanwhile")))
	}
	next := *t
	next.Failure = e.failure(s.opts.Now())
	if e.Kind == KindNeedsPerson {
		next.Revoked = true
	}
	// Only what operators should see is written: a passing failure every few
	// seconds would wear the storage.
	if next.Revoked || t.Failure == nil || t.Failure.Code != next.Failure.Code {
		if err := s.store.Save(ctx, &next); err != nil {
			s.opts.Logger.Error("the state of a token could not be stored", "error", err)
		}
	}
	if next.Revoked {
		s.publish(&next, false)
		s.opts.Logger.Error("the account needs authorization: a person must sign in again", "code", e.Code, "description", e.Description)
		if f := s.opts.Observer.NeedsAuthorization; f != nil {
			f(s.account, e)
		}
		return e
	}
	s.opts.Logger.Warn("refreshing a token failed", "error", e, "kind", e.Kind.String())
	return s.fallBack(&next, e)
}

// fallBack keeps an old token in use while it lasts, and returns err.
func (s *Source) fallBack(t *Token, err *Error) *Error {
	if t.usable(s.opts.Now()) && !s.refused(t) {
		s.publish(t, false)
	}
	return err
}

// save stores a token that was just issued, trying harder than usual.
func (s *Source) save(ctx context.Context, t *Token) (err error) {
	for _, wait := range saveTries {
		if wait > 0 {
			time.Sleep(wait)
		}
		if err = s.store.Save(ctx, t); err == nil {
			return nil
		}
	}
	return err
}

// saveUnsaved stores a token that is in memory only.
func (s *Source) saveUnsaved(ctx context.Context) *Error {
	c := s.cell
	c.mu.Lock()
	t, unsaved := c.token.Load(), c.unsaved
	c.mu.Unlock()
	if !unsaved {
		return nil
	}
	stored, err := s.store.Load(ctx, s.account)
	if err == nil && stored.Generation >= t.Generation {
		c.mu.Lock()
		c.unsaved = false
		c.mu.Unlock()
		return nil
	}
	if err := s.store.Save(ctx, t); err != nil {
		return s.fail("storing token", KindTransient, err)
	}
	c.mu.Lock()
	if c.token.Load() == t {
		c.unsaved = false
	}
	c.mu.Unlock()
	return nil
}
