package caddymodule

import (
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// sent is the answer to a message that was accepted.
type sent struct {
	ID        string `json:"id"`
	MessageID string `json:"message_id"`
	// Status is "sent", "queued" or "scheduled".
	Status string `json:"status"`
	// ScheduledAt is when a scheduled message goes, and NextTryAt when one that is
	// queued is tried next, where that is known.
	ScheduledAt *time.Time `json:"scheduled_at,omitempty"`
	NextTryAt   *time.Time `json:"next_try_at,omitempty"`
	// Staging is "none" or an address where the message went in place of its
	// recipients.
	Staging  string     `json:"staging,omitempty"`
	Rejected []rejected `json:"rejected,omitempty"`
	// SMTP and Diagnosis tell why a message was not sent yet.
	SMTP      *smtpReply        `json:"smtp,omitempty"`
	Diagnosis *diagnosis.Advice `json:"diagnosis,omitempty"`
	Warnings  []string          `json:"warnings,omitempty"`
}

// rejected is a recipient that the mail server refused while it took others.
type rejected struct {
	Address   string           `json:"address"`
	SMTP      *smtpReply       `json:"smtp"`
	Diagnosis diagnosis.Advice `json:"diagnosis"`
}

func newSent(r mailer.Receipt, request *emailRequest, l diagnosis.Language) sent {
	v := sent{ID: r.ID, MessageID: r.MessageID, Status: string(r.Status), Staging: r.Deliver.String()}
	for _, o := range r.Recipients {
		// Those who were refused for now are still tried.
		if o.Kind != mailer.KindNone && (r.Status == mailer.StatusSent || o.Kind.Outcome() == mailer.Dead) {
			v.Rejected = append(v.Rejected, rejected{
				Address: o.Address.Mailbox(), SMTP: newSMTPReply(mailer.StageRcpt, o.Reply),
				Diagnosis: o.Diagnosis(r.Server).Advice(l),
			})
		}
	}
	switch r.Status {
	case mailer.StatusScheduled:
		v.ScheduledAt = given(r.Due.UTC())
	case mailer.StatusQueued:
		v.NextTryAt = given(r.Due.UTC())
	case mailer.StatusSent:
	}
	if r.Cause != nil {
		v.tellCause(r.Cause, request, l)
	}
	v.Warnings = request.warnings
	return v
}

// tellCause says why a message is not sent yet, and who has to do what.
func (v *sent) tellCause(e *mailer.Error, request *emailRequest, l diagnosis.Language) {
	if e.Stage == mailer.StageAccept { // an operator has paused the tenant
		request.warn(waits(l) + operatorPaused(l))
		return
	}
	v.SMTP = newSMTPReply(e.Stage, e.Reply)
	advice := e.Diagnosis().Advice(l)
	v.Diagnosis = &advice
	begin := waits(l)
	if e.Kind == mailer.KindUnknown {
		begin = "" // it may have been sent, as the diagnosis says
	}
	do := strings.Join(advice.Do, " ")
	if l == diagnosis.Japanese {
		request.warn(begin + advice.Meaning + "（対応者：" + string(advice.Who) + "）" + do)
		return
	}
	request.warn(begin + advice.Meaning + " (" + string(advice.Who) + ") " + do)
}

func waits(l diagnosis.Language) string {
	if l == diagnosis.Japanese {
		return "メールはまだ送信されておらず、送信待ちです。"
	}
	return "The message is not sent yet, and waits in the outbox. "
}

func operatorPaused(l diagnosis.Language) string {
	if l == diagnosis.Japanese {
		return "このサーバーの管理者が、このテナントの送信を一時停止しています。"
	}
	return "The operator of this server has paused the messages of this tenant, and must resume them."
}
