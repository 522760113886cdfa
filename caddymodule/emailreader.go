package caddymodule

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// sendSpool has the attachments of requests that are being read. What they take is
// bounded by the budget.
var sendSpool = new(mailer.Spool)

// emailReader reads requests in JSON. The errors are [*problem]s, or [*mailer.Error]s
// that name the field.
type emailReader struct {
	jsonReader
	// outbox is set where there is one: without it some wishes are refused.
	outbox  bool
	room    *share // nil: without bounds
	request *emailRequest
	texts   int // octets of text
}

var emailReaders = sync.Pool{New: func() any { return new(emailReader) }}

// newEmailReader returns a reader of what from has. It must be given back.
func newEmailReader(from io.Reader, room *share, outbox bool) *emailReader {
	e := emailReaders.Get().(*emailReader)
	e.reset(from)
	e.room, e.outbox, e.texts = room, outbox, 0
	return e
}

// giveBack ends the use of the reader.
func (e *emailReader) giveBack() {
	e.from, e.room, e.request = nil, nil, nil
	if cap(e.text) > maxShort {
		e.text = nil
	}
	emailReaders.Put(e)
}

// parseEmail reads one message.
func parseEmail(body []byte, outbox bool) (*emailRequest, error) {
	e := newEmailReader(bytes.NewReader(body), nil, outbox)
	defer e.giveBack()
	return e.document()
}

// document reads a message and the end of the document.
func (e *emailReader) document() (*emailRequest, error) {
	r, err := e.email()
	if err != nil {
		return nil, err
	}
	if err := e.finish(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// email reads one message.
func (e *emailReader) email() (*emailRequest, error) {
	r := &emailRequest{message: new(mailer.Message)}
	e.request = r
	err := e.fields()
	if err == nil {
		err = r.settle()
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// The fields of a message, and what reads them.
var (
	emailNames = names{
		"from", "to", "subject", "text", "html", "cc", "bcc", "reply_to",
		"headers", "attachments", "tags", "scheduled_at", "template", "topic_id", "oauth_mail",
	}
	emailFields = []func(*emailReader) error{
		(*emailReader).sender, (*emailReader).to, (*emailReader).subject, (*emailReader).plain, (*emailReader).html,
		(*emailReader).cc, (*emailReader).bcc, (*emailReader).replyTo, (*emailReader).headers, (*emailReader).attachments,
		(*emailReader).tags, (*emailReader).schedule, (*emailReader).template, (*emailReader).topic, (*emailReader).extensions,
	}
)

func (e *emailReader) fields() error {
	m := memberWalk{known: emailNames}
	return e.object(&m, func() error {
		if m.index < 0 {
			return e.unknown()
		}
		return emailFields[m.index](e)
	})
}

// unknown drops a field that is not known, with a warning: SDKs send fields that
// are newer than this server.
func (e *emailReader) unknown() error {
	e.request.warn("the field \"" + strings.ReplaceAll(e.place(), `"`, `\"`) + "\" is not known and was ignored")
	return e.skip()
}

// unsupported refuses a field that would change what is sent.
func (e *emailReader) unsupported(why string) error {
	return invalid(e.place(), "unsupported", "%s", why)
}

func (e *emailReader) template() error {
	return e.unsupported("there are no templates on this server; send text or html")
}

func (e *emailReader) topic() error {
	e.request.warn("topic_id has no meaning on this server and was ignored")
	return e.skip()
}

func (e *emailReader) schedule() error {
	if !e.outbox {
		return e.unsupported("scheduling needs the outbox, which is off on this server")
	}
	s, err := e.string()
	if err != nil {
		return err
	}
	e.request.schedule = s
	e.request.at, err = readSchedule(e.place(), s, time.Now())
	return err
}
