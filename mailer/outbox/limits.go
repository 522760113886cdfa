package outbox

import (
	"context"
	"time"
)

// SharedLimits is what an engine offers whose instances send from the same
// mailboxes: it holds them together to what the mail server allows.
type SharedLimits interface {
	// Acquire takes a place for one message in the limits of a mailbox, and one of its
	// connections. Where wait is above zero there is none now, and nothing is taken;
	// another try is due then. It may wait a moment itself for a place that comes free
	// soon. Release gives the connection back when the message has ended; until then the
	// message holds its place, and for MailboxLimits.Per after.
	//
	// A connection may stay open after its message, so an instance keeps its places among
	// the connections while it has messages, and for a while after. Where another
	// instance waits for one, it gives some up within seconds, and calls
	// MailboxLimits.Drain before.
	Acquire(ctx context.Context, mailbox string, l MailboxLimits, recipients int) (release func(), wait time.Duration, err error)
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
