package tokens

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"time"
)

const (
	// rivalWait is how long a refresh token that the provider calls void is
	// given to turn up renewed in the storage: where a lock did not hold,
	// another instance is storing it just now.
	rivalWait = 2 * time.Second
	// lockPatience is how long a lock that can't be had is taken for somebody
	// else's. After that it is broken, and must not cost a mailbox.
	lockPatience = 10 * time.Minute
	// deadLockJitter sets instances apart that go on without a dead one's lock.
	deadLockJitter = 3 * time.Second
)

// obtain makes the cell hold a token as wanted: one that is stored already, or
// a new one.
//
//	look at the storage → take one's turn → lock → look again → ask the provider → store → hand out
func (s *Source) obtain(ctx context.Context, want renewal) *Error {
	var first *Token
	enough := func(t *Token) bool {
		now := s.now()
		switch {
		case s.cell.refusedToken(t):
			return false
		case want.force:
			return t.supersedes(first) && t.usable(now)
		case want.onDemand:
			return t.usable(now)
		}
		return t.fresh(now.Add(want.ahead), s.client.provider.Margin)
	}
	if want.permit == nil { // else there was a look a moment ago
		t, saved, err := s.look(ctx)
		if err != nil {
			return err
		}
		if want.cut != nil && t.Generation != want.cut.Generation {
			return nil
		}
		first = t
		s.cell.publish(t, saved) // to be used while it lasts, whatever comes
		if !saved {
			// That waits for no turn at the provider.
			if t, saved, err = s.secure(ctx, want); err != nil {
				return err
			}
		}
		if saved && enough(t) {
			return nil
		}
		if err := s.takeTurn(want); err != nil {
			return err
		}
	}
	got := want.permit.lend()
	unlock, lockErr := s.lock(ctx)
	got()
	if unlock != nil {
		defer unlock()
	}
	// Getting the lock, or not, took a while: another instance may be done.
	t, saved, err := s.look(ctx)
	if err != nil {
		return err
	}
	s.cell.publish(t, saved)
	if saved && enough(t) {
		return nil
	}
	if lockErr != nil {
		return lockErr
	}
	if !saved {
		if saved, err = s.keep(ctx, t, want); err != nil || saved && enough(t) {
			return err
		}
	}
	return s.refresh(ctx, t, saved, want)
}

// secure stores a token that may be in memory only, under the account's lock,
// and returns the newest one then.
func (s *Source) secure(ctx context.Context, want renewal) (t *Token, saved bool, err *Error) {
	unlock, lockErr := s.lock(ctx)
	if unlock != nil {
		defer unlock()
	}
	if t, saved, err = s.look(ctx); err != nil {
		return nil, false, err
	}
	s.cell.publish(t, saved)
	if saved {
		return t, true, nil
	}
	if lockErr != nil {
		return nil, false, lockErr
	}
	saved, err = s.keep(ctx, t, want)
	return t, saved, err
}

// keep stores a token that is not stored yet. The caller holds the account's
// lock. Without an error it may still not be stored: where the storage's trouble
// has outlasted the token, another unsaved one risks no more than this one does.
func (s *Source) keep(ctx context.Context, t *Token, want renewal) (saved bool, err *Error) {
	saveErr := s.store.Save(ctx, t)
	if saveErr == nil {
		s.cell.publish(t, true)
		return true, nil
	}
	if t.usable(s.now()) && !want.force && !s.cell.refusedToken(t) {
		return false, s.fail(opKeep, KindTransient, saveErr)
	}
	return false, nil
}

// takeTurn waits until the provider may be asked, or returns why it is not.
func (s *Source) takeTurn(want renewal) *Error {
	if e := s.client.circuit.refusal(s.now()); e != nil && !want.force {
		return s.refused(e)
	}
	switch {
	case want.look:
		return errAsk
	case want.cut != nil:
		s.pacer().atOnce()
	default:
		wait, err := s.pacer().onDemand()
		if err != nil {
			return s.fail("refresh", KindTransient, err)
		}
		time.Sleep(wait)
	}
	return nil
}

// The [Error.Op] of what keeps a token from being read or stored, and of a
// refresh that could not be noted beforehand.
const (
	opLook = "token"
	opKeep = "storing token"
	opNote = "noting a refresh"
)

// refresh asks the provider for a new token and stores it. The caller holds the
// account's lock, as far as the storage's locks hold. Saved says whether t is
// stored.
func (s *Source) refresh(ctx context.Context, t *Token, saved bool, want renewal) *Error {
	began := s.now()
	failed := true // what is stored stays as it was
	if e := s.client.circuit.enter(began, want.force); e != nil {
		return s.refused(e)
	}
	if s.cuttable() {
		defer func() { s.store.intents.done(s.account, failed) }()
		err := s.announce(t)
		if err != nil && t.usable(began) && !want.force && !s.cell.refusedToken(t) {
			return s.fail(opNote, KindTransient, err) // there is time until the storage is well
		}
	}
	if want.permit != nil {
		want.permit.spent = true
	}
	g, used, err := s.redeem(ctx, t)
	took := s.now().Sub(began)
	if err != nil {
		return s.refreshFailed(ctx, t, saved, err, took)
	}
	// UTC drops the monotonic part: the provider's clock goes on over a suspend.
	now := s.now().UTC()
	next := t.edit()
	next.Generation++
	next.Registration = s.client.registration // old records have none; the provider took its token
	next.AccessToken = NewSecret(g.accessToken)
	next.RefreshToken, next.PreviousRefreshToken = used, Secret{}
	if g.refreshToken != "" && g.refreshToken != used.Reveal() {
		next.RefreshToken, next.PreviousRefreshToken = NewSecret(g.refreshToken), used
	}
	if g.scopes != nil {
		next.Scopes = g.scopes
	}
	if s.unattended() {
		next.Requested = s.client.provider.Scopes
	}
	next.IssuedAt, next.Expiry = now, now.Add(g.expiresIn)
	next.Failure = nil
	// Where the lock did not hold, somebody may have signed in anew, refreshed or
	// disconnected since. Their word is newer.
	stored, loadErr := s.store.reload(ctx, s.account, t)
	missing := errors.Is(loadErr, fs.ErrNotExist) && saved && !s.unattended()
	if missing { // once is not enough to end a grant on
		time.Sleep(rivalWait)
		stored, loadErr = s.store.reload(ctx, s.account, t)
		missing = errors.Is(loadErr, fs.ErrNotExist)
	}
	switch {
	case missing:
		s.log().Warn("the account was disconnected during a refresh")
		_, _ = s.client.revoke(ctx, next.RefreshToken.Reveal())
		return s.lose(ErrNotAuthorized)
	case loadErr == nil && stored.supersedes(t):
		s.log().Warn("another instance has stored a token during a refresh; the storage's lock does not hold")
		return s.yield(stored)
	}
	recovered := t.Failure != nil || s.cell.failing()
	if err := s.save(ctx, &next); err != nil {
		// The provider may have ended the old refresh token already: what came
		// must not be lost with the storage. It serves from memory meanwhile.
		s.log().Error("a new token could not be stored and is kept in memory only; check the storage", "error", err)
		s.cell.issue(&next, false)
	} else {
		failed = false
		s.cell.issue(&next, true)
	}
	if f := s.opts.Observer.Refreshed; f != nil {
		f(s.account, took)
	}
	if recovered {
		s.log().Info("token refreshed again after failures", "expiry", next.Expiry)
		if f := s.opts.Observer.Recovered; f != nil {
			f(s.account)
		}
	}
	return nil
}

// refreshFailed keeps what a failed refresh has shown.
func (s *Source) refreshFailed(ctx context.Context, t *Token, saved bool, e *Error, took time.Duration) *Error {
	stored, err := s.store.reload(ctx, s.account, t)
	switch {
	case errors.Is(err, fs.ErrNotExist) && saved && !s.unattended():
		return s.lose(ErrNotAuthorized)
	case err == nil && (stored.supersedes(t) || !stored.belongsTo(s.client.registration)):
		return s.yield(stored)
	case err != nil && e.Kind == KindNeedsPerson:
		// Whether this was the newest refresh token isn't known: nothing ends
		// a grant on that.
		e.Kind = KindTransient
	}
	if f := s.opts.Observer.RefreshFailed; f != nil {
		f(s.account, e, took)
	}
	next := t.edit()
	next.Failure = e.failure(s.now())
	next.Revoked = e.Kind == KindNeedsPerson
	// Only what asks for a person is written: passing failures would wear the
	// storage, and each write may undo one that a failing lock let slip.
	if !e.Temporary() && (next.Revoked || t.Failure == nil || t.Failure.Code != e.Code) {
		if err := s.store.Save(ctx, &next); err != nil {
			s.log().Error("the state of a token could not be stored", "error", err)
		} else {
			saved = true
		}
	}
	s.cell.publish(&next, saved)
	if next.Revoked {
		s.log().Error("the account needs authorization: a person must sign in again", "code", e.Code, "description", e.Description)
		if f := s.opts.Observer.NeedsAuthorization; f != nil {
			f(s.account, e)
		}
		return e
	}
	s.log().Warn("refreshing a token failed", "error", e, "kind", e.Kind.String())
	return e
}

// save stores a token that was just issued and that nobody else sees yet. A write
// that is lost without a word would cost the grant, so it is read back.
func (s *Source) save(ctx context.Context, t *Token) error {
	given, err := s.store.saveIssued(ctx, t)
	if err != nil {
		return err
	}
	found, err := s.store.loadSealed(ctx, s.account.storageKey())
	if err != nil {
		return nil
	}
	if bytes.Equal(found, given) {
		t.record = sha256.Sum256(given)
		return nil
	}
	if stored, err := s.store.open(s.account, found); err == nil && t.supersedes(stored) {
		s.log().Warn("the storage lags behind or has lost a new token; it is stored again, check the storage")
		return s.store.Save(ctx, t)
	}
	return nil
}
