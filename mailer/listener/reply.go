package listener

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// maxWords is how much of another server's words is passed on, in octets. A reply
// line has 512 (RFC 5321, section 4.5.3.1.5).
const maxWords = 300

func reply(code, class, subject, detail int, text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{class, subject, detail}, Message: text}
}

// deny refuses a command that go-smtp does not get to see.
func (t *session) deny(line string) {
	t.refused(line)
	t.say(line)
}

// refused counts a reply that refuses, and tells the hook.
func (t *session) refused(line string) {
	t.faults++
	r := Refused{Identity: t.who, ID: t.id, Command: t.verb, Err: t.cause}
	t.id, t.cause = "", nil
	told := t.config.Hooks.Refused
	if told == nil || errors.Is(r.Err, ErrWrongPassword) {
		return
	}
	e := &r.Enhanced
	if n, _ := fmt.Sscanf(line, "%d %d.%d.%d", &r.Code, &e[0], &e[1], &e[2]); n == 4 {
		_, line, _ = strings.Cut(line, " ")
	}
	_, r.Text, _ = strings.Cut(strings.TrimSuffix(line, "\r\n"), " ")
	told(t.client, r)
}

func tooLarge(most int64) *smtp.SMTPError {
	return reply(552, 5, 3, 4, fmt.Sprintf("The message is too large: %d MiB at most are taken here", max(1, most>>20)))
}

// refusal is the reply to a message that was not accepted. What the mail server said
// about the message is passed on; what it said about us is not: the client would
// take that for its own password.
func refusal(err error, most int64) *smtp.SMTPError {
	e, ok := errors.AsType[*mailer.Error](err)
	if !ok {
		return reply(451, 4, 3, 0, "Something went wrong here: try again later")
	}
	switch e.Code {
	case "too_large":
		return tooLarge(most)
	case mailer.CodeLoop:
		return reply(554, 5, 4, 6, "The message goes in a circle: look at its Received fields for the server that sends it back here")
	case outbox.CodeFull:
		return reply(452, 4, 3, 1, "The outbox is full: try again later; the operator has to look after it")
	case outbox.CodeUnavailable:
		return reply(451, 4, 3, 0, "The outbox is not available: try again later; the operator has to look after it")
	}
	if r := passedOn(e); r != nil {
		return r
	}
	if e.Code == "recipient_not_allowed" {
		return reply(550, 5, 7, 1, "A recipient is not allowed here: leave it out, or ask the operator to allow it")
	}
	switch e.Kind {
	case mailer.KindInvalid:
		text := "The message is malformed"
		if e.Err != nil {
			text += ": " + printable(e.Err.Error(), maxWords)
		}
		return reply(554, 5, 6, 0, text)
	case mailer.KindSender:
		return reply(553, 5, 7, 1, "This sender is not allowed here: set it to an address that the operator has allowed")
	case mailer.KindRejected:
		return reply(554, 5, 0, 0, "The message was refused")
	case mailer.KindThrottled:
		text := "The mailbox has sent so much that it has to wait: try again later"
		if e.RetryAfter > 0 {
			text = fmt.Sprintf("The mailbox has sent so much that it has to wait: try again in %s", e.RetryAfter.Round(time.Second))
		}
		return reply(451, 4, 3, 2, text)
	case mailer.KindUnauthorized, mailer.KindConfig:
		return reply(451, 4, 3, 5, "The mailbox behind this server cannot send until the operator puts it right; nothing is wrong with this device or program")
	case mailer.KindUnknown:
		return reply(451, 4, 4, 2, "The mail server was lost at the very end: the message may have been sent")
	case mailer.KindNone, mailer.KindTemporary:
	}
	return reply(451, 4, 4, 0, "The mail server cannot be reached just now: try again later")
}

// passedOn is the mail server's reply about the message; nil where it said nothing
// about it.
func passedOn(e *mailer.Error) *smtp.SMTPError {
	switch e.Stage {
	case mailer.StageMail, mailer.StageRcpt, mailer.StageData, mailer.StageFinal:
	default:
		return nil
	}
	r, whom := e.Reply, ""
	if e.Stage == mailer.StageRcpt {
		for _, o := range e.Recipients {
			if o.Kind == e.Kind && o.Reply.Code >= 400 {
				r, whom = o.Reply, "<"+printable(o.Address.Mailbox(), 128)+">: "
				break
			}
		}
	}
	class := r.Code / 100
	temporary := e.Kind.Outcome() != mailer.Dead
	if r.Code < 400 || r.Code > 599 || temporary != (class == 4) {
		return nil // the kind knows better
	}
	if r.Code == 421 { // the mail server hangs up; we do not
		r.Code = 451
	}
	enhanced := smtp.EnhancedCode(r.Enhanced)
	if enhanced[0] != class {
		enhanced = smtp.EnhancedCode{class, 0, 0}
	}
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: enhanced, Message: whom + printable(r.Text, maxWords)}
}
