package caddymodule

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// sent is the answer to a message that was accepted.
type sent struct {
	ID        string `json:"id"`
	MessageID string `json:"message_id"`
	// Status is "sent", "queued" or "scheduled".
	Status string `json:"status"`
	// Tenant is the one that the message goes by, where the key may use several.
	Tenant string `json:"tenant,omitempty"`
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
	v := sent{ID: r.ID, MessageID: r.MessageID, Tenant: request.tenant, Status: string(r.Status), Staging: r.Deliver.String()}
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
		v.tellCause(r, request, l)
	}
	v.Warnings = request.warnings
	return v
}

// tellCause says why a message is not sent yet, who has to do what, and that its
// sender has nothing to do.
func (v *sent) tellCause(r mailer.Receipt, request *emailRequest, l diagnosis.Language) {
	e := r.Cause
	if e.Stage == mailer.StageAccept {
		switch e.Code {
		case outbox.CodePaused:
			request.warn(waits.in(l) + operatorPaused.in(l))
			return
		case outbox.CodeBusy:
			request.warn(waits.in(l) + tooManyWait.in(l))
			return
		}
	}
	v.SMTP = newSMTPReply(e.Stage, e.Reply)
	advice := e.Diagnosis().Advice(l)
	begin, then := waits.in(l), goesAgain.in(l)
	switch {
	case e.Kind == mailer.KindUnknown && r.Due.IsZero():
		begin, then = "", heldForever.in(l)
	case e.Kind == mailer.KindUnknown:
		begin, then = "", goesTwice.in(l)
	case r.Server != "": // it took the message for some
		begin = fmt.Sprintf(partlySent.in(l), taken(r.Recipients))
	}
	switch advice.Who {
	case diagnosis.WhoSender, diagnosis.WhoNobody:
		advice.Do = []string{then} // what a sender without an outbox would do
	default:
		advice.Do = append(slices.Clone(advice.Do), then)
	}
	v.Diagnosis = &advice
	who := " (" + string(advice.Who) + ") "
	if l == diagnosis.Japanese {
		who = "（対応者：" + string(advice.Who) + "）"
	}
	request.warn(begin + advice.Meaning + who + strings.Join(advice.Do, " "))
}

// taken counts the recipients for whom a server took a message.
func taken(all []mailer.RecipientOutcome) int {
	n := 0
	for _, o := range all {
		if o.Kind == mailer.KindNone {
			n++
		}
	}
	return n
}

// wording is a sentence for senders.
type wording struct{ english, japanese string }

func (w wording) in(l diagnosis.Language) string {
	if l == diagnosis.Japanese {
		return w.japanese
	}
	return w.english
}

var (
	waits = wording{
		"The message is not sent yet, and waits in the outbox. ",
		"メールはまだ送信されておらず、送信待ちです。",
	}
	partlySent = wording{
		"The message went to %d of its recipients; the others are tried again. ",
		"メールは宛先のうち %d 件に送信されました。残りの宛先には再送されます。",
	}
	operatorPaused = wording{
		"The operator of this server has paused the messages of this tenant, and must resume them; then it goes. Do not send it again.",
		"このサーバーの管理者が、このテナントの送信を一時停止しています。再開されると送信されます。送り直さないでください。",
	}
	tooManyWait = wording{
		"Too many requests wait for what becomes of their messages, so this one does not; its message is sent as any other. Do not send it again.",
		"結果を待っているリクエストが多すぎるため、結果を待たずに応答しました。メールは通常どおり送信されます。送り直さないでください。",
	}
	goesAgain = wording{
		"This server sends it again; do not send it again yourself.",
		"このサーバーが自動で再送します。送り直さないでください。",
	}
	goesTwice = wording{
		"This server sends it again, so it may arrive twice; do not send it again yourself.",
		"このサーバーが自動で再送するため、二重に届くことがあります。送り直さないでください。",
	}
	heldForever = wording{
		"This server holds it, and never sends it again by itself: its operator must find out whether it arrived, and then retry it or cancel it. Do not send it again before that.",
		"このサーバーはメールを保留しており、自動では再送しません。届いたかどうかを管理者が確認し、再送するか取り消す必要があります。それまで送り直さないでください。",
	}
)
