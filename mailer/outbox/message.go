package outbox

import (
	"bytes"
	"io"
	"slices"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// State is where a message is on its way.
type State string

// The states. The last three are final.
const (
	StateScheduled State = "scheduled" // it waits for the time that its sender set
	StateQueued    State = "queued"    // it waits for its next try
	StateSending   State = "sending"
	StateHeld      State = "held" // it may have been sent; a person decides
	StateSent      State = "sent"
	StateFailed    State = "failed"
	StateCanceled  State = "canceled"
)

// Final reports whether a message in this state is tried no more.
func (s State) Final() bool { return s == StateSent || s == StateFailed || s == StateCanceled }

// Message is a message in the outbox, without its content. Its JSON form is what
// engines store.
type Message struct {
	// ID is a UUIDv7: ids sort by the time of acceptance.
	ID        string        `json:"id"`
	MessageID string        `json:"message_id"`
	Tenant    string        `json:"tenant"`
	Caller    mailer.Caller `json:"caller"`
	// From is the address in the From field, Sender the reverse-path.
	From       mailer.Address `json:"from"`
	Sender     mailer.Address `json:"sender"`
	Recipients []Recipient    `json:"recipients"`
	// AllRecipients, RequireTLS and DSN are as in [mailer.Options].
	AllRecipients bool       `json:"all_recipients,omitempty"`
	RequireTLS    bool       `json:"require_tls,omitempty"`
	DSN           mailer.DSN `json:"dsn,omitzero"`
	// Size is that of the content in octets.
	Size       int64 `json:"size"`
	EightBit   bool  `json:"eight_bit,omitempty"`
	UTF8Header bool  `json:"utf8_header,omitempty"`
	// Summary is what lists show of the message; nil where that is not known.
	Summary *mailer.Summary `json:"summary,omitempty"`

	// Idempotency is the digest of caller and idempotency key; empty without one.
	// Engines know it until Forget, or until the message is dropped or comes back from
	// its handler without it.
	Idempotency []byte `json:"idempotency,omitempty"`
	// Fingerprint is a digest of what the caller wanted sent.
	Fingerprint []byte `json:"fingerprint,omitempty"`

	Accepted time.Time `json:"accepted"`
	// Expires is when a message that is not sent is given up.
	Expires time.Time `json:"expires"`
	// Forget is when a message in a final state is dropped. Engines drop it then.
	Forget time.Time `json:"forget,omitzero"`

	State State `json:"state"`
	// Due is when the message is tried next, with StateScheduled and StateQueued.
	Due      time.Time `json:"due,omitzero"`
	Attempts int       `json:"attempts"`
	// Doubts counts the tries after which nobody knew whether the message was sent.
	Doubts int `json:"doubts,omitempty"`
	// Failure is why the last try failed.
	Failure *Failure `json:"failure,omitempty"`
	// Delivery is how it was sent, the last time where that took several.
	Delivery *Delivery `json:"delivery,omitempty"`
	// Earlier are the deliveries before that one, each to some of the recipients.
	Earlier []Delivery `json:"earlier,omitempty"`
	// Finished is when the message came into a final state.
	Finished time.Time `json:"finished,omitzero"`
	// By is who canceled it.
	By string `json:"by,omitempty"`
}

// Clone returns a copy that shares no memory with the message.
func (m *Message) Clone() *Message {
	c := *m
	c.Recipients = slices.Clone(m.Recipients)
	c.DSN.Notify = slices.Clone(m.DSN.Notify)
	c.Idempotency, c.Fingerprint = bytes.Clone(m.Idempotency), bytes.Clone(m.Fingerprint)
	if m.Failure != nil {
		f := *m.Failure
		c.Failure = &f
	}
	if m.Delivery != nil {
		d := m.Delivery.clone()
		c.Delivery = &d
	}
	if m.Summary != nil {
		c.Summary = m.Summary.Clone()
	}
	if c.Earlier = slices.Clone(m.Earlier); c.Earlier != nil {
		for i, d := range c.Earlier {
			c.Earlier[i] = d.clone()
		}
	}
	return &c
}

// Recipient is a forward-path and what has become of it.
type Recipient struct {
	Address mailer.Address `json:"address"`
	// Done is set when no server is asked about the recipient any more.
	Done bool `json:"done,omitempty"`
	// Kind and Reply are the last word about the recipient; KindNone with Done means
	// accepted.
	Kind  mailer.Kind  `json:"kind,omitempty"`
	Reply mailer.Reply `json:"reply,omitzero"`
}

// Delivery is the end of a try after which the server had the message.
type Delivery struct {
	// Tenant is the one that sent it, Server its host and port.
	Tenant  string       `json:"tenant"`
	Server  string       `json:"server,omitempty"`
	Reply   mailer.Reply `json:"reply,omitzero"`
	QueueID string       `json:"queue_id,omitempty"`
	// Staging is where it went in place of its recipients, if it did.
	Staging string `json:"staging,omitempty"`
	// To are the recipients who got it, where others had to wait for another delivery.
	To []mailer.Address `json:"to,omitempty"`
}

func (d Delivery) clone() Delivery {
	d.To = slices.Clone(d.To)
	return d
}

// Content makes a content of what an engine has stored.
func (m *Message) Content(octets mailer.Source) mailer.Content {
	return content{octets, m.EightBit, m.UTF8Header}
}

// content is a message that can be read again and again.
type content struct {
	mailer.Source
	eightBit, utf8Header bool
}

func (c content) WriteTo(w io.Writer) (int64, error) {
	r, err := c.Open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return io.Copy(w, r)
}

func (c content) EightBit() bool   { return c.eightBit }
func (c content) UTF8Header() bool { return c.utf8Header }
