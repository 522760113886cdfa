package caddymodule

import (
	"net/http"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// outboxProblem makes the answer to a message that did not come into the outbox, or
// was too long in it; nil for others.
func outboxProblem(e *mailer.Error) *problem {
	if e.Stage == mailer.StageAccept {
		switch e.Code {
		case outbox.CodeFull:
			p := refuse(http.StatusInsufficientStorage, nameApplication, e.Code,
				"This server has no space left for messages that wait to be sent. Nothing was accepted; the operator must make room or allow more. Try again later.")
			p.retryAfter = time.Minute
			return p
		case outbox.CodeUnavailable:
			p := refuse(http.StatusServiceUnavailable, nameApplication, e.Code,
				"This server cannot store messages now; its log says why. Nothing was accepted; try again later.")
			p.retryAfter = 30 * time.Second
			return p
		case outbox.CodeUncertain:
			return refuse(http.StatusGatewayTimeout, nameApplication, e.Code,
				"The storage of this server did not answer in time. The message may be accepted, and then is sent: repeat the request with the same Idempotency-Key to find out. Without one, ask the operator before you send it again.")
		case outbox.CodeConcurrent:
			p := refuse(http.StatusConflict, nameConcurrentRequests, "",
				"The request with this Idempotency-Key is still being served. Nothing was sent a second time; ask again in a moment for its answer.")
			p.retryAfter = time.Second
			return p
		case outbox.CodeOtherRequest:
			return refuse(http.StatusConflict, nameInvalidRequest, "",
				"This Idempotency-Key was used before, for another message. Nothing was sent; give each message a key of its own.")
		case outbox.CodeCanceled:
			return refuse(http.StatusUnprocessableEntity, nameApplication, e.Code,
				"The message was canceled, and is not sent.")
		}
	}
	if e.Code == outbox.CodeExpired {
		p := refuse(http.StatusUnprocessableEntity, nameApplication, e.Code,
			"The message could not be sent within its lifetime, and was given up. Nothing was sent to those who have not got it.")
		p.smtp = newSMTPReply(e.Stage, e.Reply)
		d := e.Diagnosis()
		p.diagnosis = &d
		return p
	}
	return nil
}
