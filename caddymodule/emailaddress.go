package caddymodule

import (
	"errors"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

func (e *emailReader) sender() error {
	a, err := e.address()
	e.request.message.From = a
	return err
}

func (e *emailReader) to() error      { return e.addresses(&e.request.message.To, maxRecipients) }
func (e *emailReader) cc() error      { return e.addresses(&e.request.message.Cc, maxRecipients) }
func (e *emailReader) bcc() error     { return e.addresses(&e.request.message.Bcc, maxRecipients) }
func (e *emailReader) replyTo() error { return e.addresses(&e.request.message.ReplyTo, maxReplyTo) }

// address reads a mailbox.
func (e *emailReader) address() (mailer.Address, error) {
	s, err := e.string()
	if err != nil {
		return mailer.Address{}, err
	}
	a, err := mailer.ParseAddress(s)
	if err != nil {
		return a, fieldError(e.place(), err)
	}
	return a, nil
}

// addresses reads a mailbox, or a list of them. Each entry holds one, so that
// `a@b, c@d` in one string is never taken for something it may not be.
func (e *emailReader) addresses(into *[]mailer.Address, most int) error {
	switch e.peek() {
	case '"':
		a, err := e.address()
		*into = append(*into, a)
		return err
	case '[':
	default:
		return e.noString("must be a string, or a list of strings")
	}
	return e.list(most, func() error {
		a, err := e.address()
		if err != nil {
			return err
		}
		*into = append(*into, a)
		return nil
	})
}

// fieldError names the field in an error of the mailer.
func fieldError(field string, err error) error {
	if e, ok := errors.AsType[*mailer.Error](err); ok {
		named := *e
		named.Field = field
		return &named
	}
	return err
}
