package outbox

import (
	"context"
	"log/slog"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// Settings are what an [Outbox] works with. All but Deliver and Policy may be left
// out.
type Settings struct {
	// Deliver tries once to send a message: [mailer.Mailer.Deliver].
	Deliver func(context.Context, mailer.Submission) (mailer.Receipt, error)
	// Policy returns the rules of a tenant; false: there is no such tenant now. It is
	// asked for each try, so it must be fast.
	Policy func(tenant string) (Policy, bool)
	// KeepSent is how long messages are known that were sent or canceled: 24 h.
	// KeepFailed is how long those are kept that failed: 7 days.
	KeepSent, KeepFailed time.Duration
	Hooks                Hooks
	// Logger gets what an operator must know: slog.Default.
	Logger *slog.Logger
}

func (s Settings) withDefaults() *Settings {
	if s.KeepSent <= 0 {
		s.KeepSent = 24 * time.Hour
	}
	if s.KeepFailed <= 0 {
		s.KeepFailed = 7 * 24 * time.Hour
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	return &s
}

// Policy is how the messages of a tenant are treated.
type Policy struct {
	// Lifetime is how long a message is tried: 48 h.
	Lifetime time.Duration
	// HoldUnknown keeps messages that may have been sent for a person. Otherwise they
	// are sent again, and may arrive twice.
	HoldUnknown bool
	// AllRecipients sends no message of which the server refuses a recipient, whatever
	// the message says.
	AllRecipients bool
	// Brake is how many messages in a row may be refused for good for one reason
	// before the tenant is parked: 5. Negative: any number.
	Brake int
	// Connections are those of the mailbox: 2.
	Connections int
	// Mailbox names the mailbox among all instances, for [SharedLimits]. Empty: it is
	// not shared.
	Mailbox string
	// Limits are the mailbox's, over all instances. Their Drain is the one below.
	Limits MailboxLimits
	// Drain closes the idle connections of the mailbox, as MailboxLimits.Drain. It may
	// be nil.
	Drain func()
}

func (p Policy) withDefaults() Policy {
	if p.Lifetime <= 0 {
		p.Lifetime = 48 * time.Hour
	}
	if p.Brake == 0 {
		p.Brake = 5
	}
	if p.Connections <= 0 {
		p.Connections = 2
	}
	return p
}

// policy returns the rules of a tenant, or the usual ones where there is no such
// tenant.
func (s *Settings) policy(tenant string) (Policy, bool) {
	p, ok := s.Policy(tenant)
	return p.withDefaults(), ok
}

// Hooks are told what becomes of messages, for metrics, events and logs. Any may be
// nil. They are called with no lock held, on the goroutine that does the work, and
// must not keep or change the message. As a message may be tried while its sender
// still hears that it is accepted, Accepted may be called after the others.
type Hooks struct {
	// Accepted is told when a message is stored.
	Accepted func(*Message)
	// Sent is told how long the last try took.
	Sent func(*Message, mailer.Receipt, time.Duration)
	// Deferred is told of a try that failed, after which the message is tried again.
	// That it waits for the mailbox, the tenant or this process is no try.
	Deferred func(*Message, *mailer.Error, time.Duration)
	// Failed is told of a message that was refused, or is too old.
	Failed func(*Message, *mailer.Error, time.Duration)
	// Held is told of a message that may have been sent, and of which a person decides.
	Held func(*Message, *mailer.Error)
	// Lane is told when a lane is parked, paused or resting, and when it is open again.
	Lane func(tenant string, before, now Lane)
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

func (s *Settings) accepted(m *Message) {
	if s.Hooks.Accepted != nil {
		s.call(func() { s.Hooks.Accepted(m) })
	}
}

func (s *Settings) sent(m *Message, r mailer.Receipt, took time.Duration) {
	if s.Hooks.Sent != nil {
		s.call(func() { s.Hooks.Sent(m, r, took) })
	}
}

func (s *Settings) deferred(m *Message, e *mailer.Error, took time.Duration) {
	if s.Hooks.Deferred != nil {
		s.call(func() { s.Hooks.Deferred(m, e, took) })
	}
}

func (s *Settings) failed(m *Message, e *mailer.Error, took time.Duration) {
	if s.Hooks.Failed != nil {
		s.call(func() { s.Hooks.Failed(m, e, took) })
	}
}

func (s *Settings) held(m *Message, e *mailer.Error) {
	if s.Hooks.Held != nil {
		s.call(func() { s.Hooks.Held(m, e) })
	}
}

func (s *Settings) lane(tenant string, before, now Lane) {
	if s.Hooks.Lane != nil {
		s.call(func() { s.Hooks.Lane(tenant, before, now) })
	}
}
