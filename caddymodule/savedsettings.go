package caddymodule

import (
	"context"
	"errors"
	"sync"
)

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

// record is the shard as it is stored.
func (l loadedShard) record() settingsShard {
	s := settingsShard{Format: settingsFormat, Generation: l.generation, Entries: make([]entryRecord, len(l.entries))}
	for i, e := range l.entries {
		s.Entries[i] = e.record()
	}
	return s
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
