package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// The names of errors. They are Resend's: its SDKs map them to types of their
// own, and fail on others.
const (
	nameValidation            = "validation_error"
	nameMissingField          = "missing_required_field"
	nameInvalidFrom           = "invalid_from_address"
	nameInvalidAttachment     = "invalid_attachment"
	nameInvalidIdempotencyKey = "invalid_idempotency_key"
	nameConcurrentRequests    = "concurrent_idempotent_requests"
	nameInvalidRequest        = "invalid_idempotent_request"
	nameMissingKey            = "missing_api_key"
	nameInvalidKey            = "invalid_api_key"
	nameRestrictedKey         = "restricted_api_key"
	nameNotFound              = "not_found"
	nameMethodNotAllowed      = "method_not_allowed"
	nameRateLimit             = "rate_limit_exceeded"
	nameDailyQuota            = "daily_quota_exceeded"
	nameSecurity              = "security_error"
	nameApplication           = "application_error"
	nameInternal              = "internal_server_error"
)

// problem is an answer that says what is wrong, whose job it is and what to do.
// It is an error, so that what finds the problem can return it.
type problem struct {
	status  int
	name    string
	message string
	// id and messageID are the message's, as in the log, once it was accepted.
	id, messageID string
	// code refines name for programs.
	code string
	// field is the field of the request that is at fault.
	field string
	smtp  *smtpReply
	// diagnosis is of a failure at the mail server or on the way there.
	diagnosis *diagnosis.Diagnosis
	// retryAfter is when a repetition has a chance; zero says nothing.
	retryAfter time.Duration
	// accepted are the messages of a batch that were accepted all the same.
	accepted []sent
}

func (p *problem) Error() string { return p.message }

// refuse makes a problem of a status, a name, a code that refines it (or none)
// and a message.
func refuse(status int, name, code, message string) *problem {
	return &problem{status: status, name: name, code: code, message: message}
}

// smtpReply is a mail server's reply in an answer.
type smtpReply struct {
	Code     int    `json:"code"`
	Enhanced string `json:"enhanced,omitempty"`
	Text     string `json:"text"`
	Stage    string `json:"stage"`
}

func newSMTPReply(stage mailer.Stage, r mailer.Reply) *smtpReply {
	if r.Code == 0 {
		return nil
	}
	return &smtpReply{Code: r.Code, Enhanced: r.Enhanced.String(), Text: r.Text, Stage: string(stage)}
}

// missing is a required field that is not there.
func missing(field string) error {
	return &problem{
		status: http.StatusUnprocessableEntity, name: nameMissingField, code: "missing", field: field,
		message: "The field `" + field + "` is missing.",
	}
}

// invalid is a field whose value cannot be used.
func invalid(field, code, format string, args ...any) error {
	message := fmt.Sprintf(format, args...) + "."
	if field == "" {
		message = capitalized(message)
	} else {
		message = "The field `" + field + "`: " + message
	}
	return &problem{status: http.StatusUnprocessableEntity, name: nameValidation, code: code, field: field, message: message}
}

// badAttachment is an attachment that cannot be used.
func badAttachment(field, code, message string) error {
	p := refuse(http.StatusUnprocessableEntity, nameInvalidAttachment, code, message)
	p.field = field
	return p
}

// badJSON is a body that is no JSON, or not of the expected shape.
func badJSON(field, what string) error {
	subject := "The body"
	if field != "" {
		subject = "The field `" + field + "`"
	}
	return &problem{
		status: http.StatusBadRequest, name: nameValidation, code: "bad_json", field: field,
		message: subject + " " + what + ".",
	}
}

// toProblem makes the answer to an error.
func toProblem(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if e, ok := errors.AsType[*mailer.Error](err); ok {
		return mailProblem(e)
	}
	return &problem{
		status: http.StatusInternalServerError, name: nameInternal,
		message: "Something went wrong in this server; its log says what. The message was not sent.",
	}
}

// mailProblem makes the answer to a message that was not sent.
func mailProblem(e *mailer.Error) *problem {
	if p := outboxProblem(e); p != nil {
		return p
	}
	p := &problem{
		status: http.StatusUnprocessableEntity, name: nameValidation, code: e.Code, field: e.Field,
		smtp: newSMTPReply(e.Stage, e.Reply), retryAfter: e.RetryAfter,
	}
	if e.Stage != mailer.StageAccept {
		d := e.Diagnosis()
		p.diagnosis = &d
	}
	switch e.Kind {
	case mailer.KindInvalid:
		if e.Code == "recipient_not_allowed" {
			p.status = http.StatusForbidden
		}
		invalidProblem(p, e)
	case mailer.KindSender:
		p.status, p.code = http.StatusForbidden, "sender_not_allowed"
		p.message = "You may not send from that address" + because(e) + ". Use an allowed sender, or have the operator add it to the tenant's `senders`."
	case mailer.KindRejected:
		p.code = "upstream_rejected"
		p.message = "The mail server refused the message for good" + said(e) + ". Sending it again unchanged will not help."
		if e.Code == "over_upstream_size" {
			p.name, p.code = nameInvalidAttachment, e.Code
			p.message = "The message is larger than the mail server takes" + because(e) + "; attachments grow by a third on their way. Send smaller ones, or links."
		}
		if p.diagnosis != nil && slices.Contains(senderBlocked, p.diagnosis.ID) {
			p.status, p.name, p.code = http.StatusUnavailableForLegalReasons, nameSecurity, "sender_blocked"
			p.message = "The mail service has blocked the sender" + said(e) + ". Nothing was sent, and nothing is until the block is lifted: see the diagnosis."
		}
	case mailer.KindTemporary, mailer.KindThrottled:
		laterProblem(p, e)
	case mailer.KindUnauthorized, mailer.KindConfig:
		signInProblem(p, e)
	case mailer.KindUnknown:
		p.status, p.name, p.code = http.StatusGatewayTimeout, nameApplication, "delivery_unknown"
		p.message = "The connection broke after the whole message was handed over, before the mail server confirmed it. It may have been sent: look before sending it again."
	default:
		p.status, p.name = http.StatusInternalServerError, nameInternal
		p.message = "Something went wrong in this server; its log says what."
	}
	return p
}

// senderBlocked are the diagnoses of a mailbox or an organization that its mail service
// lets send no more, since it took what came for spam.
var senderBlocked = []string{
	"exchange.bad_outbound_sender", "exchange.spam_abuse", "exchange.tenant_threshold", "exchange.tenant_block_list", "exchange.banned_ip",
	"zoho.unusual_activity",
}

// dailyQuota are the diagnoses of what a mail service allows in a day.
var dailyQuota = []string{
	"exchange.daily_recipients", "exchange.daily_recipients_stored", "exchange.submission_quota", "gmail.daily_limit",
	"workspace_relay.daily_limit", "ses.daily_quota", "sendgrid.credits_used_up",
}

// laterProblem is for a message that may go later.
func laterProblem(p *problem, e *mailer.Error) {
	p.status, p.name, p.code = http.StatusServiceUnavailable, nameApplication, "upstream_unavailable"
	p.retryAfter = max(p.retryAfter, 30*time.Second)
	what := "The mail server cannot take the message now" + said(e)
	t, _ := errors.AsType[*tokens.Error](e.Err)
	switch {
	case e.Stage == mailer.StageToken:
		what, p.code = "The sign-in provider, or the storage of tokens, cannot be reached now", "provider_unavailable"
		if t != nil {
			p.retryAfter = max(p.retryAfter, t.RetryAfter)
		}
	case e.Stage == mailer.StageLimit:
		what, p.code = mailboxBusy(e)
		switch p.code {
		case "mailbox_rate", "mailbox_paused":
			p.status, p.name = http.StatusTooManyRequests, nameRateLimit
		case "mailbox_recipients":
			p.status, p.name = http.StatusTooManyRequests, nameDailyQuota
		}
	case e.Kind == mailer.KindThrottled:
		what, p.code = "The mail server asks to send more slowly"+said(e), "upstream_throttled"
		p.status, p.name = http.StatusTooManyRequests, nameRateLimit
		p.retryAfter = max(p.retryAfter, time.Minute)
		if p.diagnosis != nil && slices.Contains(dailyQuota, p.diagnosis.ID) {
			p.name = nameDailyQuota
		}
	case e.Stage == mailer.StageDNS || e.Stage == mailer.StageConnect:
		what = "The mail server cannot be reached now"
	}
	p.message = what + ". Nothing was sent; try again later."
	if e.Kind == mailer.KindTemporary && e.Stage != mailer.StageToken && isTimeout(e) {
		p.status, p.code = http.StatusGatewayTimeout, "upstream_timeout"
	}
}

// mailboxBusy tells which limit of a mailbox a message met.
func mailboxBusy(e *mailer.Error) (what, code string) {
	switch e.Code {
	case "mailbox_rate":
		return "This mailbox has sent as many messages as it may for now", e.Code
	case "mailbox_paused":
		return "The mail server asked for less mail from this mailbox, which rests for a while", e.Code
	case "mailbox_recipients":
		return "This mailbox has sent to as many recipients as it may in 24 hours", e.Code
	}
	return "All connections of this mailbox are in use", "mailbox_busy"
}

func isTimeout(e *mailer.Error) bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

func invalidProblem(p *problem, e *mailer.Error) {
	if name, _, _ := strings.Cut(e.Field, "."); name == "ical" || name == "sender" {
		p.field = "oauth_mail." + e.Field
	}
	text := "is not valid"
	if e.Err != nil {
		text = e.Err.Error()
	}
	p.message = "The message: " + text + "."
	if p.field != "" {
		p.message = "The field `" + p.field + "`: " + text + "."
	}
	switch {
	case e.Code == "missing_body" || e.Code == "missing":
		p.name = nameMissingField
	case e.Field == "from":
		p.name = nameInvalidFrom
	case strings.HasPrefix(e.Field, "attachments"):
		p.name = nameInvalidAttachment
	}
}

// signInProblem is for a mailbox that cannot sign in until somebody acts.
func signInProblem(p *problem, e *mailer.Error) {
	p.status, p.name, p.code = http.StatusServiceUnavailable, nameApplication, "upstream_configuration"
	p.message = "This server is not set up rightly for the mail server" + said(e) + ". Nothing was sent; the operator must look at the settings and the log."
	var t *tokens.Error
	switch {
	case errors.Is(e.Err, tokens.ErrUnknownKey) || errors.Is(e.Err, tokens.ErrCorrupt) || errors.Is(e.Err, tokens.ErrNewerFormat):
		p.code = "token_unreadable"
		p.message = "The stored sign-in of the mailbox cannot be read with this server's keys. Nothing was sent; the operator must bring the key back, or authorize the account again."
	case errors.As(e.Err, &t) && t.Kind == tokens.KindConfig:
		p.code = "provider_configuration"
		p.message = "The sign-in provider refuses this server's client registration. Nothing was sent; the operator must look at the provider's settings and the log."
	case errors.As(e.Err, &t):
		p.code = "reauthorization_required"
		p.message = "The mailbox is not signed in, or its sign-in has ended. Nothing was sent; the operator must authorize the account."
	case e.Kind == mailer.KindUnauthorized:
		p.code = "authentication_failed"
		p.message = "The mail server refuses this server's sign-in" + said(e) + ". Nothing was sent; the operator must look at the account."
	}
}

// said quotes the mail server.
func said(e *mailer.Error) string {
	if e.Reply.Code == 0 {
		return ""
	}
	return " (it said: " + e.Reply.String() + ")"
}

// because tells the cause.
func because(e *mailer.Error) string {
	if e.Err == nil {
		return ""
	}
	return ": " + e.Err.Error()
}
