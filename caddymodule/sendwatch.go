package caddymodule

import (
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// watchedHooks adds to what the log tells of messages that did not come into the outbox:
// the audit log, and what alerts are about.
func (a *App) watchedHooks(h mailer.Hooks) mailer.Hooks {
	sent, failed := h.Sent, h.Failed
	h.Sent = func(s mailer.Submission, r mailer.Receipt, took time.Duration) {
		sent(s, r, took)
		a.auditMessage("message.sent", mailedOf(s), s.From, auditSent(r)...)
		denials.ended(s.Tenant, s.From)
		a.noteVolume(s.Tenant, s.Caller)
	}
	h.Failed = func(s mailer.Submission, e *mailer.Error, took time.Duration) {
		failed(s, e, took)
		m := mailed{id: s.ID, request: s.Caller.Request, tenant: s.Tenant, caller: s.Caller, to: s.Envelope.To}
		a.auditMessage("message.failed", m, s.From, a.auditFailure(e, m.to)...)
		a.noteDenial(s.Tenant, s.From, e)
	}
	return h
}

// watchedHooks does the same for messages in the outbox.
func (s *outboxState) watchedHooks(h outbox.Hooks) outbox.Hooks {
	tell := func(event string, m *outbox.Message, about ...zap.Field) {
		s.app().auditMessage(event, mailedFrom(m), m.From, about...)
	}
	failure := func(event string, m *outbox.Message, e *mailer.Error) {
		a := s.app()
		tell(event, m, a.auditFailure(e, mailedFrom(m).to)...)
		a.noteDenial(m.Tenant, m.From, e)
	}
	accepted, sent, partly, deferred, failed, held, lane := h.Accepted, h.Sent, h.Partly, h.Deferred, h.Failed, h.Held, h.Lane
	h.Accepted = func(m *outbox.Message) {
		accepted(m)
		s.app().noteVolume(m.Tenant, m.Caller)
		tell("message.accepted", m, zap.String("message_id", m.MessageID), zap.Int64("size", m.Size))
	}
	h.Sent = func(m *outbox.Message, r mailer.Receipt, took time.Duration) {
		sent(m, r, took)
		tell("message.sent", m, auditSent(r)...)
		denials.ended(m.Tenant, m.From)
	}
	h.Partly = func(m *outbox.Message, r mailer.Receipt, took time.Duration) {
		partly(m, r, took)
		tell("message.partly_sent", m, zap.String("server", r.Server), zap.String("queue_id", r.QueueID), zap.Int("sent", m.Delivered()))
	}
	h.Deferred = func(m *outbox.Message, e *mailer.Error, took time.Duration) {
		deferred(m, e, took)
		failure("message.deferred", m, e)
	}
	h.Failed = func(m *outbox.Message, e *mailer.Error, took time.Duration) {
		failed(m, e, took)
		failure("message.failed", m, e)
	}
	h.Held = func(m *outbox.Message, e *mailer.Error) {
		held(m, e)
		failure("message.held", m, e)
	}
	h.Lane = func(tenant string, before, now outbox.Lane) {
		lane(tenant, before, now)
		if before.State == outbox.LanePaused && now.State == outbox.LaneOpen {
			processVolumes.release(tenant)
		}
		s.app().watch.poke()
	}
	return h
}

// auditSent is what the audit log says of a message that was sent.
func auditSent(r mailer.Receipt) []zap.Field {
	return []zap.Field{zap.String("server", r.Server), zap.String("queue_id", r.QueueID), zap.String("outcome", "sent")}
}

// auditFailure is what it says of an error.
func (a *App) auditFailure(e *mailer.Error, to []mailer.Address) []zap.Field {
	return []zap.Field{
		zap.String("outcome", e.Kind.String()), zap.String("stage", string(e.Stage)), zap.String("server", e.Server),
		zap.String("reply", unnamed(e.Reply.String(), to)), zap.String("diagnosis", e.Diagnosis().ID),
	}
}

// noteDenial remembers that a mailbox may not send as an address.
func (a *App) noteDenial(tenant string, from mailer.Address, e *mailer.Error) {
	d := e.Diagnosis()
	if e.Stage == mailer.StageAccept || !strings.Contains(d.ID, "send_as") {
		return
	}
	if denials.began(tenant, from, d.ID) {
		a.watch.poke()
	}
}
