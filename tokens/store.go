package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"
)

// Storage is where records lie. certmagic.Storage satisfies it.
//
// Load, and List of a prefix that holds nothing, return an error that is
// [fs.ErrNotExist]; any other error means that it is not known what is there,
// and never that there is nothing. Lock and Unlock ask for mutual exclusion
// among all processes that share the storage; the code here stays correct when
// they do not give it. Store must be durable when it returns.
type Storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string, recursive bool) ([]string, error)
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
}

// saveTries are the waits between tries to store a token that was just issued:
// about ten seconds in all.
var saveTries = []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 5 * time.Second}

const (
	saveTimeout    = 30 * time.Second
	storageTimeout = 15 * time.Second
	lockTimeout    = 15 * time.Second
)

// Store keeps tokens in a [Storage], sealed. It is safe for concurrent use.
type Store struct {
	storage Storage
	keys    func() (*KeyRing, error)
	intents *intents

	mu sync.Mutex
	// spent holds the states used up in this process, and when, for markLife:
	// one answer that arrives twice at once must not be redeemed twice.
	spent map[string]time.Time
	// importing holds the marks of the refresh tokens that are being imported in
	// this process.
	importing map[string]bool
}

// NewStore returns a Store. It asks for the key ring when it first needs it, so
// that a configuration can be built without touching a key.
func NewStore(s Storage, keys func() (*KeyRing, error)) *Store {
	store := &Store{storage: s, keys: keys, spent: map[string]time.Time{}, importing: map[string]bool{}}
	store.intents = newIntents(store)
	return store
}

// Load reads an account's token. Without one the error is [fs.ErrNotExist].
func (s *Store) Load(ctx context.Context, a Account) (*Token, error) {
	return s.reload(ctx, a, nil)
}

// reload is Load for an account of which a token is known already: that is what is
// returned where the record is still the one that it came from or went to. Nil is
// none.
func (s *Store) reload(ctx context.Context, a Account, known *Token) (*Token, error) {
	sealed, err := s.loadSealed(ctx, a.storageKey())
	if err != nil {
		return nil, fmt.Errorf("loading token of %s: %w", a, err)
	}
	if known != nil && known.record == sha256.Sum256(sealed) {
		// Without its key no refresh may be made: there were none to seal the next.
		ring, err := s.keys()
		if err != nil {
			return nil, err
		}
		if ring.holds(sealed) {
			return known, nil
		}
	}
	return s.open(a, sealed)
}

// open opens an account's record.
func (s *Store) open(a Account, sealed []byte) (*Token, error) {
	ring, err := s.keys()
	if err != nil {
		return nil, err
	}
	plain, err := ring.Open(a.storageKey(), sealed)
	if err != nil {
		return nil, fmt.Errorf("opening token of %s: %w", a, err)
	}
	t, err := decodeToken(plain)
	if err != nil {
		return nil, fmt.Errorf("reading token of %s: %w", a, err)
	}
	if t.Account.hash() != a.hash() {
		return nil, fmt.Errorf("token of %s: %w", a, ErrCorrupt)
	}
	t.record = sha256.Sum256(sealed)
	return t, nil
}

// Save writes a token.
func (s *Store) Save(ctx context.Context, t *Token) error {
	_, err := s.save(ctx, t)
	return err
}

// save is Save, and returns the record as it was given to the storage.
func (s *Store) save(ctx context.Context, t *Token) (sealed []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	ring, err := s.keys()
	if err != nil {
		return nil, err
	}
	plain, err := encodeToken(t)
	if err != nil {
		return nil, fmt.Errorf("encoding token of %s: %w", t.Account, err)
	}
	key := t.Account.storageKey()
	if sealed, err = ring.Seal(key, plain); err != nil {
		return nil, fmt.Errorf("sealing token of %s: %w", t.Account, err)
	}
	if err := s.storage.Store(ctx, key, sealed); err != nil {
		return nil, fmt.Errorf("storing token of %s: %w", t.Account, err)
	}
	return sealed, nil
}

// SaveIssued writes a token that the provider has just issued, trying harder
// than [Store.Save] does: what was before it may be void.
func (s *Store) SaveIssued(ctx context.Context, t *Token) error {
	_, err := s.saveIssued(ctx, t)
	return err
}

func (s *Store) saveIssued(ctx context.Context, t *Token) (sealed []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	for _, wait := range saveTries {
		time.Sleep(wait)
		if sealed, err = s.save(ctx, t); err == nil || ctx.Err() != nil {
			return sealed, err
		}
	}
	return nil, err
}

// Delete removes an account's token. Deleting what is not there succeeds.
func (s *Store) Delete(ctx context.Context, a Account) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	if err := s.storage.Delete(ctx, a.storageKey()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting token of %s: %w", a, err)
	}
	return nil
}

// lock takes the account's lock in the storage. The lock narrows a race but is
// not relied on: whoever holds it must look at the storage again.
func (s *Store) lock(ctx context.Context, a Account) (unlock func(), err error) {
	// Some storages keep a lock alive no longer than the context it was taken
	// with. So the time limit ends with the taking, and the context with the lock.
	held, release := context.WithCancel(ctx)
	limit := time.AfterFunc(lockTimeout, release)
	if err := s.storage.Lock(held, a.lockName()); err != nil {
		if !limit.Stop() && ctx.Err() == nil {
			err = context.DeadlineExceeded
		}
		release()
		return nil, fmt.Errorf("locking token of %s: %w", a, err)
	}
	unlock = func() {
		defer release()
		// The caller's context may have ended; the lock must go all the same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
		defer cancel()
		_ = s.storage.Unlock(ctx, a.lockName()) // it expires by itself
	}
	if !limit.Stop() {
		unlock() // it came so late that it may be lost already
		return nil, fmt.Errorf("locking token of %s: %w", a, context.DeadlineExceeded)
	}
	return unlock, nil
}

// markLife is how long the mark of a used state is kept: longer than anything
// lives that can be used once.
const markLife = deviceLifeMax + flowLife

// errSpent: the state of a sign-in was used before.
var errSpent = errors.New("this sign-in was already completed")

// claimState marks the state of a sign-in as used. It fails with errSpent if it
// was used before, and lets pass what the storage cannot tell: the code's being
// good for one use only, at the provider, is the real guard.
func (s *Store) claimState(ctx context.Context, state string, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	key := stateKey(state)
	if !s.claimHere(key, now) {
		return errSpent
	}
	if _, err := s.storage.Load(ctx, key); err == nil {
		return errSpent
	}
	_ = s.storage.Store(ctx, key, []byte(now.UTC().Format(time.RFC3339)))
	return nil
}

// stateSpent reports whether a state was used, as far as the storage can tell.
func (s *Store) stateSpent(ctx context.Context, state string) bool {
	key := stateKey(state)
	s.mu.Lock()
	_, here := s.spent[key]
	s.mu.Unlock()
	if here {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	_, err := s.storage.Load(ctx, key)
	return err == nil
}

// claimHere does it for this process, and reports whether the state was unused.
func (s *Store) claimHere(key string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, at := range s.spent {
		if now.Sub(at) > markLife {
			delete(s.spent, k)
		}
	}
	if _, used := s.spent[key]; used {
		return false
	}
	s.spent[key] = now
	return true
}

// claimImport claims a refresh token that is about to be imported, for this
// process; ok is false where that is under way already.
func (s *Store) claimImport(mark string) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.importing[mark] {
		return nil, false
	}
	s.importing[mark] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.importing, mark)
	}, true
}

// stateKey is where the mark of a used state lies.
func stateKey(state string) string {
	sum := sha256.Sum256([]byte(state))
	return prefixStates + "/" + hex.EncodeToString(sum[:])
}

// isStateKey tells marks from what else a storage lists: folders, its own
// temporary files.
func isStateKey(key string) bool {
	name, ok := strings.CutPrefix(key, prefixStates+"/")
	_, err := hex.DecodeString(name)
	return ok && err == nil && len(name) == 2*sha256.Size
}

// SweepStates deletes marks of used states that are older than the flows they
// belong to.
func (s *Store) SweepStates(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	keys, err := s.storage.List(ctx, prefixStates, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing used states: %w", err)
	}
	var failed error
	for _, k := range keys {
		if !isStateKey(k) {
			continue
		}
		mark, err := s.storage.Load(ctx, k)
		if err != nil {
			continue
		}
		at, err := time.Parse(time.RFC3339, string(mark))
		if err == nil && now.Sub(at) < markLife {
			continue
		}
		// Another instance may sweep at the same time.
		if err := s.storage.Delete(ctx, k); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = fmt.Errorf("deleting a used state: %w", err)
		}
	}
	return failed
}
