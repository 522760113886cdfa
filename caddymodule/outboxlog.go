package caddymodule

import (
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func mailedFrom(m *outbox.Message) mailed {
	to := make([]mailer.Address, len(m.Recipients))
	for i, r := range m.Recipients {
		to[i] = r.Address
	}
	return mailed{m.ID, m.Caller.Request, m.Tenant, m.Caller, to, m.Size}
}

// outboxHooks reports what becomes of messages in the outbox: in the log, without
// their recipients, as metrics, and as events.
func (a *App) outboxHooks() outbox.Hooks {
	return outbox.Hooks{
		Accepted: func(m *outbox.Message) {
			a.full.Store(false)
			a.count(m.Tenant, resultAccepted, false)
			a.logger.Debug("message accepted", "id", m.ID, "request_id", m.Caller.Request, "tenant", m.Tenant, "caller", m.Caller.String(),
				"recipients", len(m.Recipients), "size", m.Size, "state", string(m.State), "due", m.Due)
		},
		Sent: func(m *outbox.Message, r mailer.Receipt, took time.Duration) {
			a.count(m.Tenant, resultSent, true)
			a.logSent(mailedFrom(m), r, took)
		},
		Deferred: func(m *outbox.Message, e *mailer.Error, took time.Duration) {
			a.countAttempt(m.Tenant, resultDeferred)
			about := append(mailedFrom(m).failure(e), "attempts", m.Attempts, "next", m.Due, "expires", m.Expires, "duration", took)
			a.logger.Warn("message waits for another try", about...)
			if m.Attempts <= 1 { // once for each message
				a.events.emit("mail_deferred", a.eventOf(m, e))
			}
		},
		Failed: func(m *outbox.Message, e *mailer.Error, took time.Duration) {
			result := resultFailed
			if e.Code == codeExpired {
				result = resultExpired
			}
			a.count(m.Tenant, result, result == resultFailed)
			a.logger.Warn("message not sent", append(mailedFrom(m).failure(e), "attempts", m.Attempts, "duration", took)...)
			a.events.emit("mail_failed", a.eventOf(m, e))
		},
		Held: func(m *outbox.Message, e *mailer.Error) {
			a.count(m.Tenant, resultHeld, true)
			a.logger.Error("a message may have been sent, and is held until a person decides; retry it or cancel it with the administration's calls",
				append(mailedFrom(m).failure(e), "call", "POST /outbox/messages/"+m.ID+"/retry")...)
			a.events.emit("mail_failed", a.eventOf(m, e))
		},
		Lane: a.laneChanged,
	}
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
		a.logger.Error("the messages of a tenant wait until somebody acts", append(about, "call", "POST /outbox/tenants/"+name+"/resume")...)
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

// logNotAccepted tells of a message that did not come into the outbox; nothing if
// err says anything else.
func (a *App) logNotAccepted(s mailer.Submission, err error) {
	e, _ := err.(*mailer.Error) //nolint:errorlint // the mailer's own, as it promises
	if e == nil || e.Stage != mailer.StageAccept {
		return
	}
	m := mailedOf(s)
	switch e.Code {
	case codeOutboxFull, codeOutboxUnavailable:
		a.logger.Error("message not accepted", append(m.failure(e), "error", e.Err)...)
	case codeConcurrent, codeOtherRequest:
		a.logger.Info("message not accepted", m.failure(e)...)
	}
	if e.Code == codeOutboxFull && !a.full.Swap(true) { // once, until a message is accepted again
		a.events.emit("mail_outbox_full", map[string]any{"engine": a.engineName})
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
