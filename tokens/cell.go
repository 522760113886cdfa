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
	// unsaved is set while newest is not stored.
	unsaved bool
	// issued counts the tokens that the provider has issued through this cell.
	issued int
	// epoch counts sign-ins: how a renewal went that began before one says
	// nothing of what came after.
	epoch int
	// flight is the work under way; nil for none.
	flight *flight
	// failure is the last renewal's error, failedAt its time, and failedBy the
	// client that was used. Until notBefore it answers for further ones.
	failure   *Error
	failedAt  time.Time
	failedBy  *Client
	notBefore time.Time
	// failures counts renewals in a row that failed for a passing reason.
	failures int
	// lookedAt is when the storage was last looked at.
	lookedAt time.Time
	// refused is the fingerprint of an access token that a mail server refused,
	// and refusedAt when one was last acted upon.
	refused   [sha256.Size]byte
	refusedAt time.Time
	// unlockable is since when the storage's lock can't be had; zero while it
	// can.
	unlockable time.Time
}

// flight is work on a token that any number of callers wait for.
type flight struct {
	done   chan struct{} // closed when err is set
	err    error
	forced bool
	epoch  int
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
		c.refused = [sha256.Size]byte{}
	}
	c.mu.Unlock()
	c.publish(t, saved)
}

// setLocked makes a token the newest, whatever is known.
func (c *Cell) setLocked(t *Token) {
	c.newest = t
	if t != nil && c.refusedLocked(t) {
		t = nil
	}
	c.token.Store(t)
}

// resetLocked forgets what led to the present token. Nil is no token.
func (c *Cell) resetLocked(t *Token) {
	c.epoch++
	c.unsaved = false
	c.settledLocked()
	c.refused, c.refusedAt = [sha256.Size]byte{}, time.Time{}
	c.setLocked(t)
}

// settledLocked forgets failures.
func (c *Cell) settledLocked() {
	c.failure, c.failedBy, c.failures = nil, nil, 0
	c.failedAt, c.notBefore = time.Time{}, time.Time{}
}

// latest returns the newer one of a stored token and the one in memory: that
// one may not be stored yet, and some storages answer for a while with what
// they held before. An old refresh token must not be presented again. Saved
// reports whether the token that is returned is stored.
func (c *Cell) latest(stored *Token) (t *Token, saved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest != nil && c.newest.newerThan(stored) {
		return c.newest, !c.unsaved
	}
	c.unsaved = false // what was to be saved was overtaken
	return stored, true
}

// looked notes a look at the storage.
func (c *Cell) looked(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookedAt = now
}

// refusedToken reports whether a mail server refused the token's access token.
func (c *Cell) refusedToken(t *Token) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusedLocked(t)
}

func (c *Cell) refusedLocked(t *Token) bool {
	return c.refused == fingerprint(t.AccessToken.Reveal())
}
