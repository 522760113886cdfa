package caddymodule

import (
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// email reads one message, in whatever form it comes.
func (in *incoming) email(c caller) (*emailRequest, error) {
	switch in.media {
	case typeForm:
		return in.form()
	case typeMessage:
		return in.whole(c)
	}
	e := newEmailReader(in.body, in.room, in.outbox)
	defer e.giveBack()
	return e.document()
}

// form reads a message whose fields are the parts of a form (RFC 7578): fields as in
// JSON, any number of times where JSON has a list, or the whole message in JSON in a
// part called message; and files, which are attachments, or shown within the HTML if
// their part is called inline.
func (in *incoming) form() (*emailRequest, error) {
	if in.boundary == "" {
		return nil, refuse(http.StatusBadRequest, nameValidation, "bad_form", "The form cannot be read: its Content-Type has no boundary.")
	}
	e := newEmailReader(nil, in.room, in.outbox)
	defer e.giveBack()
	f := &formReader{emailReader: e}
	e.request = &emailRequest{message: new(mailer.Message)}
	err := f.parts(multipart.NewReader(in.body, in.boundary))
	if err == nil {
		err = e.request.settle()
	}
	if err != nil {
		e.request.close()
		return nil, err
	}
	return e.request, nil
}

type formReader struct {
	*emailReader
	seen  uint64 // fields that may come once
	count int
}

func (f *formReader) parts(parts *multipart.Reader) error {
	for {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) && f.count > 0 {
			return nil
		}
		if err != nil {
			return badForm(err)
		}
		if f.count++; f.count > maxMembers {
			return badJSON("", "has more parts than a message needs")
		}
		if err := f.part(p); err != nil {
			return err
		}
	}
}

// badForm is a form that cannot be read further.
func badForm(err error) error {
	if p := unreadable(err).(*problem); p.code != "body" {
		return p
	}
	return refuse(http.StatusBadRequest, nameValidation, "bad_form", "The form is cut or broken, or came too slowly.")
}

func (f *formReader) part(p *multipart.Part) error {
	name := strings.TrimSuffix(p.FormName(), "[]") // as PHP has it
	if p.FileName() != "" || name == "inline" || name == "attachment" {
		return f.file(p, name)
	}
	f.reset(p)
	f.path = append(f.path, step{name: name})
	if name == "message" {
		f.path = f.path[:0]
		if f.seen != 0 {
			return invalid("message", "twice", "it stands for all fields but files, and comes before them")
		}
		f.seen = ^uint64(0)
		if err := f.fields(); err != nil {
			return err
		}
		return f.finish()
	}
	i := emailNames.find([]byte(name))
	if i < 0 {
		f.request.warn("the field \"" + join("", name) + "\" is not known and was ignored")
		return f.drain()
	}
	if f.seen == ^uint64(0) {
		return invalid(join("", name), "twice", "the part called message has it, or may have it")
	}
	switch name {
	case "to", "cc", "bcc", "reply_to":
		return f.formAddress(name)
	case "headers", "attachments", "tags", "oauth_mail", "template": // in JSON
		if !f.once(i) {
			return f.wrong("comes twice")
		}
		if err := emailFields[i](f.emailReader); err != nil {
			return err
		}
		return f.finish()
	}
	if !f.once(i) {
		return f.wrong("comes twice")
	}
	// The others are strings.
	f.from = io.MultiReader(strings.NewReader(`"`), &quoting{from: f.from}, strings.NewReader(`"`))
	if err := emailFields[i](f.emailReader); err != nil {
		return err
	}
	return f.finish()
}

func (f *formReader) once(i int) bool {
	old := f.seen
	f.seen |= 1 << i
	return f.seen != old
}

// formAddress reads one more mailbox.
func (f *formReader) formAddress(name string) error {
	m := f.request.message
	into, most := map[string]*[]mailer.Address{"to": &m.To, "cc": &m.Cc, "bcc": &m.Bcc, "reply_to": &m.ReplyTo}[name], maxRecipients
	if name == "reply_to" {
		most = maxReplyTo
	}
	if len(*into) == most {
		return invalid(name, "too_many", "there are more than %d", most)
	}
	f.from = io.MultiReader(strings.NewReader(`"`), &quoting{from: f.from}, strings.NewReader(`"`))
	f.seen |= 1 << emailNames.find([]byte(name))
	if err := f.addresses(into, most); err != nil {
		return err
	}
	return f.finish()
}

// drain reads the rest of a part.
func (f *formReader) drain() error {
	if _, err := io.Copy(io.Discard, f.from); err != nil {
		return badForm(err)
	}
	return nil
}

// file reads an attachment.
func (f *formReader) file(p *multipart.Part, name string) error {
	where := join("", name)
	if len(f.request.message.Attachments) == maxAttachments {
		return invalid("attachments", "too_many", "there are more than %d", maxAttachments)
	}
	a := mailer.Attachment{Filename: p.FileName(), ContentType: p.Header.Get("Content-Type")}
	if a.ContentType == "application/octet-stream" {
		a.ContentType = "" // it says nothing, and the name may
	}
	if name == "inline" {
		a.Inline, a.ContentID = true, a.Filename
	}
	file := f.request.newFile()
	a.Source = file
	switch strings.ToLower(p.Header.Get("Content-Transfer-Encoding")) {
	case "", "binary", "8bit", "7bit":
	default:
		return badAttachment(where, "bad_content", "The file must be in its part as it is, without a Content-Transfer-Encoding.")
	}
	if _, err := io.Copy(file, p); err != nil {
		if _, ok := errors.AsType[*mailer.Error](err); ok {
			return err
		}
		return badForm(err)
	}
	f.request.message.Attachments = append(f.request.message.Attachments, a)
	return file.End()
}

// quoting makes the inside of a JSON string of what it reads.
type quoting struct {
	from io.Reader
	in   [2048]byte
	out  []byte
	err  error
}

func (q *quoting) Read(p []byte) (int, error) {
	for len(q.out) == 0 {
		if q.err != nil {
			return 0, q.err
		}
		var n int
		n, q.err = q.from.Read(q.in[:])
		q.out = q.out[:0]
		for _, c := range q.in[:n] {
			switch {
			case c == '"' || c == '\\':
				q.out = append(q.out, '\\', c)
			case c < ' ':
				const hex = "0123456789abcdef"
				q.out = append(q.out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				q.out = append(q.out, c)
			}
		}
	}
	n := copy(p, q.out)
	q.out = q.out[n:]
	return n, nil
}
