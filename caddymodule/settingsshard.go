package caddymodule

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"unique"
)

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
