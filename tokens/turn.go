package tokens

import "time"

const (
	// unusedAfter is how long after its last use a token is no longer kept fresh,
	// where the policy says so.
	unusedAfter = 24 * time.Hour
	// keepAlive is how often the refresh token of an unused account is used all
	// the same, so that it does not lapse; up to a day earlier, which sets
	// accounts apart. Providers that let them lapse do so after 30 days or more.
	keepAlive       = 7 * 24 * time.Hour
	keepAliveJitter = 24 * time.Hour
	// inUse is how long after its last use an account counts as being in use.
	inUse = time.Hour
	// remindEvery is how often it is told anew that a grant has ended.
	remindEvery = 24 * time.Hour
)

// Policy says which tokens are kept fresh without anybody asking for them.
// Those that are not are renewed at their next use, and once a week so that
// their refresh tokens do not lapse.
type Policy string

// The policies.
const (
	// PolicyAuto is PolicyAlways for up to 1,000 accounts, and PolicyOnUse for
	// more. So is the empty policy.
	PolicyAuto Policy = "auto"
	// PolicyAlways keeps all tokens fresh.
	PolicyAlways Policy = "always"
	// PolicyOnUse keeps those fresh that were used in the last 24 hours.
	PolicyOnUse Policy = "on_use"
)

// upkeep is a policy as it applies to a number of accounts.
type upkeep struct {
	// always keeps unused tokens fresh, too, of grants that need no person even:
	// those have nothing that could lapse.
	always bool
	onUse  bool
	// many: records that are not in use are dropped from memory, and not watched
	// for what other instances do.
	many  bool
	began time.Time
}

func (p Policy) of(accounts int, now time.Time) upkeep {
	many := accounts > manyAccounts
	return upkeep{
		always: p == PolicyAlways,
		onUse:  p == PolicyOnUse || p != PolicyAlways && many,
		many:   many,
		began:  now,
	}
}

// errand is what a turn is for.
type errand int

const (
	errandRenew errand = iota // the token is due
	errandLearn               // what is stored is not known yet
	errandWait                // somebody must do something: has he?
	errandRetry               // the last renewal failed
	errandWatch               // what have other instances done?
	errands
)

// busyPause is when a source is looked at again that others work on. They poke
// it when they are done.
const busyPause = time.Minute

// turn returns when the source is to be looked at, in Unix nanoseconds, what
// for, and how far ahead of the time that its token is due that is: up to 7 % of
// its life. In a fleet one instance is simply first, and the others find its
// token in the storage. Zero means at once. A record that nobody needs in memory
// is dropped.
func (s *Source) turn(now time.Time, k *upkeep) (at int64, what errand, ahead time.Duration) {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != nil {
		return now.Add(busyPause).UnixNano(), errandRenew, 0
	}
	t := c.newest
	healthy := s.healthyLocked(now)
	switch {
	case healthy:
		at, ahead = s.dueLocked(now, k)
	case t == nil && c.rest != 0 && k.many:
		at = c.rest
	case t == nil:
		what = errandLearn
	}
	// A dead grant is looked at, too: somebody may sign in at another instance.
	if b := c.trouble; b != nil && b.failure != nil {
		what = errandWait
		if b.failure.Temporary() {
			what = errandRetry
		}
		if s.pausedLocked(now) {
			// By the clock that no jump moves.
			at = max(at, now.UnixNano()+int64(b.notBefore.Sub(now)))
		}
		if k.many && t != nil && t.Revoked && !c.unsaved && b.deadStored {
			c.dropLocked(0)
		}
	}
	if !healthy {
		return at, what, ahead
	}
	used := c.lastUsed.Load() * int64(time.Second)
	inUseUntil := used + int64(inUse)
	if watch := s.watchedLocked(now); (!k.many || now.UnixNano() < inUseUntil) && watch < at {
		at, what = watch, errandWatch
	}
	if k.many && at > now.UnixNano() {
		if now.UnixNano() < inUseUntil {
			return min(at, inUseUntil), what, ahead
		}
		if c.wanted == 0 {
			c.dropLocked(at)
		}
	}
	return at, what, ahead
}

// healthyLocked reports whether there is a token that is stored and may be
// handed out, as far as is known.
func (s *Source) healthyLocked(now time.Time) bool {
	c := s.cell
	return c.newest != nil && c.token.Load() != nil && !c.unsaved && !c.newest.Revoked && !c.newest.fromFuture(now)
}

// dueLocked returns when the token is to be renewed.
func (s *Source) dueLocked(now time.Time, k *upkeep) (at int64, ahead time.Duration) {
	t := s.cell.newest
	used := now.Unix()-s.cell.lastUsed.Load() < int64(unusedAfter/time.Second)
	switch unattended := s.unattended(); {
	case k.always, used, !unattended && !k.onUse:
	case unattended && !k.onUse && now.Sub(k.began) < unusedAfter: // who knows
	case unattended:
		return never, 0
	default:
		at := t.IssuedAt.Add(keepAlive - time.Duration(s.early*float32(keepAliveJitter)))
		// An access token that lives on for long must not pass for fresh then.
		return at.UnixNano(), max(t.Expiry.Sub(at), 0)
	}
	if t.IssuedAt.IsZero() {
		return 0, 0
	}
	ahead = time.Duration(float32(t.life()) * 0.07 * s.early)
	return t.dueAhead(s.client.provider.Margin).Add(-ahead).UnixNano(), ahead
}

// remind tells anew, once a day, that a grant has ended.
func (s *Source) remind(e *Error) {
	now := s.now()
	c := s.cell
	c.mu.Lock()
	tell := false
	if t, b := c.newest, c.trouble; t != nil && t.Revoked && t.Failure != nil && b != nil {
		if b.toldAt.IsZero() || b.toldAt.After(now) {
			// Counted from its end, so that a restart does not tell it again.
			b.toldAt = t.Failure.At.Add(max(now.Sub(t.Failure.At), 0).Truncate(remindEvery))
		}
		if tell = now.Sub(b.toldAt) >= remindEvery; tell {
			b.toldAt = b.toldAt.Add(now.Sub(b.toldAt).Truncate(remindEvery))
		}
	}
	c.mu.Unlock()
	if !tell {
		return
	}
	s.log().Error("the account still needs authorization: a person must sign in again", "code", e.Code, "description", e.Description)
	if f := s.opts.Observer.NeedsAuthorization; f != nil {
		f(s.account, e)
	}
}
