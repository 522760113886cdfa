package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// Engine keeps messages durably and hands out those that are due. It may be used
// concurrently. It owns no message that it was given, nor one that it returned: it
// copies.
//
// The messages of a tenant form a lane. Lanes are independent: whatever one does,
// messages of another are handed out when they are due. In a lane the message that is
// due first is handed out first; order is not promised beyond that.
type Engine interface {
	// Accept stores a message and its content. When it returns nil, both outlive a
	// crash and a power cut. Where the digest in m.Idempotency is known, nothing is
	// stored and the error is a [*DuplicateError].
	//
	// A message that is due is handed to the running Handler at once, if its lane has
	// room and nothing in it is due before; then the mark that it is being sent is
	// stored with it.
	//
	// The error is or wraps ErrFull where there is no space.
	Accept(ctx context.Context, m *Message, c mailer.Content) error

	// Run hands messages to h until ctx ends. Then it hands out no more, waits for the
	// calls that are under way, whose own context ends with ctx, records their outcomes
	// and returns. It is called once at a time, and first has h decide about messages
	// that a process was sending when it ended.
	Run(ctx context.Context, h Handler) error

	// Get returns a message, or ErrNotFound.
	Get(ctx context.Context, id string) (*Message, error)

	// Content returns the content of a message, or ErrNotFound where it is no longer
	// kept.
	Content(ctx context.Context, id string) (mailer.Content, error)

	// List returns messages, the newest first.
	List(ctx context.Context, f Filter) (Page, error)

	// Change has f change a message in one step, whatever else goes on, and acts on the
	// new State and Due. An error of f changes nothing and is returned as it is. While a
	// message is being sent, the error is ErrSending and f is not called.
	Change(ctx context.Context, id string, f func(*Message) error) error

	// Drop forgets a message and its content. While it is being sent, the error is
	// ErrSending.
	Drop(ctx context.Context, id string) error

	// SetLane changes the state of a lane. LaneOpen hands out at once what is due.
	SetLane(ctx context.Context, tenant string, l Lane) error

	// Lanes returns the lanes that are not open, by tenant.
	Lanes(ctx context.Context) (map[string]Lane, error)

	// Stats counts. It costs the same for few messages and for a million.
	Stats(ctx context.Context) (Stats, error)

	// Close ends the use of the engine. Run has ended before.
	Close() error
}

// Handler tries messages. Its methods may be called concurrently, never twice at
// once for one message. A panic in them counts as an outcome of Retry, a minute on.
type Handler interface {
	// Deliver tries to send a message. It may change m; what it changes is recorded
	// with the outcome. A message past its Expires is handed out whatever the state of
	// its lane.
	Deliver(ctx context.Context, m *Message, c mailer.Content) Outcome

	// Interrupted decides about a message that was being sent when its process ended.
	// Nobody knows whether it was sent. The outcome is Retry or Hold. It may change m, as
	// Deliver may.
	Interrupted(m *Message) Outcome

	// Window is how many messages of a tenant may be handed out at once, at least 1.
	Window(tenant string) int
}

// Verdict is what becomes of a message after a try.
type Verdict int

// The verdicts.
const (
	Retry Verdict = iota // it is queued, until Outcome.At
	Sent                 // its content is no longer needed
	Dead                 // it is refused, or too old; its content is kept for a person
	Hold                 // it may have been sent; a person decides
)

// Outcome is the result of a try. By it the engine sets State and Due of the message.
type Outcome struct {
	Verdict Verdict
	// At is when a message with the verdict Retry is due. The zero time is now.
	At time.Time
	// Lane, if set, is the new state of the message's lane, unless an operator has
	// paused it.
	Lane *Lane
}

// LaneState says whether the messages of a tenant are handed out.
type LaneState string

// The states of a lane.
const (
	LaneOpen LaneState = ""
	// LaneResting: the server cannot be reached, or asks for less mail.
	LaneResting LaneState = "resting"
	// LaneParked: the tenant cannot send until a person does something.
	LaneParked LaneState = "parked"
	// LanePaused: an operator stopped it.
	LanePaused LaneState = "paused"
)

// Lane is the state of a tenant's messages as a whole. All states are durable but
// LaneResting, which a restart may end.
type Lane struct {
	State LaneState `json:"state"`
	// Until is when one message is handed out, to see whether others can be: if its
	// outcome has no Lane, the lane is open. Zero: never by itself.
	Until time.Time `json:"until,omitzero"`
	// Since is when the state began.
	Since time.Time `json:"since,omitzero"`
	// Failure is why, with LaneResting and LaneParked.
	Failure *Failure `json:"failure,omitempty"`
	// By is who paused it.
	By string `json:"by,omitempty"`
}

// Filter selects messages. Its zero value selects all of them.
type Filter struct {
	Tenant string
	State  State
	// Caller selects the messages of one caller; the zero value those of all.
	CallerKind, CallerName string
	// Before is Page.Next of the page before, or the id of a message: those that are
	// older.
	Before string
	// After is the id of a message: those that are newer, the ones next to it. Page.Next
	// is After of the page that follows then. It is not set together with Before.
	After string
	// Limit is the most messages of a page: 100.
	Limit int
}

// Page is a part of a list.
type Page struct {
	// Messages are the newest first.
	Messages []*Message
	// Next is where the next page begins; empty at the end.
	Next string
}

// Stats are the figures of an engine.
type Stats struct {
	Tenants map[string]TenantStats
	// Bytes is what messages and contents take on the disk, as far as the engine
	// knows, and MaxBytes the most that they may; zero for no limit.
	Bytes, MaxBytes int64
	// Flushes counts how often the engine has waited for the disk since it was opened;
	// zero where that is another program's business.
	Flushes int64
}

// TenantStats are the figures of one tenant.
type TenantStats struct {
	// Messages counts by state.
	Messages map[State]int
	// Oldest is when the oldest message was accepted that is neither sent, failed nor
	// canceled; scheduled ones do not count.
	Oldest time.Time
}

// The errors of engines.
var (
	// ErrNotFound: there is no such message, or not any more.
	ErrNotFound = errors.New("there is no such message in the outbox")
	// ErrSending: the message is being sent at this moment.
	ErrSending = errors.New("the message is being sent at this moment")
	// ErrFull: there is no space for another message.
	ErrFull = errors.New("the outbox is full")
)

// DuplicateError says that a message with the same idempotency digest was accepted
// before.
type DuplicateError struct {
	// Prior is that message as it is now.
	Prior *Message
}

func (e *DuplicateError) Error() string {
	return "the message " + e.Prior.ID + " was accepted with the same idempotency key"
}

// Sealer seals what engines store. A name belongs to each record: what was sealed
// under one does not open under another. It keeps nothing of a plaintext. It may be used
// concurrently.
type Sealer interface {
	// AppendSeal appends the sealed plaintext to dst, and AppendOpen what was sealed.
	// What they read and dst must not overlap.
	AppendSeal(dst []byte, name string, plaintext []byte) ([]byte, error)
	AppendOpen(dst []byte, name string, sealed []byte) ([]byte, error)
}
