package tokens

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// Source hands out one account's access token, from memory while it is fresh,
// and renews it when it is not. It is one configuration's view of a [Cell] and
// safe for concurrent use.
type Source struct {
	account Account
	client  *Client
	store   *Store
	cell    *Cell
	opts    SourceOptions
}

// SourceOptions are what a Source may be given besides its parts.
type SourceOptions struct {
	// Logger gets what operators should know. nil discards it.
	Logger *slog.Logger
	// Observer is told what happens.
	Observer Observer
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Observer is told what happens to tokens, for metrics and events. Each func is
// optional. They are called without locks held, one after the other for one
// account, and should return soon.
type Observer struct {
	// Refreshed follows a successful refresh.
	Refreshed func(a Account, took time.Duration)
	// RefreshFailed follows a failed one.
	RefreshFailed func(a Account, err *Error, took time.Duration)
	// NeedsAuthorization follows the end of a grant, once.
	NeedsAuthorization func(a Account, err *Error)
	// Authorized follows a sign-in.
	Authorized func(a Account)
	// Disconnected follows the deletion of a token by an operator.
	Disconnected func(a Account)
}

// NewSource returns a Source.
func NewSource(a Account, c *Client, s *Store, cell *Cell, o SourceOptions) *Source {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Logger = o.Logger.With("provider", a.Provider, "user", a.User)
	return &Source{account: a, client: c, store: s, cell: cell, opts: o}
}

// Account returns the account that the source serves.
func (s *Source) Account() Account { return s.account }

const (
	// refusalPause is the least time between two refreshes that refusals of a
	// mail server cause: a 535 has many causes, and few are the token's.
	refusalPause = 5 * time.Minute
	// failurePause is how long the first failure answers for further renewals;
	// each further failure doubles it, up to failurePauseMax.
	failurePause    = 5 * time.Second
	failurePauseMax = 15 * time.Minute
)

// ErrNotAuthorized: nobody has signed in to the account yet.
var ErrNotAuthorized = errors.New("nobody has signed in to this account yet")

// AccessToken returns an access token that is good for at least the next
// minute, or the next tenth of its life where that is shorter. The error is an
// [*Error], or the context's.
func (s *Source) AccessToken(ctx context.Context) (string, error) {
	now := s.opts.Now()
	if t := s.cell.token.Load(); t.usable(now) {
		s.cell.lastUsed.Store(now.Unix())
		return t.AccessToken.Reveal(), nil
	}
	if err := s.renew(ctx, renewal{}); err != nil {
		return "", err
	}
	t := s.cell.token.Load()
	if !t.usable(s.opts.Now()) {
		return "", s.fail("token", KindTransient, errors.New("the new access token cannot be used yet"))
	}
	s.cell.lastUsed.Store(now.Unix())
	return t.AccessToken.Reveal(), nil
}

// Reject reports that a mail server refused an access token. The token is not
// handed out again and a fresh one is fetched, though at most once in five
// minutes: more than that is no fault of the token.
func (s *Source) Reject(accessToken string) {
	now := s.opts.Now()
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.token.Load()
	if t == nil || t.AccessToken.Reveal() != accessToken {
		return // a newer one is there already
	}
	if !c.refusedAt.IsZero() && now.Sub(c.refusedAt) < refusalPause {
		return
	}
	c.refused, c.refusedAt = fingerprint(accessToken), now
	if !c.unsaved {
		c.token.Store(nil)
	}
}

// Refresh renews the token now, due or not.
func (s *Source) Refresh(ctx context.Context) error {
	generation := uint64(0)
	if t := s.cell.token.Load(); t != nil {
		generation = t.Generation
	}
	return s.renew(ctx, renewal{force: true, beyond: generation})
}

// Adopt takes over a token that a [Flow] has saved.
func (s *Source) Adopt(t *Token) {
	c := s.cell
	c.mu.Lock()
	c.token.Store(t)
	c.failure, c.notBefore, c.failures, c.unsaved = nil, time.Time{}, 0, false
	c.mu.Unlock()
	if s.opts.Observer.Authorized != nil {
		s.opts.Observer.Authorized(s.account)
	}
}

// Disconnect revokes the grant at the provider, where it has an endpoint for
// that (RFC 7009), and deletes the token. It reports whether the provider was
// told. An unreachable provider does not keep the token from being deleted.
func (s *Source) Disconnect(ctx context.Context) (revoked bool, err error) {
	ctx = context.WithoutCancel(ctx)
	unlock, err := s.store.lock(ctx, s.account)
	if err == nil {
		defer unlock()
	}
	t, err := s.store.Load(ctx, s.account)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrUnknownKey) && !errors.Is(err, ErrCorrupt) {
		return false, err
	}
	if t != nil {
		if revoked, err = s.client.revoke(ctx, t.RefreshToken.Reveal()); err != nil {
			s.opts.Logger.Warn("the provider did not take the revocation; remove the application there", "error", err)
			revoked = false
		}
	}
	if err := s.store.Delete(ctx, s.account); err != nil {
		return revoked, err
	}
	c := s.cell
	c.mu.Lock()
	c.token.Store(nil)
	c.failure, c.notBefore, c.failures, c.unsaved = nil, time.Time{}, 0, false
	c.mu.Unlock()
	if s.opts.Observer.Disconnected != nil {
		s.opts.Observer.Disconnected(s.account)
	}
	return revoked, nil
}

// due is when the token is to be renewed. The zero time means at once.
func (s *Source) due() time.Time {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.token.Load()
	due := time.Time{}
	if t != nil && !c.unsaved {
		due = t.due()
	}
	if due.Before(c.notBefore) {
		due = c.notBefore
	}
	return due
}

// renewal is what a caller wants of a renewal.
type renewal struct {
	// ahead renews a token that will be due in this time.
	ahead time.Duration
	// force renews even a fresh token, unless a generation after beyond is
	// stored already.
	force  bool
	beyond uint64
}

// renew renews the token, or joins the renewal under way. The work goes on when
// the caller leaves: cutting it short between the provider's answer and the
// storage would lose the refresh token.
func (s *Source) renew(ctx context.Context, want renewal) error {
	c := s.cell
	c.mu.Lock()
	f := c.flight
	if f == nil {
		if !want.force && c.failure != nil && s.opts.Now().Before(c.notBefore) {
			err := c.failure
			c.mu.Unlock()
			return err
		}
		f = &flight{done: make(chan struct{})}
		c.flight = f
		go s.fly(context.WithoutCancel(ctx), f, want)
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fly does the work of a flight and lands it.
func (s *Source) fly(ctx context.Context, f *flight, want renewal) {
	err := s.fail("refresh", KindTransient, errors.New("the renewal crashed"))
	defer func() {
		if r := recover(); r != nil {
			s.opts.Logger.Error("panic in a token renewal", "panic", r, "stack", string(debug.Stack()))
		}
		c := s.cell
		c.mu.Lock()
		c.flight = nil
		s.settleLocked(err)
		c.mu.Unlock()
		if err != nil { // a nil *Error must not become a non-nil error
			f.err = err
		}
		close(f.done)
	}()
	err = s.obtain(ctx, want)
}

// settleLocked notes how a renewal went and how long that holds.
func (s *Source) settleLocked(err *Error) {
	c := s.cell
	if err == nil {
		c.failure, c.notBefore, c.failures = nil, time.Time{}, 0
		return
	}
	pause := failurePause
	if err.Temporary() {
		// An answer that was lost is asked for again soon: the provider may
		// honour the old refresh token for some seconds.
		if err.Kind == KindTransient || c.failures > 0 {
			pause <<= min(c.failures, 10)
		}
		c.failures++
		pause = min(pause, failurePauseMax)
		pause -= rand.N(pause/4 + 1)
		pause = max(pause, err.RetryAfter)
	}
	c.failure, c.notBefore = err, s.opts.Now().Add(pause)
}

func (s *Source) fail(op string, kind Kind, err error) *Error {
	return &Error{Op: op, Kind: kind, Account: s.account, Err: err}
}

// publish makes a token the one to hand out.
func (s *Source) publish(t *Token, unsaved bool) {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.token.Load(); old != nil && old.newerThan(t) {
		return
	}
	c.token.Store(t)
	c.unsaved = unsaved
}

// instance sets the instances of a fleet apart.
var instance = rand.Uint64()

// stagger is how much ahead of its due time this instance renews the token: up
// to 7 % of its life. In a fleet one instance is simply first, and the others
// find its token in the storage.
func (s *Source) stagger() time.Duration {
	t := s.cell.token.Load()
	if t == nil {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", instance, s.account.hash())
	return time.Duration(float64(t.life()) * 0.07 * float64(h.Sum64()%1000) / 1000)
}

// refused reports whether a mail server refused the token's access token.
func (s *Source) refused(t *Token) bool {
	s.cell.mu.Lock()
	defer s.cell.mu.Unlock()
	return s.cell.refused == fingerprint(t.AccessToken.Reveal())
}

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
	RefreshAt  time.Time
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
	st := Status{Account: s.account, State: StateUnknown}
	t := s.cell.token.Load()
	if t == nil {
		stored, err := s.store.Load(ctx, s.account)
		if errors.Is(err, fs.ErrNotExist) {
			st.State = StateUnauthorized
			return st
		}
		if err != nil {
			st.Failure = &Failure{At: s.opts.Now().UTC(), Kind: "storage", Description: err.Error()}
			return st
		}
		t = stored
	}
	st.Identity, st.Scopes, st.Generation = t.Identity, t.Scopes, t.Generation
	st.AuthorizedAt, st.AuthorizedBy = t.AuthorizedAt, t.AuthorizedBy
	st.IssuedAt, st.Expiry, st.Failure = t.IssuedAt, t.Expiry, t.Failure
	s.cell.mu.Lock()
	if e := (*Error)(nil); errors.As(s.cell.failure, &e) && st.Failure == nil {
		st.Failure = e.failure(s.opts.Now())
	}
	s.cell.mu.Unlock()
	switch {
	case t.Revoked:
		st.State = StateUnauthorized
	case st.Failure != nil:
		st.State = StateFailing
	default:
		st.State = StateAuthorized
		st.RefreshAt = t.due()
	}
	return st
}

func (s Status) String() string { return fmt.Sprintf("%s: %s", s.Account, s.State) }
