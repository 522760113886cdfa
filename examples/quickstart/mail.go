package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // so that mails in older charsets can be read
	gomail "github.com/emersion/go-message/mail"
)

// A mail is one that arrived: the envelope, the octets, and what could be read of them. It is never changed once it
// is in the inbox.
type mail struct {
	ID      string
	Arrived time.Time

	SignedInAs string
	MailFrom   string
	RcptTo     []string

	Raw         []byte
	Subject     string
	From        string
	To          string
	Cc          string
	MessageID   string
	Text        string
	HTML        string
	Attachments []attachment
	Trouble     string // why a part could not be read, if so
}

type attachment struct {
	Name string
	Type string
	Size int64
}

// parseMail reads what it can and never refuses: an inbox shows broken mail too.
func parseMail(raw []byte) *mail {
	m := &mail{Raw: raw}
	r, err := gomail.CreateReader(bytes.NewReader(raw))
	if r == nil {
		m.Trouble = err.Error()
		return m
	}
	defer r.Close()
	m.Subject = headerText(r.Header, "Subject")
	m.From = headerText(r.Header, "From")
	m.To = headerText(r.Header, "To")
	m.Cc = headerText(r.Header, "Cc")
	m.MessageID = strings.TrimSpace(r.Header.Get("Message-ID"))
	for {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return m
		}
		if err != nil && !message.IsUnknownCharset(err) {
			m.Trouble = err.Error()
			return m
		}
		err = m.addPart(p)
		if err != nil {
			m.Trouble = err.Error()
		}
	}
}

func (m *mail) addPart(p *gomail.Part) error {
	switch h := p.Header.(type) {
	case *gomail.InlineHeader:
		kind, _, _ := h.ContentType()
		body, err := io.ReadAll(p.Body)
		switch kind {
		case "text/plain", "":
			m.Text += string(body)
		case "text/html":
			m.HTML += string(body)
		default:
			m.Attachments = append(m.Attachments, attachment{Name: "inline", Type: kind, Size: int64(len(body))})
		}
		return err
	case *gomail.AttachmentHeader:
		name, _ := h.Filename()
		kind, _, _ := h.ContentType()
		size, err := io.Copy(io.Discard, p.Body)
		m.Attachments = append(m.Attachments, attachment{Name: name, Type: kind, Size: size})
		return err
	}
	return nil
}

// headerText answers a field with its encoded words read (RFC 2047), or as it stands when that is not possible.
func headerText(h gomail.Header, field string) string {
	text, err := h.Text(field)
	if err != nil {
		return h.Get(field)
	}
	return text
}
