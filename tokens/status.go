package tokens

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// Status is what is known of an account, without secrets.
type Status struct {
	Account      Account
	State        State
	Identity     Identity
	Scopes       []string
	AuthorizedAt time.Time
	AuthorizedBy string
	IssuedAt     time.Time
	Expiry       time.Time
	// RefreshAt is when the next refresh is due.
	RefreshAt time.Time
	// LastUsed is when this process last handed the token out; zero if it
	// never did.
	LastUsed   time.Time
	Generation uint64
	// Failure is the last refresh, if it failed.
	Failure *Failure
}

// State is the state of an account.
type State string

// The states of an account.
const (
	StateAuthorized   State = "authorized"          // it works
	StateFailing      State = "failing"             // refreshes fail for a passing reason
	StateUnauthorized State = "needs_authorization" // a person must sign in
	StateUnknown      State = "unknown"             // the storage could not be read
)

// Status reads the account's state from memory and, where that has none, from
// the storage.
func (s *Source) Status(ctx context.Context) Status {
	st, t, failure := s.inMemory()
	if t == nil {
		stored, err := s.store.Load(ctx, s.account)
		if errors.Is(err, fs.ErrNotExist) && s.unattended() {
			stored, err = &Token{Account: s.account, Registration: s.client.registration}, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			st.State = StateUnauthorized
			return st
		}
		if err != nil {
			st.Failure = &Failure{At: s.now().UTC(), Kind: "storage", Description: err.Error()}
			return st
		}
		t = stored
	}
	s.describe(&st, t, failure)
	return st
}

// Known is the account's state as far as memory has it. It reads no storage, and costs
// next to nothing.
func (s *Source) Known() (Status, bool) {
	st, t, failure := s.inMemory()
	if t == nil {
		return st, false
	}
	s.describe(&st, t, failure)
	return st, true
}

// inMemory is what memory has: the token, and the last failure that is not in it.
func (s *Source) inMemory() (Status, *Token, *Failure) {
	st := Status{Account: s.account, State: StateUnknown}
	if used := s.cell.lastUsed.Load(); used != 0 {
		st.LastUsed = time.Unix(used, 0).UTC()
	}
	s.cell.mu.Lock()
	defer s.cell.mu.Unlock()
	t, trouble := s.cell.newest, s.cell.trouble
	if trouble == nil || trouble.failure == nil || trouble.failure.Kind == KindNeedsPerson {
		return st, t, nil
	}
	return st, t, trouble.failure.failure(trouble.failedAt)
}

// describe completes a status by a token.
func (s *Source) describe(st *Status, t *Token, failure *Failure) {
	if !t.belongsTo(s.client.registration) {
		st.State = StateUnauthorized
		st.Failure = s.fail("token", KindNeedsPerson, ErrOtherRegistration).failure(s.now())
		return
	}
	st.Identity, st.Scopes, st.Generation = t.Identity, t.Scopes, t.Generation
	st.AuthorizedAt, st.AuthorizedBy = t.AuthorizedAt, t.AuthorizedBy
	st.IssuedAt, st.Expiry, st.Failure = t.IssuedAt, t.Expiry, t.Failure
	if st.Failure == nil {
		st.Failure = failure
	}
	switch {
	case t.Revoked:
		st.State = StateUnauthorized
	case st.Failure != nil:
		st.State = StateFailing
	default:
		st.State = StateAuthorized
	}
	if !t.Revoked && !t.Expiry.IsZero() {
		st.RefreshAt = t.dueAhead(s.client.provider.Margin)
	}
}
