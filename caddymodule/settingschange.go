package caddymodule

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

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
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v.known = false // whatever was seen: this look counts
	if err := v.refreshLocked(ctx, s); err != nil {
		return nil, err
	}
	edits, err := v.editLocked(ctx, s, change)
	if err != nil || len(edits) == 0 {
		return v.all, err
	}
	if err := v.storeLocked(ctx, s, by, edits); err != nil {
		v.known = false // some of it may be there
		return nil, err
	}
	return v.all, nil
}

// storeLocked stores edits, shard by shard and then the head, whoever goes away meanwhile.
func (v *savedSettings) storeLocked(ctx context.Context, s *settingsStore, by string, edits map[entryRef]*entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settingsTimeout)
	defer cancel()
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
	for id, refs := range touched {
		entries := slices.DeleteFunc(slices.Clone(shards[id].entries), func(e *entry) bool {
			_, edited := edits[e.entryRef]
			return edited
		})
		for _, ref := range refs {
			if e := edits[ref]; e != nil {
				e.revision, e.changed, e.by = head.Generation, now, by
				entries = append(entries, e)
			}
		}
		shards[id] = loadedShard{generation: head.Generation, entries: entries}
		head.Shards[id] = head.Generation
		if err := s.save(ctx, id.key(), shards[id].record()); err != nil {
			return err
		}
	}
	if err := s.save(ctx, headKey, head); err != nil {
		return err
	}
	v.generation = head.Generation
	v.setLocked(shards)
	return nil
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
