package caddymodule

import (
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// messageFact is a line of the audit log about a message. Of most there are two, so that
// it matters what they cost: it writes its fields itself.
type messageFact struct {
	app   *App
	event string
	*mailed
	about zapcore.ObjectMarshaler
}

// auditMessage notes what has become of a message. Fact has the message, and what is to
// be said beside what is said of each; it is asked only where somebody listens.
func (a *App) auditMessage(event string, fact func() (*mailed, zapcore.ObjectMarshaler)) {
	if a.auditLog.logger == nil {
		return
	}
	if entry := a.auditLog.logger.Check(zap.InfoLevel, event); entry != nil {
		m, about := fact()
		entry.Write(zap.Inline(&messageFact{a, event, m, about}))
	}
}

// MarshalLogObject writes the fields of the line.
func (l *messageFact) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("event", l.event)
	e.AddString("id", l.id)
	e.AddString("request_id", l.request)
	e.AddString("tenant", l.tenant)
	e.AddString("by", l.by())
	e.AddString("from", l.from.Mailbox())
	if l.caller.Addr.IsValid() {
		e.AddString("remote_ip", l.caller.Addr.String())
	}
	e.AddInt("recipients", len(l.to))
	if said := l.app.auditRecipients(l.to); said != nil {
		zap.Strings("to", said).AddTo(e)
	}
	return l.about.MarshalLogObject(e)
}

// auditRecipients is what the policy lets the audit log say of recipients; nil for
// nothing.
func (a *App) auditRecipients(to []mailer.Address) []string {
	if len(to) == 0 || a.auditLog.recipients == auditDrop {
		return nil
	}
	said := make([]string, len(to))
	for i, address := range to {
		switch a.auditLog.recipients {
		case auditFull:
			said[i] = address.Mailbox()
		case auditDomain:
			said[i] = address.Domain
		case auditHash:
			said[i] = a.pseudonym(address)
		}
	}
	if a.auditLog.recipients == auditDomain {
		slices.Sort(said)
		said = slices.Compact(said)
	}
	return said
}

// auditAccepted is what the audit log says of a message that came into the outbox.
type auditAccepted struct{ *outbox.Message }

// MarshalLogObject writes the fields that are not those of each message.
func (m auditAccepted) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("message_id", m.MessageID)
	e.AddInt64("size", m.Size)
	return nil
}

// auditFailure is what the audit log says of an error.
func auditFailure(e *mailer.Error, to []mailer.Address) zapcore.ObjectMarshaler {
	return zap.DictObject(
		zap.String("outcome", e.Kind.String()), zap.String("stage", string(e.Stage)), zap.String("server", e.Server),
		zap.String("reply", unnamed(e.Reply.String(), to)), zap.String("diagnosis", e.Diagnosis().ID),
	)
}
