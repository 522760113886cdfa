package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// What was made at run time lies in the storage in shards: few records, however many
// entries, and none too large for any storage. The head says which shards there are and
// how new they are, so that all instances see with one small look whether anything has
// changed. A shard is stored before the head tells of it.
const (
	prefixSettings = "oauth_mail/settings"
	headKey        = prefixSettings + "/head.set"
	// settingsLock is what whoever changes something holds. File storages fold its
	// case, so it has none.
	settingsLock = "oauth_mail_settings"
	// settingsFormat is the version of the records.
	settingsFormat = 1
	// settingsTimeout bounds one look at the storage or one change.
	settingsTimeout = 15 * time.Second
	// shardHands is how many shards are read at a time.
	shardHands = 16
)

// settingsStore keeps entries, sealed. It is safe for concurrent use.
type settingsStore struct {
	storage tokens.Storage
	keys    func() (*tokens.KeyRing, error)
}

// load reads a sealed record. Nothing is read into v where there is none.
func (s *settingsStore) load(ctx context.Context, key string, v any) error {
	sealed, err := s.storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("loading settings: %w", err)
	}
	ring, err := s.keys()
	if err != nil {
		return err
	}
	plain, err := ring.Open(key, sealed)
	if err != nil {
		return fmt.Errorf("opening settings: %w", err)
	}
	var version struct{ Format int }
	if err := json.Unmarshal(plain, &version); err != nil {
		return fmt.Errorf("reading settings: %w", tokens.ErrCorrupt)
	}
	if version.Format > settingsFormat {
		return fmt.Errorf("reading settings: %w", tokens.ErrNewerFormat)
	}
	if err := json.Unmarshal(plain, v); err != nil {
		return fmt.Errorf("reading settings: %w", tokens.ErrCorrupt)
	}
	return nil
}

func (s *settingsStore) save(ctx context.Context, key string, v any) error {
	ring, err := s.keys()
	if err != nil {
		return err
	}
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sealed, err := ring.Seal(key, plain)
	if err != nil {
		return err
	}
	if err := s.storage.Store(ctx, key, sealed); err != nil {
		return fmt.Errorf("storing settings: %w", err)
	}
	return nil
}

// hasRecords reports whether anything was ever stored.
func (s *settingsStore) hasRecords(ctx context.Context) (bool, error) {
	_, err := s.storage.Load(ctx, headKey)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// lock keeps all others from changing anything until unlock is called.
func (s *settingsStore) lock(ctx context.Context) (unlock func(), err error) {
	if err := s.storage.Lock(ctx, settingsLock); err != nil {
		return nil, fmt.Errorf("locking settings: %w", err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settingsTimeout)
		defer cancel()
		_ = s.storage.Unlock(ctx, settingsLock) // it expires by itself
	}, nil
}

// readShards reads shards, some at a time.
func (s *settingsStore) readShards(ctx context.Context, ids []shardID) ([]settingsShard, []error) {
	read, errs := make([]settingsShard, len(ids)), make([]error, len(ids))
	slots := make(chan struct{}, shardHands)
	var wg sync.WaitGroup
	for i, id := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = s.load(ctx, id.key(), &read[i])
		})
	}
	wg.Wait()
	return read, errs
}

// reseal seals the records anew that were sealed with another key than the first one, and
// counts them by their keys.
func (v *savedSettings) reseal(ctx context.Context, s *settingsStore) (map[tokens.KeyID]int, error) {
	ctx, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	v.mu.Lock()
	defer v.mu.Unlock()
	ring, err := s.keys()
	if err != nil {
		return nil, err
	}
	var head settingsHead
	if err := s.load(ctx, headKey, &head); err != nil || head.Generation == 0 {
		return nil, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	keys := []string{headKey}
	for id := range head.Shards {
		keys = append(keys, id.key())
	}
	counts := make(map[tokens.KeyID]int)
	var failed error
	for _, key := range keys {
		id, err := s.resealOne(ctx, ring, key)
		if err != nil {
			failed = err
		}
		if id != (tokens.KeyID{}) {
			counts[id]++
		}
	}
	return counts, failed
}

// resealOne does it for one record, and returns the key that it is under afterwards.
func (s *settingsStore) resealOne(ctx context.Context, ring *tokens.KeyRing, key string) (id tokens.KeyID, err error) {
	sealed, err := s.storage.Load(ctx, key)
	if err != nil {
		return id, fmt.Errorf("loading settings: %w", err)
	}
	if id, err = tokens.SealedBy(sealed); err != nil || id == ring.IDs()[0] {
		return id, err
	}
	plain, err := ring.Open(key, sealed)
	if err != nil {
		return id, fmt.Errorf("opening settings: %w", err)
	}
	if sealed, err = ring.Seal(key, plain); err != nil {
		return id, err
	}
	if err := s.storage.Store(ctx, key, sealed); err != nil {
		return id, fmt.Errorf("storing settings: %w", err)
	}
	return ring.IDs()[0], nil
}
