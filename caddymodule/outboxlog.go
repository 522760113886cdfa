package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func mailedFrom(m *outbox.Message) *mailed {
	to := make([]mailer.Address, len(m.Recipients))
	for i, r := range m.Recipients {
		to[i] = r.Address
	}
	return &mailed{m.ID, m.Caller.Request, m.Tenant, m.Caller, m.From, to, m.Size, ""}
}

// hooks report what becomes of messages in the outbox to the configuration in force:
// in its log, without their recipients, in its audit log, as metrics, as events, and to
// what looks after them.
func (s *outboxState) hooks() outbox.Hooks {
	return outbox.Hooks{
		Accepted: func(m *outbox.Message) {
			s.accepts()
			a := s.app()
			a.memory.accepted(m.ID)
			a.accepted(m)
		},
		Sent: func(m *outbox.Message, r mailer.Receipt, took time.Duration) {
			a := s.app()
			a.count(m.Tenant, resultSent, true)
			a.countRecipients(m.Tenant, r)
			measure(resultSent, took)
			a.logSent(mailedFrom(m), r, took, m.Attempts)
			denials.ended(m.Tenant, m.From)
		},
		Partly:      func(m *outbox.Message, r mailer.Receipt, took time.Duration) { s.app().sentPartly(m, r, took) },
		Interrupted: func(m *outbox.Message) { s.app().interrupted(m) },
		Deferred:    func(m *outbox.Message, e *mailer.Error, took time.Duration) { s.app().deferred(m, e, took) },
		Failed:      func(m *outbox.Message, e *mailer.Error, took time.Duration) { s.app().failed(m, e, took) },
		Held:        func(m *outbox.Message, e *mailer.Error) { s.app().held(m, e) },
		Lane: func(tenant string, before, now outbox.Lane) {
			a := s.app()
			a.laneChanged(tenant, before, now)
			if before.State == outbox.LanePaused && now.State == outbox.LaneOpen {
				processVolumes.release(tenant)
			}
			a.watch.poke()
		},
	}
}

func (a *App) accepted(m *outbox.Message) {
	a.count(m.Tenant, resultAccepted, false)
	messageSize.Observe(float64(m.Size))
	if a.logger.Enabled(context.Background(), slog.LevelDebug) { // it nearly never is
		a.logger.Debug("message accepted", "id", m.ID, "request_id", m.Caller.Request, "tenant", m.Tenant, "caller", m.Caller.String(),
			"recipients", len(m.Recipients), "size", m.Size, "state", string(m.State), "due", m.Due)
	}
	a.noteVolume(m.Tenant, m.Caller)
	a.auditMessage("message.accepted", func() (*mailed, zapcore.ObjectMarshaler) { return mailedFrom(m), auditAccepted{m} })
}

// sentPartly tells of a try by which some got the message; of the others, deferred.
func (a *App) sentPartly(m *outbox.Message, r mailer.Receipt, took time.Duration) {
	a.countAttempt(m.Tenant, resultSent)
	a.countRecipients(m.Tenant, r)
	measure(resultSent, took)
	a.logger.Info("message sent to some of its recipients; the others are tried again", "id", m.ID, "request_id", m.Caller.Request,
		"tenant", r.Tenant, "caller", m.Caller.String(), "recipients", len(m.Recipients), "sent", m.Delivered(), "size", m.Size,
		"server", r.Server, "queue_id", r.QueueID, "attempts", m.Attempts, "duration", took)
	a.auditMessage("message.partly_sent", func() (*mailed, zapcore.ObjectMarshaler) {
		return mailedFrom(m), zap.DictObject(zap.String("server", r.Server), zap.String("queue_id", r.QueueID), zap.Int("sent", m.Delivered()))
	})
}

// interrupted tells of a message that was being sent when a process ended, before it is
// sent again.
func (a *App) interrupted(m *outbox.Message) {
	a.countAttempt(m.Tenant, resultInterrupted)
	e := m.Failure.Err()
	a.logger.Warn("a message was being sent when this server ended; it is sent again, and may arrive twice",
		append(mailedFrom(m).failure(e), "message_id", m.MessageID, "attempts", m.Attempts)...)
	a.events.emit("mail_deferred", a.eventOf(m, e))
}

func (a *App) deferred(m *outbox.Message, e *mailer.Error, took time.Duration) {
	a.countAttempt(m.Tenant, resultDeferred)
	a.countFailure(m.Tenant, e)
	measure(resultDeferred, took)
	about := append(mailedFrom(m).failure(e), "attempts", m.Attempts, "next", m.Due, "expires", m.Expires, "duration", took)
	a.logger.Warn("message waits for another try", about...)
	if m.Attempts <= 1 { // once for each message
		a.events.emit("mail_deferred", a.eventOf(m, e))
	}
	a.auditTrouble("message.deferred", m, e)
}

func (a *App) failed(m *outbox.Message, e *mailer.Error, took time.Duration) {
	result := resultFailed
	if e.Code == outbox.CodeExpired {
		result = resultExpired
	}
	a.count(m.Tenant, result, result == resultFailed)
	if result == resultFailed {
		a.countFailure(m.Tenant, e)
		measure(result, took)
	}
	about := append(mailedFrom(m).failure(e), "attempts", m.Attempts, "duration", took)
	if n := m.Delivered(); n > 0 {
		a.logger.Warn("message not sent to some of its recipients; the others have it", append(about, "recipients", len(m.Recipients), "sent", n)...)
	} else {
		a.logger.Warn("message not sent", about...)
	}
	a.events.emit("mail_failed", a.eventOf(m, e))
	a.auditTrouble("message.failed", m, e)
}

func (a *App) held(m *outbox.Message, e *mailer.Error) {
	a.count(m.Tenant, resultHeld, true)
	a.countFailure(m.Tenant, e)
	a.logger.Error("a message may have been sent, and is held until a person decides; retry it or cancel it with the administration's calls",
		append(mailedFrom(m).failure(e), "call", "POST /outbox/messages/"+m.ID+"/retry")...)
	a.events.emit("mail_failed", a.eventOf(m, e))
	a.auditTrouble("message.held", m, e)
}

// auditTrouble notes in the audit log what keeps a message from being sent, and whether
// that is its sender.
func (a *App) auditTrouble(event string, m *outbox.Message, e *mailer.Error) {
	a.auditMessage(event, func() (*mailed, zapcore.ObjectMarshaler) {
		about := mailedFrom(m)
		return about, auditFailure(e, about.to)
	})
	a.noteDenial(m.Tenant, m.From, e)
}

// openingCall is the call of the administration that lets the messages of a tenant go.
func (a *App) openingCall(ctx context.Context, tenant string, l outbox.Lane) string {
	if account, waits := waitsForSignIn(ctx, a.registry.load().tenants[tenant], l); waits {
		return authorizeCall(account)
	}
	return "POST /outbox/tenants/" + tenant + "/resume"
}

// laneChanged tells when the messages of a tenant wait, and when no longer.
func (a *App) laneChanged(name string, before, now outbox.Lane) {
	about := []any{"tenant", name}
	if f := now.Failure; f != nil {
		e := f.Err()
		d := e.Diagnosis()
		about = append(about, "stage", string(f.Stage), "kind", f.Kind.String(), "server", f.Server, "reply", f.Reply.String(),
			"diagnosis", d.ID, "who", string(d.Who), "cause", cause(e))
	}
	if !now.Until.IsZero() {
		about = append(about, "next", now.Until)
	}
	switch now.State {
	case outbox.LaneParked:
		ctx, cancel := context.WithTimeout(context.Background(), metricsWait)
		defer cancel()
		a.logger.Error("the messages of a tenant wait until somebody acts", append(about, "call", a.openingCall(ctx, name, now))...)
		if now.Failure != nil && before.State != outbox.LaneParked {
			e := now.Failure.Err()
			d := e.Diagnosis()
			a.events.emit("mail_parked", map[string]any{
				"tenant": name, "stage": string(e.Stage), "kind": e.Kind.String(), "server": e.Server,
				"reply": e.Reply.String(), "diagnosis": d.ID, "who": string(d.Who),
			})
		}
	case outbox.LaneResting:
		level := a.logger.Info
		if before.State == outbox.LaneOpen {
			level = a.logger.Warn
		}
		level("the messages of a tenant wait for a while", about...)
	case outbox.LanePaused:
		a.logger.Warn("the messages of a tenant wait: an operator has paused it", append(about, "by", now.By)...)
	case outbox.LaneOpen:
		a.logger.Info("the messages of a tenant are sent again", append(about, "was", string(before.State))...)
	}
}

// notAccepted tells of a message that did not come into the outbox; nothing if err
// says anything else.
func (s *outboxState) notAccepted(by *App, about *mailed, err error) {
	e, _ := err.(*mailer.Error) //nolint:errorlint // the mailer's own, as it promises
	if e == nil || e.Stage != mailer.StageAccept {
		return
	}
	switch e.Code {
	case outbox.CodeFull, outbox.CodeUnavailable:
		s.refuses(by, e)
	case outbox.CodeUncertain:
		by.logger.Error("the storage of the outbox does not answer; a message is accepted, or not", about.failure(e)...)
		return
	case outbox.CodeConcurrent, outbox.CodeOtherRequest:
	default:
		return
	}
	by.logger.Info("message not accepted", about.failure(e)...)
}

// refuses tells, once until a message is accepted again, that none is.
func (s *outboxState) refuses(by *App, e *mailer.Error) {
	if errors.Is(e, context.Canceled) {
		return // its sender has gone away
	}
	if before := s.refusing.Swap(&e.Code); before != nil && *before == e.Code {
		return
	}
	a := cmp.Or(s.app(), by)
	a.logger.Error("the outbox takes no messages; senders are told", "outbox", s.key, "code", e.Code, "error", e.Err)
	if e.Code == outbox.CodeFull {
		a.events.emit("mail_outbox_full", map[string]any{"engine": a.engineName})
	}
}

// accepts notes that a message was accepted.
func (s *outboxState) accepts() {
	if s.refusing.Load() == nil {
		return
	}
	if code := s.refusing.Swap(nil); code != nil {
		s.app().logger.Warn("the outbox takes messages again", "outbox", s.key, "was", *code)
	}
}

// eventOf is what an event says of a message: plain values, no recipients.
func (a *App) eventOf(m *outbox.Message, e *mailer.Error) map[string]any {
	about := mailedFrom(m)
	d := e.Diagnosis()
	v := map[string]any{
		"id": m.ID, "message_id": m.MessageID, "tenant": m.Tenant, "caller": m.Caller.String(), "state": string(m.State),
		"attempts": m.Attempts, "recipients": len(m.Recipients), "stage": string(e.Stage), "kind": e.Kind.String(),
		"code": mailProblem(e).code, "server": e.Server, "reply": unnamed(e.Reply.String(), about.to),
		"diagnosis": d.ID, "who": string(d.Who),
	}
	if !m.Due.IsZero() {
		v["next"] = m.Due.Format(time.RFC3339)
	}
	return v
}
