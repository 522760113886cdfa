package outbox

import (
	"log/slog"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// Hooks are told what becomes of messages, for metrics, events and logs. Any may be
// nil. They are called with no lock held, on the goroutine that does the work, and
// must not keep or change the message. As a message may be tried while its sender
// still hears that it is accepted, Accepted may be called after the others.
type Hooks struct {
	// Accepted is told when a message is stored.
	Accepted func(*Message)
	// Sent is told of a message that all have got who are not refused, with the receipt
	// of its last try and how long that took.
	Sent func(*Message, mailer.Receipt, time.Duration)
	// Partly is told of a try by which only some of the recipients got the message, with
	// its receipt and how long it took. Deferred is told of the others after it.
	Partly func(*Message, mailer.Receipt, time.Duration)
	// Deferred is told of a try that failed, after which the message is tried again.
	// That it waits for the mailbox, the tenant or this process is no try.
	Deferred func(*Message, *mailer.Error, time.Duration)
	// Failed is told of a message that was refused, or is too old. Some of its recipients
	// may have got it: see [Message.Delivered].
	Failed func(*Message, *mailer.Error, time.Duration)
	// Held is told of a message that may have been sent, and of which a person decides.
	Held func(*Message, *mailer.Error)
	// Interrupted is told of a message that was being sent when its process ended, and is
	// sent again: it may arrive twice. Where a person decides, Held is told instead.
	Interrupted func(*Message)
	// Lane is told when a lane is parked, paused or resting, and when it is open again.
	Lane func(tenant string, before, now Lane)
}

// withDefaults has hooks that are missing do nothing.
func (h Hooks) withDefaults() Hooks {
	if h.Accepted == nil {
		h.Accepted = func(*Message) {}
	}
	if h.Sent == nil {
		h.Sent = func(*Message, mailer.Receipt, time.Duration) {}
	}
	if h.Partly == nil {
		h.Partly = func(*Message, mailer.Receipt, time.Duration) {}
	}
	if h.Deferred == nil {
		h.Deferred = func(*Message, *mailer.Error, time.Duration) {}
	}
	if h.Failed == nil {
		h.Failed = func(*Message, *mailer.Error, time.Duration) {}
	}
	if h.Held == nil {
		h.Held = func(*Message, *mailer.Error) {}
	}
	if h.Interrupted == nil {
		h.Interrupted = func(*Message) {}
	}
	if h.Lane == nil {
		h.Lane = func(string, Lane, Lane) {}
	}
	return h
}

// call runs a hook. Whatever it does, the message keeps its outcome.
func (s *Settings) call(hook func()) {
	defer func() {
		if p := recover(); p != nil {
			s.Logger.Error("a hook of the outbox panicked; this is a defect of the program", slog.Any("panic", p))
		}
	}()
	hook()
}
