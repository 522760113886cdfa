package bolt

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// A record is the header and, sealed, the JSON form of the message. The header has
// what indexes are made of; it overrides State and Due of the JSON, so that a
// message can be marked without opening it.
//
//	0   version
//	1   state
//	2   where the content is
//	3   digest of the caller, 4 octets
//	7   size of the content, 8 octets
//	15  accepted, due, expires or forget: 12 octets each
//	51  length of the tenant, 2 octets; tenant
//	    length of the idempotency digest, 1 octet; digest
type header struct {
	state    outbox.State
	kept     keeping
	caller   uint32
	size     int64
	accepted time.Time
	due      time.Time
	// sweep is when the engine acts whatever the lane: Expires of a message that
	// waits, Forget of a final one.
	sweep  time.Time
	tenant string
	digest []byte
}

const (
	recordVersion = 1
	atState       = 1
	atDue         = 27
	fixedHeader   = 51
	timeSize      = 12

	maxTenant = 1024
	maxDigest = 255
)

// keeping says where the content of a message is.
type keeping byte

const (
	keptNowhere keeping = iota
	keptInline
	keptInFile
)

// states gives each state its octet: one more than its place. They never change.
var states = []outbox.State{
	outbox.StateScheduled, outbox.StateQueued, outbox.StateSending, outbox.StateHeld,
	outbox.StateSent, outbox.StateFailed, outbox.StateCanceled,
}

func stateOctet(s outbox.State) byte { return byte(slices.Index(states, s) + 1) }

var errDamaged = errors.New("the record is damaged")

// newHeader makes the header of a message.
func newHeader(m *outbox.Message, kept keeping, size int64) header {
	h := header{
		state: m.State, kept: kept, caller: callerDigest(m.Caller.Kind, m.Caller.Name), size: size,
		accepted: m.Accepted, due: m.Due, tenant: m.Tenant, digest: m.Idempotency,
	}
	switch {
	case m.State.Final():
		h.sweep = m.Forget
	case h.waits():
		h.sweep = m.Expires
	}
	return h
}

// waits reports whether the message is to be handed out.
func (h *header) waits() bool {
	return h.state == outbox.StateQueued || h.state == outbox.StateScheduled
}

// callerDigest lets lists skip the messages of other callers without opening them.
func callerDigest(kind, name string) uint32 {
	f := fnv.New32a()
	_, _ = f.Write([]byte(kind + "\x00" + name))
	return f.Sum32()
}

// append writes the header of a record, behind which the sealed message comes.
func (h *header) append(b []byte) []byte {
	b = append(b, recordVersion, stateOctet(h.state), byte(h.kept))
	b = binary.BigEndian.AppendUint32(b, h.caller)
	b = binary.BigEndian.AppendUint64(b, uint64(h.size))
	b = appendTime(appendTime(appendTime(b, h.accepted), h.due), h.sweep)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.tenant)))
	b = append(b, h.tenant...)
	b = append(b, byte(len(h.digest)))
	return append(b, h.digest...)
}

// parse splits a record. The result refers to it.
func parse(b []byte) (h header, sealed []byte, err error) {
	if len(b) < fixedHeader || b[0] != recordVersion || int(b[atState]) > len(states) || b[atState] == 0 {
		return h, nil, errDamaged
	}
	h.state = states[b[atState]-1]
	h.kept = keeping(b[2])
	h.caller = binary.BigEndian.Uint32(b[3:])
	h.size = int64(binary.BigEndian.Uint64(b[7:]))
	h.accepted, h.due, h.sweep = parseTime(b[15:]), parseTime(b[atDue:]), parseTime(b[39:])
	tenant, rest, ok := counted(b[fixedHeader:], 2)
	if !ok {
		return h, nil, errDamaged
	}
	digest, sealed, ok := counted(rest, 1)
	if !ok {
		return h, nil, errDamaged
	}
	h.tenant = string(tenant)
	if len(digest) > 0 {
		h.digest = digest
	}
	return h, sealed, nil
}

// counted splits off what is preceded by its length, of one or two octets.
func counted(b []byte, width int) (head, rest []byte, ok bool) {
	if len(b) < width {
		return nil, nil, false
	}
	n := int(b[0])
	if width == 2 {
		n = n<<8 | int(b[1])
	}
	if b = b[width:]; len(b) < n {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// appendTime writes a time so that octets sort as times do.
func appendTime(b []byte, t time.Time) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(t.Unix())^(1<<63))
	return binary.BigEndian.AppendUint32(b, uint32(t.Nanosecond()))
}

func parseTime(b []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(b)^(1<<63)), int64(binary.BigEndian.Uint32(b[8:]))).UTC()
}

// The names that things are sealed under.
const checkName = "oauth_mail/outbox/check"

func messageName(id string) string  { return "oauth_mail/outbox/message/" + id }
func contentName(id string) string  { return "oauth_mail/outbox/content/" + id }
func laneName(tenant string) string { return "oauth_mail/outbox/lane/" + tenant }

// plaintexts are where messages are before they are sealed.
var plaintexts = sync.Pool{New: func() any { return new([]byte) }}

// maxPlaintext is the largest that is used again.
const maxPlaintext = 16 << 10

// seal appends the sealed form of a message to dst.
func (e *Engine) seal(dst []byte, m *outbox.Message) ([]byte, error) {
	room := plaintexts.Get().(*[]byte)
	plain, err := m.AppendJSON((*room)[:0])
	if err != nil {
		return nil, fmt.Errorf("encoding the message %s: %w", m.ID, err)
	}
	if cap(plain) <= maxPlaintext {
		*room = plain
		defer plaintexts.Put(room)
	}
	sealed, err := e.options.Sealer.AppendSeal(dst, messageName(m.ID), plain)
	if err != nil {
		return nil, fmt.Errorf("sealing the message %s: %w", m.ID, err)
	}
	return sealed, nil
}

// open makes a message of its record, which it does not keep.
func (e *Engine) open(id string, record []byte) (*outbox.Message, header, error) {
	h, sealed, err := parse(record)
	if err != nil {
		return nil, h, fmt.Errorf("message %s: %w", id, err)
	}
	plain, err := e.options.Sealer.AppendOpen(nil, messageName(id), sealed)
	if err != nil {
		return nil, h, fmt.Errorf("opening the message %s, which takes the key it was sealed with: %w", id, err)
	}
	m, err := decode(plain, &h)
	if err != nil {
		return nil, h, fmt.Errorf("message %s: %w", id, err)
	}
	return m, h, nil
}

// decode makes a message of its JSON form.
func decode(plain []byte, h *header) (*outbox.Message, error) {
	m := new(outbox.Message)
	if err := json.Unmarshal(plain, m); err != nil {
		return nil, err
	}
	if m.Tenant != h.tenant { // the header is not sealed
		return nil, errDamaged
	}
	m.State, m.Due = h.state, h.due
	return m, nil
}

// checkMessage says what is wrong with a message that is to be stored.
func checkMessage(m *outbox.Message) error {
	switch {
	case !goodID(m.ID):
		return fmt.Errorf("the outbox takes no message with the id %q", m.ID)
	case len(m.Tenant) > maxTenant:
		return errors.New("the name of the tenant is longer than 1024 octets")
	case len(m.Idempotency) > maxDigest:
		return errors.New("the digest of the idempotency key is longer than 255 octets")
	}
	return nil
}

// goodID reports whether an id can name a file.
func goodID(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return id != "" && len(id) <= 64
}
