package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// otherIntents is what is known of another instance's record.
type otherIntents struct {
	key     string
	sum     [sha256.Size]byte
	since   time.Time // that the record is the same
	intents []intent
	settled bool
}

// abandoned returns the records of instances that have gone silent, the oldest
// first.
func (n *intents) abandoned(ctx context.Context) ([]*otherIntents, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	keys, err := n.store.storage.List(ctx, prefixIntents, false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing intents: %w", err)
	}
	now := time.Now()
	there := map[string]bool{}
	var silent []*otherIntents
	var failed error
	for _, key := range keys {
		if !isIntentKey(key) || key == n.key {
			continue
		}
		there[key] = true
		o, err := n.look(ctx, key, now)
		if err != nil {
			failed = err // the others' still count
			continue
		}
		if o != nil && now.Sub(o.since) >= intentSilence {
			silent = append(silent, o)
		}
	}
	for key := range n.others {
		if !there[key] {
			delete(n.others, key)
		}
	}
	// The oldest first: their accounts' locks are free, and those of who has just
	// died are good for a while.
	slices.SortFunc(silent, func(a, b *otherIntents) int { return a.since.Compare(b.since) })
	return silent, failed
}

// look reads another instance's record, and notes since when it is the same.
func (n *intents) look(ctx context.Context, key string, now time.Time) (*otherIntents, error) {
	sealed, err := n.store.storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("loading intents: %w", err)
	}
	sum := sha256.Sum256(sealed)
	if o := n.others[key]; o != nil && o.sum == sum {
		return o, nil
	}
	o := &otherIntents{key: key, sum: sum, since: now}
	n.others[key] = o
	ring, err := n.store.keys()
	if err != nil {
		return nil, err
	}
	var r intentRecord
	plain, err := ring.Open(key, sealed)
	if err != nil || json.Unmarshal(plain, &r) != nil || r.Version != intentVersion {
		// Another key's, or a newer version's, to whom it may mean something.
		delete(n.others, key)
		return nil, nil //nolint:nilerr // see above
	}
	o.intents = r.Intents
	// A process that has just started waits for no silence where the record tells
	// that it was long enough: a provider's grace is short. Where the clocks differ
	// and the instance lives, its locks tell.
	if age := now.Sub(r.Written); age >= intentSilence && age < intentLife {
		o.since = r.Written
	}
	return o, nil
}

// forget deletes a record that has been settled for long, unless it has changed.
func (n *intents) forget(ctx context.Context, o *otherIntents) error {
	if !o.settled || time.Since(o.since) < intentKeep {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	sealed, err := n.store.storage.Load(ctx, o.key)
	if err == nil && sha256.Sum256(sealed) == o.sum {
		err = n.store.storage.Delete(ctx, o.key)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting intents: %w", err)
	}
	return nil
}

// isIntentKey tells records from what else a storage lists.
func isIntentKey(key string) bool {
	name, ok := strings.CutPrefix(key, prefixIntents+"/")
	id, ext := strings.CutSuffix(name, ".int")
	_, err := hex.DecodeString(id)
	return ok && ext && err == nil && len(id) == 32
}
