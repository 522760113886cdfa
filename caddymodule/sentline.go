package caddymodule

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// sentLine is a line of the log about a message that was sent. As there is one for
// nearly every message, it matters what it costs: it writes its fields itself.
type sentLine struct {
	*mailed
	// tenant is the one that served the message.
	tenant, server, queueID string
	// deliver is where it went in place of its recipients; empty where it did not.
	deliver  string
	took     time.Duration
	attempts int // zero without an outbox
}

// logSent tells in the logs that a message was sent, with the tries that it took where
// there is an outbox.
func (a *App) logSent(m *mailed, r mailer.Receipt, took time.Duration, attempts int) {
	a.logRefused(m, r)
	line := &sentLine{m, r.Tenant, r.Server, r.QueueID, r.Deliver.String(), took, attempts}
	what := "message sent"
	if line.deliver != "" {
		what = "message not delivered to its recipients: staging"
	}
	writeLine(a.lines, what, line)
	a.auditMessage("message.sent", func() (*mailed, zapcore.ObjectMarshaler) { return m, auditSent{line} })
}

// writeLine writes a line with its fields; nil is for a log that there is not.
func writeLine(to *zap.Logger, what string, line zapcore.ObjectMarshaler) {
	if to == nil {
		return
	}
	if entry := to.Check(zap.InfoLevel, what); entry != nil {
		entry.Write(zap.Inline(line))
	}
}

// MarshalLogObject writes the fields of the line.
func (l *sentLine) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("id", l.id)
	e.AddString("request_id", l.request)
	e.AddString("tenant", l.tenant)
	e.AddString("caller", l.by())
	e.AddInt("recipients", len(l.to))
	e.AddInt64("size", l.size)
	e.AddString("server", l.server)
	e.AddString("queue_id", l.queueID)
	e.AddDuration("duration", l.took)
	if l.caller.Trace != "" {
		e.AddString("trace_id", l.caller.Trace)
	}
	if l.attempts > 0 {
		e.AddInt("attempts", l.attempts)
	}
	if l.deliver != "" {
		e.AddString("deliver", l.deliver)
	}
	return nil
}

// auditSent is what the audit log says of a message that was sent.
type auditSent struct{ line *sentLine }

// MarshalLogObject writes the fields that are not those of each message.
func (s auditSent) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("server", s.line.server)
	e.AddString("queue_id", s.line.queueID)
	e.AddString("outcome", "sent")
	return nil
}
