package tokens

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// look returns the newest token known and whether it is stored, or an error
// where no refresh can be tried with it.
func (s *Source) look(ctx context.Context) (t *Token, saved bool, failure *Error) {
	stored, err := s.store.reload(ctx, s.account, s.cell.looked(s.now()))
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.unattended():
		stored = &Token{Account: s.account}
	case errors.Is(err, fs.ErrNotExist):
		if t := s.cell.onlyCopy(); t != nil && t.belongsTo(s.client.registration) {
			return t, false, nil // nothing takes the only copy away
		}
		return nil, false, s.lose(ErrNotAuthorized)
	case unreadable(err):
		return nil, false, s.fail(opLook, KindConfig, err)
	case err != nil:
		return nil, false, s.fail(opLook, KindTransient, err)
	}
	if s.unattended() && !stored.belongsTo(s.client.registration) {
		// Nobody has to sign in anew: this registration just gets its own.
		stored = &Token{Account: s.account, Generation: stored.Generation, AuthorizedAt: stored.AuthorizedAt}
	}
	t, saved = s.cell.latest(stored)
	if !t.belongsTo(s.client.registration) {
		return nil, false, s.lose(ErrOtherRegistration)
	}
	if t.Revoked {
		e := s.fail("token", KindNeedsPerson, errors.New("the provider has ended the grant"))
		if t.Failure != nil {
			e.Code, e.Suberror, e.Description = t.Failure.Code, t.Failure.Suberror, t.Failure.Description
			e.Numbers, e.TraceID, e.CorrelationID = t.Failure.Numbers, t.Failure.TraceID, t.Failure.CorrelationID
		}
		s.cell.publish(t, saved)
		if stored.Revoked && saved {
			s.cell.deadStored()
		}
		return nil, false, e
	}
	return t, saved, nil
}

// lock takes the account's lock in the storage. Without one and without an
// error the lock has been out of reach for so long that the work goes on
// without it.
func (s *Source) lock(ctx context.Context) (unlock func(), err *Error) {
	unlock, lockErr := s.store.lock(ctx, s.account)
	if errors.Is(lockErr, context.DeadlineExceeded) && s.store.intents.takingUp(s.account) {
		// Its holder is dead, and who had it before keeps it fresh: some storages
		// do that for as long as that process lives. A provider's grace is shorter.
		s.log().Warn("a dead process's lock is in the way; going on without it", "error", lockErr)
		time.Sleep(time.Duration(s.early * float32(deadLockJitter))) // others find the same
		return nil, nil
	}
	c := s.cell
	now := s.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if lockErr == nil {
		if c.trouble != nil {
			c.trouble.unlockable = time.Time{}
		}
		return unlock, nil
	}
	b := c.troubleLocked()
	if b.unlockable.IsZero() {
		b.unlockable = now
	}
	if now.Sub(b.unlockable) < lockPatience {
		return nil, s.fail("refresh", KindTransient, lockErr)
	}
	s.log().Error("the storage's lock is out of reach; going on without it, check the storage",
		"since", b.unlockable, "error", lockErr)
	return nil, nil
}

// lose forgets a token that is no longer in the storage: somebody has
// disconnected the account, or authorized it at another provider or client.
func (s *Source) lose(reason error) *Error {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsaved = false
	c.setLocked(nil)
	return s.fail("token", KindNeedsPerson, reason)
}

// unreadable reports whether an error says that a record is there and can't be
// read, however often one tries.
func unreadable(err error) bool {
	return errors.Is(err, ErrUnknownKey) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewerFormat)
}

// unattended reports whether the account's tokens come without a person.
func (s *Source) unattended() bool { return s.client.provider.Grant.Unattended() }

// yield takes another instance's token.
func (s *Source) yield(stored *Token) *Error {
	if !stored.belongsTo(s.client.registration) {
		return s.lose(ErrOtherRegistration)
	}
	s.cell.publish(stored, true)
	if stored.usable(s.now()) && !s.cell.refusedToken(stored) {
		return nil
	}
	return s.fail("refresh", KindTransient, errors.New("another instance has refreshed meanwhile"))
}
