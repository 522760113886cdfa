package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// SharedLimits is what an engine offers whose instances send from the same
// mailboxes: it holds them together to what the mail server allows.
type SharedLimits interface {
	// Acquire takes a place for one message in the limits of a mailbox, and one of its
	// connections. Where full is not nil there is none now, and nothing is taken;
	// another try is due after full.Wait. It may wait a moment itself for a place that
	// comes free soon. Release gives the connection back when the message has ended;
	// until then the message holds its place, and for MailboxLimits.Per after.
	//
	// A connection may stay open after its message, so an instance keeps its places among
	// the connections while it has messages, and for a while after. Where another
	// instance waits for one, it gives some up within seconds, and calls
	// MailboxLimits.Drain before. It also does when it is out of contact with the others,
	// who then may take the places of all its connections.
	Acquire(ctx context.Context, mailbox string, l MailboxLimits, recipients int) (release func(), full *Full, err error)
}

// Full says which limit leaves no room for another message now.
type Full struct {
	Limit Limit
	// Wait is how long it may take until there is room: above zero.
	Wait time.Duration
}

// Limit is one of [MailboxLimits].
type Limit string

// The limits of a mailbox.
const (
	LimitRate        Limit = "rate"
	LimitRecipients  Limit = "recipients"
	LimitConnections Limit = "connections"
)

// failure is what a message meets that finds no room.
func (f *Full) failure() *mailer.Error {
	e := &mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindThrottled, RetryAfter: f.Wait}
	switch f.Limit {
	case LimitConnections:
		e.Code, e.Err = "mailbox_busy", errors.New("all instances together have as many connections as the mailbox may have")
	case LimitRecipients:
		e.Code, e.Err = "mailbox_recipients", errors.New("all instances together have sent to as many recipients as the mailbox may in 24 hours")
	default:
		e.Code, e.Err = "mailbox_rate", errors.New("all instances together have sent as many messages as the mailbox may for now")
	}
	return e
}

// MailboxLimits are what the server of a mailbox allows to all instances together.
// Zero is no limit.
type MailboxLimits struct {
	// Rate is the most messages in any window of the length Per.
	Rate int
	Per  time.Duration
	// RecipientsPerDay is the most recipients in any 24 hours.
	RecipientsPerDay int
	// Connections is the most connections at once.
	Connections int
	// Drain closes the idle connections of this instance to the mailbox's server. It
	// returns when they are closed, and is called on any goroutine with no lock held;
	// that of the latest call of Acquire counts. Nil: none stays open after its message.
	Drain func()
}
