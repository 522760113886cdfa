package bolt

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// The buckets. All indexes share one, so that a commit writes few pages.
var (
	bucketMeta     = []byte("meta")
	bucketMessages = []byte("messages") // id: record
	bucketContents = []byte("contents") // id: sealed content
	bucketIndex    = []byte("index")
	bucketLanes    = []byte("lanes") // tenant: sealed state of a lane

	keyFormat = []byte("format")
	keyCheck  = []byte("check") // sealed; see checkKey
)

// The kinds of keys in the index. A tenant is preceded by its length.
const (
	indexDue    = 'd' // tenant, due, id: messages that wait
	indexExpiry = 'e' // tenant, expires, id: the same
	indexForget = 'f' // forget, id: final messages
	indexDigest = 'i' // idempotency digest: id
	indexState  = 's' // state, tenant, id
	indexOpen   = 'o' // tenant, accepted, id: messages that count as waiting
	indexCount  = 'c' // state, tenant: how many
	indexFiles  = 'b' // octets in files; octets that scheduled messages take
)

var (
	keyFiles     = []byte{indexFiles}
	keyScheduled = []byte{indexFiles, 1}
)

func appendTenant(b []byte, tenant string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(tenant))), tenant...)
}

func appendLane(b []byte, kind byte, tenant string) []byte {
	return appendTenant(append(b, kind), tenant)
}

func appendState(b []byte, kind byte, s outbox.State, tenant string) []byte {
	return appendTenant(append(b, kind, stateOctet(s)), tenant)
}

func lanePrefix(kind byte, tenant string) []byte {
	return appendLane(make([]byte, 0, 3+len(tenant)+timeSize+36), kind, tenant)
}

func statePrefix(kind byte, s outbox.State, tenant string) []byte {
	return appendState(make([]byte, 0, 4+len(tenant)+36), kind, s, tenant)
}

func forgetPrefix() []byte { return []byte{indexForget} }

func digestKey(digest []byte) []byte { return append([]byte{indexDigest}, digest...) }

// timed splits what follows the prefix of a key with a time.
func timed(rest []byte) (at time.Time, id string, ok bool) {
	if len(rest) < timeSize {
		return at, "", false
	}
	return parseTime(rest), string(rest[timeSize:]), true
}

// keys are entries of the index, in memory that is used for one message after the other.
type keys struct {
	list   [][]byte
	octets []byte
}

// of returns the entries that a message has in the index, but for its digest. A nil header
// has none.
func (s *keys) of(h *header, id string) [][]byte {
	s.list, s.octets = s.list[:0], s.octets[:0]
	if h == nil {
		return nil
	}
	s.add(appendState(s.octets, indexState, h.state, h.tenant), id)
	if !h.state.Final() && h.state != outbox.StateScheduled {
		s.add(appendTime(appendLane(s.octets, indexOpen, h.tenant), h.accepted), id)
	}
	if h.waits() {
		s.add(appendTime(appendLane(s.octets, indexDue, h.tenant), h.due), id)
		if !h.sweep.IsZero() {
			s.add(appendTime(appendLane(s.octets, indexExpiry, h.tenant), h.sweep), id)
		}
	}
	if h.state.Final() && !h.sweep.IsZero() {
		s.add(appendTime(append(s.octets, indexForget), h.sweep), id)
	}
	return s.list
}

// add adds the entry whose prefix was appended to s.octets.
func (s *keys) add(prefixed []byte, id string) {
	begin := len(s.octets)
	s.octets = append(prefixed, id...)
	s.list = append(s.list, s.octets[begin:len(s.octets):len(s.octets)])
}

// knows reports whether the digest of the message is in the index.
func (h *header) knows() bool { return h != nil && len(h.digest) > 0 }

// fileSize is what the content takes outside the database.
func (h *header) fileSize() int64 {
	if h.kept == keptInFile {
		return fileOctets(h.size)
	}
	return 0
}

// octets is what the message takes, about.
func (h *header) octets() int64 { return 2*recordRoom + h.size }

// put stores a record and everything that follows from it. Old is nil where there
// is none yet.
func (b *batch) put(id string, old, now *header, sealed []byte) {
	stale, fresh := b.e.stale.of(old, id), b.e.fresh.of(now, id)
	for _, k := range stale {
		if !has(fresh, k) {
			b.remove(b.index, k)
		}
	}
	for _, k := range fresh {
		if !has(stale, k) {
			b.set(b.index, k, nil)
		}
	}
	same := old.knows() && now.knows() && bytes.Equal(old.digest, now.digest)
	if old.knows() && !same {
		if k := digestKey(old.digest); string(b.index.Get(k)) == id {
			b.remove(b.index, k)
		}
	}
	if now.knows() && !same {
		if k := digestKey(now.digest); b.index.Get(k) == nil {
			b.set(b.index, k, []byte(id))
		}
	}
	if old != nil {
		b.count(old, -1)
		if old.kept == keptInline && (now == nil || now.kept != keptInline) {
			b.remove(b.contents, []byte(id))
		}
		if old.kept == keptInFile && (now == nil || now.kept != keptInFile) {
			b.after(func() { b.e.unlink(id) })
		}
	}
	if now == nil {
		b.remove(b.messages, []byte(id))
		return
	}
	b.count(now, 1)
	b.e.head = now.append(b.e.head[:0])
	b.set(b.messages, []byte(id), b.e.head, sealed)
}

func has(keys [][]byte, k []byte) bool {
	for _, o := range keys {
		if bytes.Equal(o, k) {
			return true
		}
	}
	return false
}

// counter names what is counted.
type counter struct {
	state  outbox.State
	tenant string
}

func (b *batch) count(h *header, n int) {
	b.counts[counter{h.state, h.tenant}] += n
	b.files += int64(n) * h.fileSize()
	if h.state == outbox.StateScheduled {
		b.scheduled += int64(n) * h.octets()
	}
}

// storeCounts adds what was counted to what is stored.
func (b *batch) storeCounts() {
	for c, n := range b.counts {
		b.add(statePrefix(indexCount, c.state, c.tenant), int64(n))
	}
	b.add(keyFiles, b.files)
	b.grow(b.files)
	b.add(keyScheduled, b.scheduled)
}

func (b *batch) add(key []byte, n int64) {
	if n == 0 {
		return
	}
	n += number(b.index.Get(key))
	if n <= 0 {
		b.remove(b.index, key)
		return
	}
	b.set(b.index, key, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func number(v []byte) int64 {
	if len(v) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}
