package tokens

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
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

// refused is an account's share in a refusal of the client.
func (s *Source) refused(e *Error) *Error {
	copied := *e
	copied.Account, copied.Err = s.account, errOpen
	return &copied
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

// The [Error.Op] of what keeps a token from being read or stored, and of a
// refresh that could not be noted beforehand.
const (
	opLook = "token"
	opKeep = "storing token"
	opNote = "noting a refresh"
)

// look returns the newest token known and whether it is stored, or an error
// where no refresh can be tried with it.
func (s *Source) look(ctx context.Context) (t *Token, saved bool, failure *Error) {
	s.cell.looked(s.now())
	stored, err := s.store.Load(ctx, s.account)
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

// unattended reports whether the account's tokens come without a person.
func (s *Source) unattended() bool { return s.client.provider.Grant.Unattended() }

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
	next := *t
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
	stored, loadErr := s.store.Load(ctx, s.account)
	missing := errors.Is(loadErr, fs.ErrNotExist) && saved && !s.unattended()
	if missing { // once is not enough to end a grant on
		time.Sleep(rivalWait)
		stored, loadErr = s.store.Load(ctx, s.account)
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

// cuttable reports whether a refresh that is cut short may cost the grant.
func (s *Source) cuttable() bool {
	return s.client.provider.Rotation != RotationNone && !s.unattended()
}

// announceTries are the waits between tries to note a refresh. After them it is
// put off while the old token lasts, and then made without.
var announceTries = []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond}

// announce notes durably that a refresh token is about to be presented.
func (s *Source) announce(t *Token) (err error) {
	for _, wait := range announceTries {
		time.Sleep(wait)
		if err = s.store.intents.present(s.intent(t)); err == nil {
			return nil
		}
	}
	s.log().Warn("a refresh could not be noted beforehand; it is put off while the old token lasts, but if two instances make it then, or one ends in it, a person may have to sign in again; check the storage",
		"error", err)
	return err
}

func (s *Source) intent(t *Token) intent {
	return intent{Account: s.account, Generation: t.Generation, At: s.now().UTC()}
}

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
	if stored, err := s.store.Load(ctx, s.account); err != nil || stored.supersedes(t) {
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

// refreshFailed keeps what a failed refresh has shown.
func (s *Source) refreshFailed(ctx context.Context, t *Token, saved bool, e *Error, took time.Duration) *Error {
	stored, err := s.store.Load(ctx, s.account)
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
	next := *t
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

// save stores a token that was just issued. A write that is lost without a word
// would cost the grant, so it is read back.
func (s *Source) save(ctx context.Context, t *Token) error {
	if err := s.store.SaveIssued(ctx, t); err != nil {
		return err
	}
	if stored, err := s.store.Load(ctx, s.account); err == nil && t.supersedes(stored) {
		s.log().Warn("the storage lags behind or has lost a new token; it is stored again, check the storage")
		return s.store.Save(ctx, t)
	}
	return nil
}
