package mailer

import (
	"cmp"
	"slices"
	"strings"
)

// Summary is what lists of messages show of one, so that nobody has to open it. It has
// none of the body. Its JSON form is stored with the message.
type Summary struct {
	To          []Address        `json:"to,omitempty"`
	Cc          []Address        `json:"cc,omitempty"`
	Bcc         []Address        `json:"bcc,omitempty"`
	ReplyTo     []Address        `json:"reply_to,omitempty"`
	Subject     string           `json:"subject,omitempty"`
	Tags        []Tag            `json:"tags,omitempty"`
	Metadata    []Tag            `json:"metadata,omitempty"`
	Attachments []AttachmentNote `json:"attachments,omitempty"`
}

// Tag is what a caller notes about a message. Nothing of it is sent.
type Tag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// AttachmentNote says what an attachment was. Size is in octets.
type AttachmentNote struct {
	Filename    string `json:"filename,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	ContentID   string `json:"content_id,omitempty"`
	Inline      bool   `json:"inline,omitempty"`
	Size        int64  `json:"size"`
}

// Summary returns what lists show of the message.
func (m *Message) Summary() *Summary {
	s := &Summary{To: m.To, Cc: m.Cc, Bcc: m.Bcc, ReplyTo: m.ReplyTo, Subject: m.Subject}
	for _, a := range m.Attachments {
		n := AttachmentNote{Filename: cleanFilename(a.Filename), ContentID: strings.Trim(a.ContentID, "<>"), Inline: a.Inline}
		n.ContentType = cmp.Or(a.ContentType, typesByExtension[asciiLower(extension(n.Filename))], octetStream)
		n.Filename = cmp.Or(n.Filename, "attachment"+extensionOf(n.ContentType))
		if a.Source != nil {
			n.Size = a.Source.Size()
		}
		s.Attachments = append(s.Attachments, n)
	}
	return s
}

// Clone returns a copy that shares nothing with s.
func (s *Summary) Clone() *Summary {
	c := *s
	c.To, c.Cc, c.Bcc, c.ReplyTo = slices.Clone(s.To), slices.Clone(s.Cc), slices.Clone(s.Bcc), slices.Clone(s.ReplyTo)
	c.Tags, c.Metadata, c.Attachments = slices.Clone(s.Tags), slices.Clone(s.Metadata), slices.Clone(s.Attachments)
	return &c
}
