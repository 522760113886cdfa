package caddymodule

import (
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

var (
	extensionNames = names{"envelope", "in_reply_to", "references", "priority", "metadata", "dry_run", "connection", "sender", "ical"}
	envelopeNames  = names{"from", "to"}
)

// extensions reads what Resend's API has not. It has one name, so that none of its
// later fields is mistaken for one of ours.
func (e *emailReader) extensions() error {
	if err := e.enter('{'); err != nil {
		return err
	}
	m := e.request.message
	var seen memberWalk
	for {
		i, _, more, err := e.next(&seen, extensionNames)
		if err != nil || !more {
			return err
		}
		switch i {
		case 0:
			err = e.envelope()
		case 1:
			m.InReplyTo, err = e.string()
		case 2:
			err = e.references()
		case 3:
			err = e.priority()
		case 4:
			err = e.metadata()
		case 5:
			e.request.dryRun, err = e.boolean()
		case 6:
			err = e.unsupported("a tenant has one connection on this server; the API key decides about the tenant")
		case 7, 8:
			err = e.unsupported("this version cannot do that yet")
		default:
			err = e.unknown()
		}
		if err != nil {
			return err
		}
	}
}

// envelope reads who sends and receives, where that is not what the message says.
func (e *emailReader) envelope() error {
	where := e.place()
	if err := e.enter('{'); err != nil {
		return err
	}
	var env mailer.Envelope
	var m memberWalk
	for {
		i, _, more, err := e.next(&m, envelopeNames)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch i {
		case 0:
			env.From, err = e.address()
		case 1:
			err = e.addresses(&env.To, maxRecipients)
		default:
			err = e.unknown()
		}
		if err != nil {
			return err
		}
	}
	if len(env.To) == 0 {
		return missing(where + ".to")
	}
	e.request.envelope = &env
	return nil
}

func (e *emailReader) references() error {
	if err := e.enter('['); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := e.item(n)
		if err != nil || !more {
			return err
		}
		if n == maxReferences {
			return e.tooMany(maxReferences)
		}
		id, err := e.string()
		if err != nil {
			return err
		}
		e.request.message.References = append(e.request.message.References, id)
	}
}

// priority reads how urgent a message is. There is no one field for it.
func (e *emailReader) priority() error {
	word, err := e.string()
	if err != nil {
		return err
	}
	number := map[string]string{"high": "1", "normal": "3", "low": "5"}[word]
	if number == "" {
		return invalid(e.place(), "bad_priority", "it must be high, normal or low")
	}
	e.request.message.Headers = append(e.request.message.Headers,
		mailer.HeaderField{Name: "Importance", Value: word}, mailer.HeaderField{Name: "X-Priority", Value: number})
	return nil
}

// metadata reads an object of strings.
func (e *emailReader) metadata() error {
	if err := e.enter('{'); err != nil {
		return err
	}
	var m memberWalk
	size := 0
	for {
		_, name, more, err := e.next(&m, nil)
		if err != nil || !more {
			return err
		}
		value, err := e.string()
		if err != nil {
			return err
		}
		if size += len(name) + len(value); m.count > maxHeaders || size > maxHeaderBytes {
			e.path[len(e.path)-1] = nowhere
			return invalid(e.place(), "too_many", "there are more than %d, or they are larger than %d KiB", maxHeaders, maxHeaderBytes>>10)
		}
		e.request.metadata = append(e.request.metadata, mailer.Tag{Name: name, Value: value})
	}
}
