package caddymodule

import (
	"cmp"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// mailed is what the logs say of each message.
type mailed struct {
	id, request, tenant string
	caller              mailer.Caller
	from                mailer.Address
	to                  []mailer.Address
	size                int64
	callerName          string // once somebody has asked
}

func mailedOf(s mailer.Submission) mailed {
	m := mailed{id: s.ID, request: s.Caller.Request, tenant: s.Tenant, caller: s.Caller, from: s.From, to: s.Envelope.To}
	if s.Content != nil {
		m.size = s.Content.Size()
	}
	return m
}

// by is the caller.
func (m *mailed) by() string {
	if m.callerName == "" {
		m.callerName = m.caller.String()
	}
	return m.callerName
}

// hooks reports what became of messages that did not come into the outbox: in the log,
// where the addresses of recipients stay out, in the audit log, as metrics, and to what
// looks after them.
func (a *App) hooks() mailer.Hooks {
	return mailer.Hooks{
		Sent: func(s mailer.Submission, r mailer.Receipt, took time.Duration) {
			a.count(s.Tenant, resultSent, true)
			a.countRecipients(s.Tenant, r)
			measure(resultSent, took)
			m := mailedOf(s)
			messageSize.Observe(float64(m.size))
			a.logSent(&m, r, took, 0)
			denials.ended(s.Tenant, s.From)
			a.noteVolume(s.Tenant, s.Caller)
		},
		Failed: func(s mailer.Submission, e *mailer.Error, took time.Duration) {
			tried := e.Stage != mailer.StageAccept
			a.count(s.Tenant, resultFailed, tried)
			if tried {
				a.countFailure(s.Tenant, e)
				measure(resultFailed, took)
			}
			m := mailedOf(s)
			a.logger.Warn("message not sent", append(m.failure(e), "duration", took)...)
			a.auditMessage("message.failed", func() (*mailed, zapcore.ObjectMarshaler) { return &m, auditFailure(e, m.to) })
			a.noteDenial(s.Tenant, s.From, e)
		},
		FailedOver: func(from, to string, e *mailer.Error) {
			a.logger.Error("a tenant cannot send; its mail goes to its failover tenant until it can",
				"tenant", from, "failover", to, "stage", string(e.Stage), "kind", e.Kind.String(), "server", e.Server,
				"reply", e.Reply.String(), "diagnosis", e.Diagnosis().ID, "cause", cause(e))
		},
		BackAgain: func(tenant string) {
			a.logger.Warn("a tenant can send again, and does", "tenant", tenant)
		},
	}
}

// failure is what the log says of a message that failed.
func (m *mailed) failure(e *mailer.Error) []any {
	about := []any{
		"id", m.id, "request_id", m.request, "tenant", m.tenant, "caller", m.by(),
		"stage", string(e.Stage), "kind", e.Kind.String(), "code", cmp.Or(mailProblem(e).code, e.Code), "server", e.Server,
		"reply", unnamed(e.Reply.String(), m.to), "diagnosis", e.Diagnosis().ID, "cause", unnamed(cause(e), m.to),
	}
	if m.caller.Trace != "" {
		about = append(about, "trace_id", m.caller.Trace)
	}
	return about
}

// logRefused tells which recipients of a message the server refused while it
// took others: how many, each reply once.
func (a *App) logRefused(m *mailed, r mailer.Receipt) {
	type refusal struct{ reply, diagnosis string }
	var order []refusal
	refused := map[refusal]int{}
	for _, o := range r.Recipients {
		if o.Kind == mailer.KindNone {
			continue
		}
		k := refusal{unnamed(o.Reply.String(), m.to), o.Diagnosis(r.Server).ID}
		if refused[k] == 0 {
			order = append(order, k)
		}
		refused[k]++
	}
	for _, k := range order {
		a.logger.Warn("recipients refused; the others get the message", "id", m.id, "request_id", m.request, "tenant", r.Tenant,
			"refused", refused[k], "server", r.Server, "reply", k.reply, "diagnosis", k.diagnosis)
	}
}

// unnamed takes the addresses of recipients out of a server's words.
func unnamed(text string, to []mailer.Address) string {
	if !strings.Contains(text, "@") {
		return text
	}
	quoted := make([]string, len(to))
	for i, a := range to {
		quoted[i] = regexp.QuoteMeta(a.Mailbox())
	}
	names, err := regexp.Compile("(?i)" + strings.Join(quoted, "|"))
	if err != nil || len(to) == 0 {
		return text
	}
	return names.ReplaceAllLiteralString(text, "(recipient)")
}

// logPace tells when a mail server slows a mailbox down, and when it is well
// again.
func (a *App) logPace(tenant string, c mailer.PaceChange) {
	if c.Cause == nil {
		a.logger.Info("the mailbox sends at full speed again", "tenant", tenant, "slow_for", c.Slow)
		return
	}
	a.events.emit("mail_limit_reached", map[string]any{
		"tenant": tenant, "server": c.Cause.Server, "reply": c.Cause.Reply.String(), "diagnosis": c.Cause.Diagnosis().ID, "pause_seconds": int(c.Pause.Seconds()),
	})
	a.logger.Warn("the mail server asks for less mail from this mailbox; it rests, and then sends more slowly for a while",
		"tenant", tenant, "server", c.Cause.Server, "reply", c.Cause.Reply.String(), "diagnosis", c.Cause.Diagnosis().ID, "pause", c.Pause)
}

// cause is why a message was not sent, unless that was the message: what a
// caller wrote stays out of the log, but for a sender that it may not use.
func cause(e *mailer.Error) string {
	if e.Err == nil {
		return ""
	}
	switch e.Code {
	case outbox.CodeFull, outbox.CodeUnavailable, outbox.CodeTenantGone, outbox.CodeExpired:
		return e.Err.Error()
	}
	if e.Stage == mailer.StageAccept && e.Kind != mailer.KindSender {
		return ""
	}
	return e.Err.Error()
}

// logTest tells how a connection test ended.
func (a *App) logTest(v mailer.Verdict, by string) {
	about := []any{"tenant", v.Tenant, "by", by, "ok", v.Err == nil, "failed_stage", string(v.FailedStage())}
	if v.Err != nil {
		about = append(about, "diagnosis", v.Err.Diagnosis().ID, "error", v.Err.Error())
	}
	a.logger.Info("connection test", about...)
}
