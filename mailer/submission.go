package mailer

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
)

// Envelope says who sends and who receives (RFC 5321, section 2.3.1). It alone
// decides who receives; the header of the message is not looked at.
type Envelope struct {
	// From is the reverse-path. The zero Address is the null sender, "<>".
	From Address
	// To holds the forward-paths, at least one, without duplicates.
	To []Address
}

// Submission is a message on its way in: who brings it, for whom, and what is
// to be done with it.
type Submission struct {
	// ID is a UUIDv7, minted by [NewID] when the message is accepted.
	ID string
	// MessageID is the value of the message's Message-ID field, in angle
	// brackets. It stays the same over all tries.
	MessageID string
	// Tenant names the settings to send with. They are looked up when the
	// message is sent, not when it is accepted.
	Tenant string
	Caller Caller
	// From is the address in the message's From field. The tenant's sender
	// rules apply to it and to the envelope sender alike.
	From     Address
	Envelope Envelope
	Content  Content
	// Summary is what an outbox shows of the message; nil where nobody has read it.
	Summary *Summary
	Options Options
}

// Caller is whoever brought a message.
type Caller struct {
	// Kind tells what Name is: "key", "user", "network" or "operator".
	Kind string
	// Name comes from the configuration, never from a request.
	Name string
	// Addr is the client's address, where there is one.
	Addr netip.Addr
	// Request is the entrance's own id of the call, where it has one, for logs.
	Request string
	// Trace is the id of the trace that the call belongs to (W3C Trace Context), where
	// it belongs to one, for logs.
	Trace string
}

func (c Caller) String() string { return c.Kind + " " + c.Name }

// Options are the wishes of whoever submits.
type Options struct {
	// AllRecipients sends nothing when the server refuses one recipient. By
	// default the others get the message.
	AllRecipients bool
	// Wait limits how long Send waits for an outcome. Zero: no limit of its own.
	Wait time.Duration
	// Async returns as soon as the message is accepted durably. Needs an outbox.
	Async bool
	// At is the time before which the message must not go. Needs an outbox.
	At time.Time
	// RequireTLS sends the message only where TLS is demanded of all further
	// servers, too (RFC 8689). A server that does not offer that gets nothing.
	RequireTLS bool
	// DSN asks for reports (RFC 3461), where the server offers that.
	DSN DSN
	// IdempotencyKey makes a repeated submission of one caller count once.
	// Needs an outbox.
	IdempotencyKey string
	// Fingerprint is a digest of what the caller wanted sent, with an
	// IdempotencyKey: the same key with another one is refused.
	Fingerprint []byte
}

// DSN says which delivery status notifications are wanted (RFC 3461). The zero
// value leaves it to the servers, which report failures.
type DSN struct {
	// Notify lists the events to report; none is the servers' choice.
	Notify []DSNEvent
	// Return is how much of the message reports hold.
	Return DSNReturn
	// EnvelopeID comes back in the reports: 100 printable ASCII characters at
	// most.
	EnvelopeID string
}

// DSNEvent is an event to be reported, or NotifyNever alone.
type DSNEvent string

// The events of RFC 3461, section 4.1.
const (
	NotifyNever   DSNEvent = "NEVER"
	NotifySuccess DSNEvent = "SUCCESS"
	NotifyFailure DSNEvent = "FAILURE"
	NotifyDelay   DSNEvent = "DELAY"
)

// DSNReturn is how much of a message a report holds (RFC 3461, section 4.3).
type DSNReturn string

// What a report may hold.
const (
	ReturnFull    DSNReturn = "FULL"
	ReturnHeaders DSNReturn = "HDRS"
)

// Status is what has become of an accepted message.
type Status string

// The states of an accepted message.
const (
	StatusSent      Status = "sent"      // the mail server took it
	StatusQueued    Status = "queued"    // it is in the outbox
	StatusScheduled Status = "scheduled" // it waits for Options.At
)

// Receipt is the answer to a submission that was accepted.
type Receipt struct {
	ID        string
	MessageID string
	// Tenant is the tenant that served the message.
	Tenant string
	Status Status
	// Recipients has one entry per forward-path, in their order.
	Recipients []RecipientOutcome
	// Reply is the server's answer to the content.
	Reply Reply
	// QueueID is the server's own name for the message, where its reply tells.
	QueueID string
	// Server is the host and port that took the message.
	Server string
	// Deliver is where the message went in place of its recipients, if it did.
	Deliver Delivery
	// Cause is why the message was not sent yet, where that is known, with
	// StatusQueued and StatusScheduled.
	Cause *Error
	// Due is when it is tried next, with StatusQueued and StatusScheduled.
	Due time.Time
	// Replayed is set when the message was accepted before, with the same
	// Options.IdempotencyKey.
	Replayed bool
}

// RecipientOutcome is what the mail server said about one recipient.
type RecipientOutcome struct {
	Address Address
	// Kind is zero where the recipient was accepted.
	Kind  Kind
	Reply Reply
}

// NewID mints the id of a message: a UUIDv7 (RFC 9562), which sorts by time.
func NewID() string {
	id, err := uuid.NewV7()
	if err != nil { // the system's random source is gone; nothing works then
		panic(fmt.Sprintf("mailer: minting an id: %v", err))
	}
	return id.String()
}

// NewMessageID makes a Message-ID value in the sender's domain from an id. The
// host's name never appears in it.
func NewMessageID(id string, from Address) string {
	domain := from.Domain
	if domain == "" {
		domain = "localhost"
	}
	return "<" + id + "@" + domain + ">"
}
