package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// emailRequest is a request to send one message, read and ready to compose. It must be
// closed when the message is not needed any more.
type emailRequest struct {
	message *mailer.Message
	// envelope says who receives, where that is not what the message says.
	envelope *mailer.Envelope
	// at is when it is to go; zero for now.
	at time.Time
	// schedule is how the request says that.
	schedule string
	// dryRun does all but accept the message. The request's header may say so, too.
	dryRun bool
	// tags and metadata are for lists and statistics, not for the message.
	tags     []mailer.Tag
	metadata []mailer.Tag
	warnings []string
	// tenant is the one that the answer names; empty for none.
	tenant string

	hasSubject bool
	files      []*mailer.File

	// received is there in place of the parts of message, where the request was a whole
	// message, and id is the one that it got. Sum is a digest of it as it came.
	received *mailer.Received
	id       string
	sum      []byte
}

// Limits of a request, beside that of its size.
const (
	maxRecipients  = 100
	maxReplyTo     = 10
	maxHeaders     = 50
	maxHeaderBytes = 64 << 10
	maxAttachments = 50
	maxTags        = 20
	maxTag         = 256
	maxReferences  = 100
	// maxText is the most octets of text and HTML together: they are in memory.
	maxText = 16 << 20
	// maxWarnings bounds an answer; what a program does wrong it mostly does
	// often.
	maxWarnings = 20
)

// close gives the files of attachments back. It may be called more than once.
func (r *emailRequest) close() {
	for _, f := range r.files {
		_ = f.Close() // the disk is none of the caller's business
	}
	if r.received != nil {
		_ = r.received.Close()
	}
}

// from is the address in the field From.
func (r *emailRequest) from() *mailer.Address {
	if r.received != nil {
		return &r.received.From
	}
	return &r.message.From
}

// senders are the addresses that people and servers see.
func (r *emailRequest) senders() []mailer.Address {
	if r.envelope == nil || r.envelope.From.IsZero() {
		return []mailer.Address{*r.from()}
	}
	return []mailer.Address{*r.from(), r.envelope.From}
}

// recipients are those who get the message.
func (r *emailRequest) recipients() []mailer.Address {
	if r.envelope != nil {
		return r.envelope.To
	}
	return r.message.Envelope().To
}

// kept is how many octets lie in files, or in their place.
func (r *emailRequest) kept() (n int64) {
	for _, f := range r.files {
		n += f.Size()
	}
	if r.received != nil {
		n += r.received.Content.Size()
	}
	return n
}

func (r *emailRequest) warn(warning string) {
	switch n := len(r.warnings); {
	case n < maxWarnings:
		r.warnings = append(r.warnings, warning)
	case n == maxWarnings:
		r.warnings = append(r.warnings, "there are more warnings like these")
	}
}

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
	if cap(e.text) > jsonBuffer {
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

// settle checks what has to do with several fields.
func (r *emailRequest) settle() error {
	m := r.message
	if len(m.To) == 0 {
		return missing("to")
	}
	if n := len(m.To) + len(m.Cc) + len(m.Bcc); n > maxRecipients {
		return invalid("to", "too_many", "%d recipients are more than the %d that one message may have", n, maxRecipients)
	}
	if !r.hasSubject {
		return missing("subject")
	}
	return nil
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
	if err := e.enter('{'); err != nil {
		return err
	}
	var m memberWalk
	for {
		i, _, more, err := e.next(&m, emailNames)
		switch {
		case err != nil || !more:
			return err
		case i < 0:
			err = e.unknown()
		default:
			err = emailFields[i](e)
		}
		if err != nil {
			return err
		}
	}
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
	if err := e.enter('['); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := e.item(n)
		if err != nil || !more {
			return err
		}
		if n == most {
			return e.tooMany(most)
		}
		if e.peek() != '"' {
			return e.noString("must be a string")
		}
		a, err := e.address()
		if err != nil {
			return err
		}
		*into = append(*into, a)
	}
}

// tooMany is an error of the list that the reader is in.
func (e *emailReader) tooMany(most int) error {
	e.path[len(e.path)-1] = nowhere
	return invalid(e.place(), "too_many", "there are more than %d", most)
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

func (e *emailReader) subject() (err error) {
	e.request.message.Subject, err = e.string()
	e.request.hasSubject = true
	return err
}

func (e *emailReader) plain() (err error) {
	e.request.message.Text, err = e.long()
	return err
}

func (e *emailReader) html() (err error) {
	e.request.message.HTML, err = e.long()
	return err
}

// long reads a text.
func (e *emailReader) long() (string, error) {
	if !e.take('"') {
		return "", e.noString("must be a string")
	}
	e.text = e.text[:0]
	var b strings.Builder
	for {
		piece, end, err := e.piece()
		if err != nil {
			return "", err
		}
		if err := e.hold(len(piece)); err != nil {
			return "", err
		}
		switch {
		case b.Len() == 0 && len(e.text)+len(piece) <= maxShort:
			e.text = append(e.text, piece...)
			if end {
				return string(e.text), nil
			}
			continue
		case b.Len() == 0:
			b.Grow(4 * maxShort)
			b.Write(e.text)
		}
		b.Write(piece)
		if end {
			return b.String(), nil
		}
	}
}

// hold takes memory for more of a text.
func (e *emailReader) hold(n int) error {
	if e.texts += n; e.texts > maxText {
		return refuse(http.StatusRequestEntityTooLarge, nameValidation, "too_large",
			"text and html have over 16 MiB together. Send what is that large as an attachment.")
	}
	if e.room == nil {
		return nil
	}
	return e.room.hold(e.texts)
}

func (e *emailReader) headers() error {
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
		var value string
		switch c := e.peek(); {
		case c == '"':
			value, err = e.string()
		case c == '-' || '0' <= c && c <= '9':
			value, err = e.number()
		default:
			err = e.noString("must be a string")
		}
		if err != nil {
			return err
		}
		if size += len(name) + len(value); m.count > maxHeaders || size > maxHeaderBytes {
			return invalid("headers", "too_many", "there are more than %d, or they are larger than %d KiB", maxHeaders, maxHeaderBytes>>10)
		}
		if mailer.ClassifyHeader(name) == mailer.HeaderStructural {
			e.request.warn("the header " + name + " is made by this server; yours was dropped")
			continue
		}
		// Compose says what is wrong with a malformed one.
		e.request.message.Headers = append(e.request.message.Headers, mailer.HeaderField{Name: name, Value: value})
	}
}

var tagNames = names{"name", "value"}

// tags reads tags. Some programs have names and values of their own kind.
func (e *emailReader) tags() error {
	if err := e.enter('['); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := e.item(n)
		if err != nil || !more {
			return err
		}
		if n == maxTags {
			return e.tooMany(maxTags)
		}
		var t mailer.Tag
		if err := e.pairs(tagNames, []*string{&t.Name, &t.Value}); err != nil {
			return err
		}
		if len(t.Name) > maxTag || len(t.Value) > maxTag {
			return invalid(e.place(), "too_long", "a tag has names and values of up to %d octets", maxTag)
		}
		if t.Name != "" {
			e.request.tags = append(e.request.tags, t)
		}
	}
}

// pairs reads an object of strings; others than those that are known are passed over.
func (e *emailReader) pairs(known names, into []*string) error {
	if err := e.enter('{'); err != nil {
		return err
	}
	var m memberWalk
	for {
		i, _, more, err := e.next(&m, known)
		switch {
		case err != nil || !more:
			return err
		case i < 0:
			err = e.skip()
		default:
			*into[i], err = e.string()
		}
		if err != nil {
			return err
		}
	}
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
