package tokens

import (
	"errors"
	"sync"
	"time"
)

// probeEvery is how often a provider that refuses our settings is asked again.
const probeEvery = 5 * time.Minute

// errOpen: the provider has refused the client's settings a moment ago, for
// whichever account, and isn't asked for now.
var errOpen = errors.New("the provider refuses this client; it is asked again every five minutes, or at once after a change of the settings")

// circuit keeps the accounts of a client from asking a provider in vain that
// refuses the client itself. A new configuration has a new one. Its zero value
// is closed.
type circuit struct {
	mu sync.Mutex
	// open is the refusal; nil while the circuit is closed.
	open *Error
	// by is the account that was refused first.
	by Account
	// probe is when one account may ask again.
	probe time.Time
	// alone are accounts that were refused what others were not: it is about
	// them, and opens nothing.
	alone map[Account]bool
}

// aloneMost bounds how many accounts are known to be refused alone.
const aloneMost = 1000

// refusal returns what a request would be answered; nil where one may be made.
func (c *circuit) refusal(now time.Time) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil || c.dueLocked(now) {
		return nil
	}
	return c.open
}

// dueLocked reports whether the next request may be made. A clock that was set
// back must not put it off.
func (c *circuit) dueLocked(now time.Time) bool {
	left := c.probe.Sub(now)
	return left <= 0 || left > probeEvery
}

// enter is refusal for an account that will ask now if it may: of many, one
// goes to see whether the refusal still holds. Force does so in any case.
func (c *circuit) enter(now time.Time, force bool) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		return nil
	}
	if !force && !c.dueLocked(now) {
		return c.open
	}
	c.probe = now.Add(probeEvery)
	return nil
}

// learn takes note of how a request of an account went: e is nil for success.
func (c *circuit) learn(a Account, e *Error, grant Grant, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e == nil || e.Code == "invalid_grant":
		// The provider knows the client: so whoever was refused was alone.
		if c.open != nil && c.by != a && len(c.alone) < aloneMost {
			if c.alone == nil {
				c.alone = map[Account]bool{}
			}
			c.alone[c.by] = true
		}
		if e == nil {
			delete(c.alone, a)
		}
		c.open = nil
	case !refusesClient(e, grant) || c.alone[a]:
	default:
		if c.open == nil {
			c.by = a
		}
		c.open, c.probe = e, now.Add(probeEvery)
	}
}

// refusesClient reports whether a token endpoint's answer is about the client,
// and not about one account.
func refusesClient(e *Error, grant Grant) bool {
	if e.Kind != KindConfig || e.Status == 0 || e.Op == "discovery" {
		return false
	}
	if grant == GrantServiceAccount {
		// Its other errors are about the mailbox that it speaks for.
		return e.Code == "invalid_client" || e.Code == "deleted_client"
	}
	return e.Code != "invalid_grant"
}
