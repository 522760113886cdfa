package tokens

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// noticeEvery is how old the last look at the storage gets while a token is
// healthy: nothing else would show that another instance has disconnected the
// account, or signed it in anew. Up to noticeJitter is added, which sets
// accounts and instances apart.
const (
	noticeEvery  = 50 * time.Second
	noticeJitter = 20 * time.Second
)

// watchedLocked returns when a look at the storage is due, in Unix nanoseconds;
// never for an account that need not be looked at.
func (s *Source) watchedLocked(now time.Time) int64 {
	c := s.cell
	if !c.noticeableLocked() {
		return never
	}
	if c.lookedAt > now.UnixNano() {
		return 0 // a clock that was set back must not keep it from looking
	}
	return c.lookedAt + int64(noticeEvery) + int64(s.early*float32(noticeJitter))
}

// noticeableLocked reports whether the storage's word on the account may be
// taken just so: there is a token that is stored and nobody works on it. A
// renewal looks for itself, and what is not stored yet must not be lost to a
// storage that is in trouble.
func (c *Cell) noticeableLocked() bool {
	return c.newest != nil && !c.unsaved && c.flight == nil
}

// notice looks at the storage once, without its lock, and takes over what
// another instance has done: it writes nothing and asks no provider. What
// happens here meanwhile is newer than the look.
func (s *Source) notice(ctx context.Context) error {
	c := s.cell
	c.mu.Lock()
	known, epoch := c.newest, c.epoch
	c.lookedAt = s.now().UnixNano()
	c.mu.Unlock()
	stored, err := s.store.reload(ctx, s.account, known)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trouble != nil && (err != nil || !known.supersedes(stored)) {
		c.trouble.behind = false
	}
	switch {
	case !c.noticeableLocked() || c.newest != known || c.epoch != epoch:
	case err != nil:
		s.log().Info("the account was disconnected at another instance")
		c.resetLocked(nil)
	case known.supersedes(stored):
		// A storage that lags behind, or that has lost a write.
		if b := c.troubleLocked(); !b.behind {
			b.behind = true
			break
		}
		s.log().Warn("the storage has lost a token, or lags behind for long; the token is stored again, check the storage")
		c.trouble.behind, c.unsaved = false, true
		c.pokeLocked()
	case !stored.supersedes(known):
	case !stored.belongsTo(s.client.registration):
		s.log().Warn("the account was authorized anew at another provider or client; is an instance's configuration old?")
		c.resetLocked(nil)
	case stored.AuthorizedAt.After(known.AuthorizedAt):
		s.log().Info("the account was authorized at another instance")
		c.resetLocked(stored)
	default:
		c.overtakenLocked(stored)
		c.setLocked(stored)
	}
	return nil
}
