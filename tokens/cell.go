package tokens

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// Cell is what is known of one account in memory. It has no goroutine and no
// handle of its own, so that it can be carried from one configuration to the
// next and serve both for a moment: their [Source]s refresh through it, one at
// a time. Those must agree in the account, in [Provider.Registration] and in the
// storage. Its zero value is ready.
type Cell struct {
	// token is the token to hand out; nil where there is none, or a mail server
	// refused it. It is all that a send looks at.
	token atomic.Pointer[Token]
	// lastUsed is when a token was last handed out, in Unix seconds.
	lastUsed atomic.Int64

	// mu guards the fields below.
	mu sync.Mutex
	// newest is the newest token known, refused or not: the one whose refresh
	// token counts.
	newest *Token
	// flight is the work under way; nil for none.
	flight *flight
	// trouble is what does not go well; nil for nothing.
	trouble *trouble
	// views are the sources that refreshers look after, linked by
	// [Source.nextView].
	views *Source
	// lookedAt is when the storage was last looked at, in Unix nanoseconds; zero
	// for never.
	lookedAt int64
	// rest is when a token is due that was dropped from memory, in Unix
	// nanoseconds; zero where none was.
	rest int64
	// issued counts the tokens that the provider has issued through this cell.
	issued uint32
	// epoch counts sign-ins: how a renewal went that began before one says
	// nothing of what came after.
	epoch uint32
	// wanted counts those who wait for a token. It is not dropped before them.
	wanted int32
	// unsaved is set while newest is not stored.
	unsaved bool
}

// trouble is what few accounts have.
type trouble struct {
	// failure is the last renewal's error, failedAt its time, and failedBy the
	// client that was used. Until notBefore it answers for further ones.
	failure   *Error
	failedAt  time.Time
	failedBy  *Client
	notBefore time.Time
	// failures counts renewals in a row that failed for a passing reason.
	failures int
	// toldAt is when somebody was last told, or would have been, that a grant has
	// ended.
	toldAt time.Time
	// deadStored is set where the storage, too, knows that the grant has ended.
	deadStored bool
	// refused is the fingerprint of an access token that a mail server refused,
	// and refusedAt when one was last acted upon.
	refused   [sha256.Size]byte
	refusedAt time.Time
	// unlockable is since when the storage's lock can't be had; zero while it
	// can.
	unlockable time.Time
	// behind is set when the last look found an older token than the one that was
	// stored.
	behind bool
}

// flight is work on a token that any number of callers wait for.
type flight struct {
	done   chan struct{} // closed when err is set
	err    error
	forced bool
	epoch  uint32
}

// pokeLocked has every refresher look at the account anew.
func (c *Cell) pokeLocked() {
	for v := c.views; v != nil; v = v.nextView {
		v.plan.poke(v)
	}
}

// troubleLocked returns the trouble to write to.
func (c *Cell) troubleLocked() *trouble {
	if c.trouble == nil {
		c.trouble = &trouble{}
	}
	return c.trouble
}

// publish makes a token the one to hand out, unless a newer one is known. Saved
// says whether it is stored.
func (c *Cell) publish(t *Token, saved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest != nil && c.newest.newerThan(t) {
		return
	}
	c.unsaved = !saved
	c.setLocked(t)
}

// issue publishes a token that the provider has just issued. Some issue the
// same access token again while it lasts; if a mail server had refused it, it
// is all there is.
func (c *Cell) issue(t *Token, saved bool) {
	c.mu.Lock()
	c.issued++
	if c.refusedLocked(t) {
		c.trouble.refused = [sha256.Size]byte{}
	}
	c.mu.Unlock()
	c.publish(t, saved)
}

// setLocked makes a token the newest, whatever is known.
func (c *Cell) setLocked(t *Token) {
	c.newest, c.rest = t, 0
	if t != nil && c.refusedLocked(t) {
		t = nil
	}
	c.token.Store(t)
}

// resetLocked forgets what led to the present token. Nil is no token.
func (c *Cell) resetLocked(t *Token) {
	c.epoch++
	c.unsaved = false
	if b := c.trouble; b != nil {
		c.trouble = nil
		if !b.unlockable.IsZero() { // that is the storage's
			c.trouble = &trouble{unlockable: b.unlockable}
		}
	}
	c.setLocked(t)
}

// settledLocked forgets failures.
func (c *Cell) settledLocked() {
	b := c.trouble
	switch {
	case b == nil:
	case b.refusedAt.IsZero() && b.unlockable.IsZero():
		c.trouble = nil
	default:
		c.trouble = &trouble{refused: b.refused, refusedAt: b.refusedAt, unlockable: b.unlockable}
	}
}

// want notes that somebody waits for a token, or, with -1, that he no longer does.
func (c *Cell) want(n int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted += n
}

// dropLocked keeps of a token that is stored only when it is due.
func (c *Cell) dropLocked(due int64) {
	c.newest, c.rest = nil, due
	c.token.Store(nil)
	if c.trouble != nil {
		c.trouble.unlockable = time.Time{} // whoever overtakes it will not be known
	}
}

// latest returns the newer one of a stored token and the one in memory: that
// one may not be stored yet, and some storages answer for a while with what
// they held before. An old refresh token must not be presented again. Saved
// reports whether the token that is returned is stored: if the storage shows an
// older one it may have lost a write, and one too many does no harm.
func (c *Cell) latest(stored *Token) (t *Token, saved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest == nil || !c.newest.newerThan(stored) {
		c.overtakenLocked(stored)
		c.unsaved = false // what was to be saved was overtaken
		return stored, true
	}
	// What stands in for a record that is missing was never issued.
	if c.newest.supersedes(stored) && !stored.IssuedAt.IsZero() {
		c.unsaved = true // whatever the storage had said of it
	}
	return c.newest, !c.unsaved
}

// overtakenLocked notes that another instance has issued a token: it has got the
// storage's lock, which is not broken then.
func (c *Cell) overtakenLocked(stored *Token) {
	if c.trouble != nil && c.newest != nil && stored.supersedes(c.newest) {
		c.trouble.unlockable = time.Time{}
	}
}

// onlyCopy returns a token that is not stored; nil where there is none.
func (c *Cell) onlyCopy() *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.unsaved || c.newest == nil || c.newest.Revoked {
		return nil
	}
	return c.newest
}

// looked notes a look at the storage, and returns what is known before it.
func (c *Cell) looked(now time.Time) *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookedAt = now.UnixNano()
	return c.newest
}

// failing reports whether the last renewal failed for a reason that is no
// person's.
func (c *Cell) failing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trouble != nil && c.trouble.failure != nil && c.trouble.failure.Kind != KindNeedsPerson
}

// deadStored notes that the storage, too, knows that the grant has ended.
func (c *Cell) deadStored() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.troubleLocked().deadStored = true
}

// refusedToken reports whether a mail server refused the token's access token.
func (c *Cell) refusedToken(t *Token) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusedLocked(t)
}

func (c *Cell) refusedLocked(t *Token) bool {
	b := c.trouble
	return b != nil && !b.refusedAt.IsZero() && b.refused == fingerprint(t.AccessToken.Reveal())
}
