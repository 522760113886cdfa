package tokens

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"math/rand/v2"
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
	opts    *SourceOptions
	// plan is that of the refresher that looks after the source; nil for none.
	// nextView links the cell's sources that have one. The cell's mu guards both.
	plan     *plan
	nextView *Source
	// early, from 0 to 1, sets the instances of a fleet apart.
	early float32
	// place, from 1, is that in the plan; zero for none. poked is set by a poke
	// that came while it had none. The plan's mu guards both.
	place int32
	poked bool
	// queued is set when the source has stood in a line for its turn, and known when
	// it was seen whether the account waits for a person. They are the refresher's.
	queued, known bool
}

// SourceOptions are what Sources may be given besides their parts. Any number
// of them may share it; it must not change any more.
type SourceOptions struct {
	// Logger gets what operators should know. nil discards it.
	Logger *slog.Logger
	// Observer is told what happens.
	Observer Observer
	// Now is the clock; nil is time.Now.
	Now func() time.Time

	// pacers are those of the token endpoints' hosts; nil is the process's.
	pacers *pacers
}

// Observer is told what happens to tokens, for metrics and events. Each func is
// optional. They are called without locks held, should return soon, and must
// not call the Source: what it is doing waits for them.
type Observer struct {
	// Refreshed follows a successful refresh.
	Refreshed func(a Account, took time.Duration)
	// Recovered follows the first successful refresh after failed ones, besides
	// Refreshed.
	Recovered func(a Account)
	// RefreshFailed follows a failed one.
	RefreshFailed func(a Account, err *Error, took time.Duration)
	// NeedsAuthorization follows the end of a grant, and each day again for
	// which nobody signs in.
	NeedsAuthorization func(a Account, err *Error)
	// Authorized follows a sign-in.
	Authorized func(a Account)
	// Disconnected follows the deletion of a token by an operator.
	Disconnected func(a Account)
}

// instance is this process's number in a fleet, drawn by lot.
var instance = rand.Uint64() //nolint:gosec // no secret

// NewSource returns a Source. Nil options are none.
func NewSource(a Account, c *Client, s *Store, cell *Cell, o *SourceOptions) *Source {
	if o == nil {
		o = &noOptions
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", instance, a.hash())
	return &Source{
		account: a, client: c, store: s, cell: cell, opts: o,
		early: float32(h.Sum64()%1000) / 1000,
	}
}

var noOptions SourceOptions

func (s *Source) now() time.Time {
	if s.opts.Now != nil {
		return s.opts.Now()
	}
	return time.Now()
}

var discard = slog.New(slog.DiscardHandler)

// log returns a logger that names the account.
func (s *Source) log() *slog.Logger {
	if s.opts.Logger == nil {
		return discard
	}
	return s.opts.Logger.With("provider", s.account.Provider, "user", s.account.User)
}

// pacer returns that of the provider's token endpoint.
func (s *Source) pacer() *pacer {
	p := s.opts.pacers
	if p == nil {
		p = &everyPacer
	}
	return p.of(&s.client.provider)
}

// Account returns the account that the source serves.
func (s *Source) Account() Account { return s.account }

// refusalPause is the least time between two refreshes that refusals of a mail
// server cause: a 535 has many causes, and few are the token's.
const refusalPause = 5 * time.Minute

// ErrNotAuthorized: nobody has signed in to the account yet.
var ErrNotAuthorized = errors.New("nobody has signed in to this account yet")

// ErrOtherRegistration: the token that is stored belongs to another
// [Provider.Registration]. It is neither used nor touched; only a sign-in or
// [Source.Disconnect] takes its place.
var ErrOtherRegistration = errors.New("the account was authorized at another provider or client; sign in again or put the setting back")

// AccessToken returns an access token that is good for at least the next
// minute, or the next tenth of its life where that is shorter. The error is an
// [*Error], or the context's.
func (s *Source) AccessToken(ctx context.Context) (string, error) {
	now := s.now()
	if t := s.cell.token.Load(); t.usable(now) {
		return s.handOut(t, now), nil
	}
	s.cell.want(1)
	defer s.cell.want(-1)
	err := s.renew(ctx, renewal{onDemand: true})
	// The cell decides: a sign-in, or another's renewal, may have come between.
	now = s.now()
	if t := s.cell.token.Load(); t.usable(now) {
		return s.handOut(t, now), nil
	}
	if err == nil {
		err = s.fail("token", KindTransient, errors.New("the new access token can't be used"))
	}
	return "", err
}

func (s *Source) handOut(t *Token, now time.Time) string {
	// Written once a second only: all senders share this line of memory.
	if used := now.Unix(); s.cell.lastUsed.Load() != used {
		if before := s.cell.lastUsed.Swap(used); used-before > int64(inUse/time.Second) {
			s.poke() // what is in use is looked after more closely
		}
	}
	return t.AccessToken.Reveal()
}

// Expiry returns when the access token that AccessToken answers with ends; zero
// where that is not known, or there is none now.
func (s *Source) Expiry() time.Time {
	if t := s.cell.token.Load(); t != nil {
		return t.Expiry
	}
	return time.Time{}
}

// Reject reports that a mail server refused an access token. The token is not
// handed out again and a fresh one is fetched, though at most once in five
// minutes: more than that is no fault of the token. Reject reports whether
// AccessToken will answer otherwise now.
func (s *Source) Reject(accessToken string) bool {
	now := s.now()
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.token.Load()
	if t == nil || t.AccessToken.Reveal() != accessToken {
		return true // a newer one is there already, or on its way
	}
	b := c.troubleLocked()
	if !b.refusedAt.IsZero() && now.Sub(b.refusedAt) < refusalPause {
		return false
	}
	b.refused, b.refusedAt = fingerprint(accessToken), now
	c.token.Store(nil)
	c.pokeLocked()
	return true
}

// Refresh renews the token now, due or not, unless another instance does so
// while this one waits for its turn. An earlier failure does not hold it back.
func (s *Source) Refresh(ctx context.Context) error {
	return s.renew(ctx, renewal{force: true})
}

// Adopt takes over a token that a [Flow] has saved.
func (s *Source) Adopt(t *Token) {
	if t.Account.hash() != s.account.hash() {
		s.log().Error("the token of another account was to be adopted", "other", t.Account.String())
		return
	}
	if !t.belongsTo(s.client.registration) {
		s.log().Error("a token of another provider or client was to be adopted")
		return
	}
	s.cell.mu.Lock()
	s.cell.resetLocked(t)
	s.cell.pokeLocked()
	s.cell.mu.Unlock()
	if f := s.opts.Observer.Authorized; f != nil {
		f(s.account)
	}
}

// Disconnect revokes the grant at the provider, where it has an endpoint for
// that (RFC 7009), and deletes the token. It reports whether the provider was
// told. An unreachable provider does not keep the token from being deleted.
// A token of another registration is deleted, and no provider told.
// The context bounds the waiting for a renewal under way only.
func (s *Source) Disconnect(ctx context.Context) (revoked bool, err error) {
	f, err := s.claim(ctx)
	if err != nil {
		return false, err
	}
	outcome := s.fail("token", KindTransient, errors.New("the account was being disconnected"))
	defer func() {
		s.land(f, outcome)
		if f := s.opts.Observer.Disconnected; f != nil && err == nil {
			f(s.account)
		}
	}()
	if revoked, err = s.disconnect(context.WithoutCancel(ctx)); err != nil {
		return revoked, err
	}
	outcome = s.fail("token", KindNeedsPerson, ErrNotAuthorized)
	return revoked, nil
}

// disconnect does the work of Disconnect. No renewal is under way in this
// process.
func (s *Source) disconnect(ctx context.Context) (revoked bool, err error) {
	unlock, err := s.store.lock(ctx, s.account)
	if err != nil {
		// The owner's wish to disconnect waits for nobody.
		s.log().Warn("disconnecting without the storage's lock", "error", err)
	} else {
		defer unlock()
	}
	stored, err := s.store.Load(ctx, s.account)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrUnknownKey) && !errors.Is(err, ErrCorrupt) {
		return false, err
	}
	s.cell.mu.Lock()
	t := s.cell.newest
	s.cell.mu.Unlock()
	if t == nil || stored != nil && stored.supersedes(t) {
		t = stored
	}
	if t != nil && t.belongsTo(s.client.registration) {
		if revoked, err = s.client.revoke(ctx, t.RefreshToken.Reveal()); err != nil {
			s.log().Warn("the provider did not take the revocation; remove the application there", "error", err)
			revoked = false
		}
	}
	if err := s.store.Delete(ctx, s.account); err != nil {
		return revoked, err
	}
	s.cell.mu.Lock()
	s.cell.resetLocked(nil)
	s.cell.mu.Unlock()
	return revoked, nil
}

// poke has the refreshers look at the account anew.
func (s *Source) poke() {
	s.cell.mu.Lock()
	defer s.cell.mu.Unlock()
	s.cell.pokeLocked()
}

func (s *Source) fail(op string, kind Kind, err error) *Error {
	return &Error{Op: op, Kind: kind, Account: s.account, Err: err}
}
