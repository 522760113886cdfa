package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
	"unique"

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

// settingsHead says which shards there are.
type settingsHead struct {
	Format int `json:"format"`
	// Generation grows with each change.
	Generation uint64 `json:"generation"`
	// Shards are the generations that shards were last changed in.
	Shards map[shardID]uint64 `json:"shards"`
}

// shardID numbers a shard, from 0 to 255.
type shardID byte

func (id shardID) key() string { return fmt.Sprintf("%s/%02x.set", prefixSettings, byte(id)) }

// shard is where an entry lies. The name of the shard tells nothing of it.
func (r entryRef) shard() shardID {
	h := sha256.New()
	for _, part := range []string{string(r.kind), r.name} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return shardID(h.Sum(nil)[0])
}

// settingsShard is a part of the entries.
type settingsShard struct {
	Format     int           `json:"format"`
	Generation uint64        `json:"generation"`
	Entries    []entryRecord `json:"entries"`
}

// entryRecord is an entry as it is stored.
type entryRecord struct {
	Kind     entryKind       `json:"kind"`
	Name     string          `json:"name"`
	Revision uint64          `json:"revision"`
	Changed  int64           `json:"changed"`
	By       string          `json:"by"`
	Settings json.RawMessage `json:"settings"`
	Secrets  []entrySecret   `json:"secrets,omitempty"`
}

func (r entryRecord) entry() *entry {
	// There may be very many entries: what they have in common is kept once.
	r.Kind, r.By = entryKind(intern(string(r.Kind))), intern(r.By)
	for i := range r.Secrets {
		r.Secrets[i].Place = intern(r.Secrets[i].Place)
	}
	return &entry{
		entryRef: entryRef{r.Kind, r.Name}, revision: r.Revision, changed: r.Changed, by: r.By,
		settings: slices.Clone(r.Settings), secrets: r.Secrets,
	}
}

func (e *entry) record() entryRecord {
	return entryRecord{
		Kind: e.kind, Name: e.name, Revision: e.revision, Changed: e.changed, By: e.by, Settings: e.settings, Secrets: e.secrets,
	}
}

// intern returns the one copy of a text.
func intern(s string) string { return unique.Make(s).Value() }

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

// savedSettings is what the storage holds, as far as this process knows. It outlives
// configurations, so that a reload has it at once.
type savedSettings struct {
	mu sync.Mutex
	// known: they were read at least once.
	known      bool
	generation uint64
	shards     map[shardID]loadedShard
	// all are the entries of all shards. The map is never changed.
	all map[entryRef]*entry
}

type loadedShard struct {
	generation uint64
	entries    []*entry
}

// Destruct does nothing: there is memory only.
func (*savedSettings) Destruct() error { return nil }

// entries returns what is known; ok is false where the storage was never read.
func (v *savedSettings) entries() (all map[entryRef]*entry, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.all, v.known
}

// refresh reads what has changed. What cannot be read stays as it was.
func (v *savedSettings) refresh(ctx context.Context, s *settingsStore) error {
	ctx, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.refreshLocked(ctx, s)
}

func (v *savedSettings) refreshLocked(ctx context.Context, s *settingsStore) error {
	var head settingsHead
	if err := s.load(ctx, headKey, &head); err != nil {
		return err
	}
	if v.known && head.Generation == v.generation {
		return nil
	}
	var stale []shardID
	for id, generation := range head.Shards {
		if old, ok := v.shards[id]; !ok || old.generation != generation {
			stale = append(stale, id)
		}
	}
	shards := make(map[shardID]loadedShard, len(head.Shards))
	for id := range head.Shards {
		if old, ok := v.shards[id]; ok {
			shards[id] = old
		}
	}
	var failed error
	read, errs := s.readShards(ctx, stale)
	for i, id := range stale {
		switch {
		case errs[i] != nil:
			failed = errs[i]
		case read[i].Generation < head.Shards[id]:
			// The storage shows what it held before; the next look will tell.
			failed = errors.New("the storage is behind with settings")
		}
		if errs[i] == nil {
			shards[id] = read[i].loaded(v.shards[id])
		}
	}
	if failed == nil {
		v.generation, v.known = head.Generation, true
	}
	v.setLocked(shards)
	return failed
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

// loaded returns the entries of a shard. Those that have not changed are the old ones.
func (s settingsShard) loaded(old loadedShard) loadedShard {
	known := make(map[entryRef]*entry, len(old.entries))
	for _, e := range old.entries {
		known[e.entryRef] = e
	}
	l := loadedShard{generation: s.Generation, entries: make([]*entry, 0, len(s.Entries))}
	for _, r := range s.Entries {
		e := known[entryRef{r.Kind, r.Name}]
		if e == nil || e.revision != r.Revision {
			e = r.entry()
		}
		l.entries = append(l.entries, e)
	}
	return l
}

func (v *savedSettings) setLocked(shards map[shardID]loadedShard) {
	v.shards = shards
	all := make(map[entryRef]*entry, len(v.all))
	for _, shard := range shards {
		for _, e := range shard.entries {
			all[e.entryRef] = e
		}
	}
	v.all = all
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
	if err := s.storage.Lock(ctx, settingsLock); err != nil {
		return nil, fmt.Errorf("locking settings: %w", err)
	}
	defer func() { _ = s.storage.Unlock(context.WithoutCancel(ctx), settingsLock) }() // it expires by itself
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

// editLocked finds out what is to be changed, by the shards as they are: one may be
// newer than the head says, since an instance ended between the two.
func (v *savedSettings) editLocked(ctx context.Context, s *settingsStore, change settingsChange) (map[entryRef]*entry, error) {
	looked := make(map[shardID]bool)
	for {
		edits, err := change(v.all)
		if err != nil || len(edits) == 0 {
			return nil, err
		}
		var ids []shardID
		for ref := range edits {
			if id := ref.shard(); !looked[id] {
				looked[id] = true
				ids = append(ids, id)
			}
		}
		read, errs := s.readShards(ctx, ids)
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		shards := maps.Clone(v.shards)
		changed := false
		for i, id := range ids {
			if read[i].Generation != v.shards[id].generation {
				shards[id] = read[i].loaded(v.shards[id])
				changed = true
			}
		}
		if !changed {
			return edits, nil
		}
		v.setLocked(shards)
	}
}

// settingsChange makes new entries of those that there are; nil for one that is to be
// gone. It must not change what it is given.
type settingsChange func(present map[entryRef]*entry) (map[entryRef]*entry, error)

// change changes entries: it reads what is there under the storage's lock, and so
// nobody's change gets lost. It returns the entries afterwards. Where the error is of
// change, nothing has happened.
func (v *savedSettings) change(ctx context.Context, s *settingsStore, by string, change settingsChange) (map[entryRef]*entry, error) {
	ctx, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := s.storage.Lock(ctx, settingsLock); err != nil {
		return nil, fmt.Errorf("locking settings: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settingsTimeout)
		defer cancel()
		_ = s.storage.Unlock(ctx, settingsLock) // it expires by itself
	}()
	v.known = false // whatever was seen: this look counts
	if err := v.refreshLocked(ctx, s); err != nil {
		return nil, err
	}
	edits, err := v.editLocked(ctx, s, change)
	if err != nil || len(edits) == 0 {
		return v.all, err
	}
	head := settingsHead{Format: settingsFormat, Generation: v.generation + 1, Shards: make(map[shardID]uint64, len(v.shards)+1)}
	for id, shard := range v.shards {
		head.Shards[id] = shard.generation
	}
	now := time.Now().Unix()
	shards := maps.Clone(v.shards)
	touched := make(map[shardID][]entryRef)
	for ref := range edits {
		touched[ref.shard()] = append(touched[ref.shard()], ref)
	}
	// From here on the change is brought to its end, whoever goes away.
	ctx, cancelStore := context.WithTimeout(context.WithoutCancel(ctx), settingsTimeout)
	defer cancelStore()
	for id, refs := range touched {
		entries := slices.DeleteFunc(slices.Clone(shards[id].entries), func(e *entry) bool { return slices.Contains(refs, e.entryRef) })
		for _, ref := range refs {
			if e := edits[ref]; e != nil {
				e.revision, e.changed, e.by = head.Generation, now, by
				entries = append(entries, e)
			}
		}
		shard := settingsShard{Format: settingsFormat, Generation: head.Generation, Entries: make([]entryRecord, len(entries))}
		for i, e := range entries {
			shard.Entries[i] = e.record()
		}
		if err := s.save(ctx, id.key(), shard); err != nil {
			v.known = false // some of it may be there
			return nil, err
		}
		shards[id] = loadedShard{generation: head.Generation, entries: entries}
		head.Shards[id] = head.Generation
	}
	if err := s.save(ctx, headKey, head); err != nil {
		v.known = false
		return nil, err
	}
	v.generation = head.Generation
	v.setLocked(shards)
	return v.all, nil
}
