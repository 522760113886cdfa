package caddymodule

import (
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
	// tags and metadata are the caller's notes, and not in the message.
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
	list := []mailer.Address{*r.from()}
	if r.message != nil && !r.message.Sender.IsZero() {
		list = append(list, r.message.Sender)
	}
	if r.envelope != nil && !r.envelope.From.IsZero() {
		list = append(list, r.envelope.From)
	}
	return list
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
	if e := r.envelope; e != nil && !m.Sender.IsZero() && !e.From.IsZero() && e.From.Mailbox() != m.Sender.Mailbox() {
		return invalid("oauth_mail.envelope.from", "contradiction", "it must be the address of `sender`, or left out")
	}
	return nil
}
