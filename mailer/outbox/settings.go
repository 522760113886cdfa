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
	s.Hooks = s.Hooks.withDefaults()
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
	// Limits are the mailbox's, over all instances.
	Limits MailboxLimits
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
