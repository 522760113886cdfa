package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

const (
	// rewrapRest is the least pause between two records; a slow storage gets
	// rewrapShare times the time that it took for the last, up to rewrapRestMost.
	// So a pass never is more than a small part of what a storage has to do.
	rewrapRest     = 5 * time.Millisecond
	rewrapRestMost = 2 * time.Second
	rewrapShare    = 4
	// A record is left alone from rewrapBefore until rewrapAfter its renewal is
	// due: the renewal seals it anew by itself.
	rewrapBefore = 10 * time.Minute
	rewrapAfter  = time.Hour
)

// Rewrapper seals records anew that were sealed with another key than the
// ring's first. Each renewal does so by itself; this is for the accounts that
// are not renewed, so that an old key can be dropped.
//
// It must not put an old record in the place of a newer one. So it reads the
// record again under the account's lock, right before it writes, and leaves it
// where it has changed. Storages have no compare-and-swap: with a lock that does
// not hold there remain the moments between that look and the write. They are
// made harmless as far as can be: a record is left alone around the time of its
// renewal, and where this process knows a newer token than the storage shows; and
// this process does not work on the account meanwhile. Should it happen all the same, the
// instance that had stored the newer token goes on with it from memory.
type Rewrapper struct {
	Store *Store
	// Sources are the accounts that this process works on.
	Sources []*Source
}

// KeyUse tells what the stored records are sealed with, as a pass left them.
type KeyUse struct {
	// Began and Ended are the times of the pass.
	Began, Ended time.Time
	// Records counts the records by key. The ring's keys are always there; others
	// are keys that the ring lacks.
	Records map[KeyID]int
	// Rewrapped counts the records that the pass sealed anew.
	Rewrapped int
	// Left counts records that it left under an older key of the ring: a renewal
	// was near, somebody else changed them, or their lock could not be had.
	Left int
	// Damaged counts what lies in the place of a record and is none, and records
	// that do not open though their key is there.
	Damaged int
	// Newer counts records that a newer version of this software wrote.
	Newer int
	// Failures counts records and folders that the storage did not show.
	Failures int
}

// Unneeded reports whether no record needs a key for certain. Sign-ins that
// were begun under it may still be under way, for ten minutes.
func (u *KeyUse) Unneeded(id KeyID) bool {
	return u.Records[id] == 0 && u.Newer == 0 && u.Failures == 0
}

// Run makes one pass over all records. The error says what failed first, as far
// as anything did, or is the context's; the other records were looked at all
// the same. The result is nil where there is no key.
func (r *Rewrapper) Run(ctx context.Context) (*KeyUse, error) {
	ring, err := r.Store.keys()
	if err != nil {
		return nil, err
	}
	p := &rewrapPass{Store: r.Store, ring: ring, sources: map[string]*Source{}, use: &KeyUse{Began: time.Now(), Records: map[KeyID]int{}}}
	for _, s := range r.Sources {
		p.sources[s.account.hash()] = s
	}
	for _, id := range ring.IDs() {
		p.use.Records[id] = 0
	}
	var first error
	failed := func(err error) {
		p.use.Failures++
		if first == nil {
			first = err
		}
	}
	for key, err := range r.Store.records(ctx) {
		began := time.Now()
		if err == nil {
			err = p.record(ctx, key)
		}
		if err != nil {
			failed(err)
		}
		rest(ctx, time.Since(began))
		if ctx.Err() != nil {
			return p.use, ctx.Err()
		}
	}
	p.use.Ended = time.Now()
	return p.use, first
}

// rest pauses after work that took a while.
func rest(ctx context.Context, took time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(min(max(rewrapRest, rewrapShare*took), rewrapRestMost)):
	}
}

// rewrapPass is a pass under way.
type rewrapPass struct {
	*Store
	ring    *KeyRing
	sources map[string]*Source // by the account's hash
	use     *KeyUse
}

// record looks at one record, seals it anew where that is to be done, and
// counts it.
func (p *rewrapPass) record(ctx context.Context, key string) error {
	sealed, err := p.loadSealed(ctx, key)
	switch {
	case errors.Is(err, fs.ErrNotExist): // deleted since it was listed
		return nil
	case err != nil:
		return fmt.Errorf("looking at a token record: %w", err)
	case p.old(sealed):
		if sealed, err = p.reseal(ctx, key, sealed); err != nil {
			err = fmt.Errorf("sealing a token record anew: %w", err)
		}
	}
	return p.count(sealed, err)
}

// count counts a record as it lies there now, nil for one that is gone. It
// returns the error that sealing it anew ended with, if that is the storage's.
func (p *rewrapPass) count(sealed []byte, err error) error {
	if sealed == nil {
		return nil
	}
	id, headerErr := sealedBy(sealed)
	switch {
	case errors.Is(err, ErrCorrupt), errors.Is(headerErr, ErrCorrupt):
		p.use.Damaged++
		return nil
	case headerErr != nil:
		p.use.Newer++
		return nil
	}
	p.use.Records[id]++
	if p.old(sealed) {
		p.use.Left++
	}
	if errors.Is(err, ErrNewerFormat) { // the seal is not, but what it holds
		p.use.Newer++
		return nil
	}
	return err
}

// old reports whether a record was sealed with a key of the ring that is not
// its first.
func (p *rewrapPass) old(sealed []byte) bool {
	id, err := sealedBy(sealed)
	if err != nil {
		return false
	}
	for _, k := range p.ring.keys[1:] {
		if k.id == id {
			return true
		}
	}
	return false
}

// reseal seals a record anew, unless it is to be left alone. It returns the
// record as it lies there afterwards, also with an error; nil is none.
func (p *rewrapPass) reseal(ctx context.Context, key string, sealed []byte) ([]byte, error) {
	plain, err := p.ring.Open(key, sealed)
	if err != nil {
		return sealed, err
	}
	t, err := decodeToken(plain)
	if err != nil {
		return sealed, err
	}
	if t.Account.storageKey() != key {
		return sealed, ErrCorrupt
	}
	if !p.quiet(t) {
		return sealed, nil
	}
	// Some locks exclude nobody in the same process.
	if s := p.sources[t.Account.hash()]; s != nil {
		f, err := s.claim(ctx)
		if err != nil {
			return sealed, err
		}
		defer s.land(f, errAsk)
	}
	fresh, err := p.ring.Seal(key, plain)
	if err != nil {
		return sealed, err
	}
	unlock, err := p.lock(ctx, t.Account)
	if err != nil {
		return sealed, err
	}
	defer unlock()
	present, err := p.loadSealed(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return sealed, err
	}
	if !bytes.Equal(present, sealed) || !p.quiet(t) {
		return present, nil // whoever changed it has sealed it with his first key
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
	defer cancel()
	if err := p.storage.Store(ctx, key, fresh); err != nil {
		return sealed, err
	}
	p.use.Rewrapped++
	return fresh, nil
}

// quiet reports whether nobody is likely to write a token's record just now,
// and this process knows no newer one.
func (p *rewrapPass) quiet(t *Token) bool {
	if since := time.Since(t.due()); !t.Revoked && since > -rewrapBefore && since < rewrapAfter {
		return false
	}
	s := p.sources[t.Account.hash()]
	return s == nil || s.cell.holdsNothingNewer(t)
}

// holdsNothingNewer reports whether a stored token is the newest one known.
func (c *Cell) holdsNothingNewer(stored *Token) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.unsaved && (c.newest == nil || !c.newest.newerThan(stored))
}
