package caddymodule

import (
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

var (
	extensionNames = names{"envelope", "in_reply_to", "references", "priority", "metadata", "dry_run", "connection", "sender", "ical"}
	envelopeNames  = names{"from", "to"}
	calendarNames  = names{"method", "content"}
)

// extensions reads what Resend's API has not. It has one name, so that none of its
// later fields is mistaken for one of ours.
func (e *emailReader) extensions() error {
	m := memberWalk{known: extensionNames}
	return e.object(&m, func() (err error) {
		switch m.name {
		case "envelope":
			err = e.envelope()
		case "in_reply_to":
			e.request.message.InReplyTo, err = e.string()
		case "references":
			err = e.list(maxReferences, e.reference)
		case "priority":
			err = e.priority()
		case "metadata":
			err = e.metadata()
		case "dry_run":
			e.request.dryRun, err = e.boolean()
		case "connection":
			err = e.unsupported("a tenant has one connection on this server; the API key decides about the tenant")
		case "sender":
			e.request.message.Sender, err = e.address()
		case "ical":
			err = e.calendar()
		default:
			err = e.unknown()
		}
		return err
	})
}

// envelope reads who sends and receives, where that is not what the message says.
func (e *emailReader) envelope() error {
	where := e.place()
	var env mailer.Envelope
	m := memberWalk{known: envelopeNames}
	err := e.object(&m, func() (err error) {
		switch m.name {
		case "from":
			env.From, err = e.address()
		case "to":
			err = e.addresses(&env.To, maxRecipients)
		default:
			err = e.unknown()
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(env.To) == 0 {
		return missing(where + ".to")
	}
	e.request.envelope = &env
	return nil
}

// calendar reads an event for the recipients' calendars.
func (e *emailReader) calendar() error {
	where := e.place()
	c := new(mailer.Calendar)
	m := memberWalk{known: calendarNames}
	err := e.object(&m, func() (err error) {
		switch m.name {
		case "method":
			c.Method, err = e.string()
		case "content":
			c.Content, err = e.long()
		default:
			err = e.unknown()
		}
		return err
	})
	if err != nil {
		return err
	}
	if c.Content == "" {
		return missing(where + ".content")
	}
	e.request.message.Calendar = c
	return nil
}

func (e *emailReader) reference() error {
	id, err := e.string()
	e.request.message.References = append(e.request.message.References, id)
	return err
}

// priorities are the values of X-Priority.
var priorities = map[string]string{"high": "1", "normal": "3", "low": "5"}

// priority reads how urgent a message is. There is no one field for it.
func (e *emailReader) priority() error {
	word, err := e.string()
	if err != nil {
		return err
	}
	number := priorities[word]
	if number == "" {
		return invalid(e.place(), "bad_priority", "it must be high, normal or low")
	}
	e.request.message.Headers = append(e.request.message.Headers,
		mailer.HeaderField{Name: "Importance", Value: word}, mailer.HeaderField{Name: "X-Priority", Value: number})
	return nil
}
