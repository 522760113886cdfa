package mailer

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxSubject is the limit on a subject, in octets of UTF-8.
const maxSubject = 998

// Message is a message in parts, from which [Message.Compose] makes a
// [Content]. At least one recipient, and at least one of Text, HTML, Calendar and
// Attachments must be there.
//
// Errors name fields as the JSON interface does: "reply_to[0]",
// "attachments[2].filename", "headers.X-Name".
type Message struct {
	From Address
	// Sender is who sends on behalf of From (RFC 5322, section 3.6.2); zero for the
	// same.
	Sender      Address
	ReplyTo     []Address
	To, Cc, Bcc []Address
	Subject     string
	// Text and HTML are two forms of one body. Line breaks may be LF, CR or
	// CRLF.
	Text, HTML string
	// Calendar is a third form of the body, for programs that keep calendars; nil for
	// none.
	Calendar    *Calendar
	Attachments []Attachment
	// Headers follow the subject in this order. Message-ID, In-Reply-To and
	// References among them stand for the fields below.
	Headers []HeaderField
	// Date is written in its own time zone. Compose fills it in when it is zero.
	Date time.Time
	// MessageID has angle brackets. Compose fills it in when it is empty.
	MessageID string
	// InReplyTo and References are message ids in angle brackets.
	InReplyTo  string
	References []string
}

// Envelope returns the Sender, or else From, and all recipients without duplicates. Bcc
// stands here and nowhere else.
func (m *Message) Envelope() Envelope {
	all := len(m.To) + len(m.Cc) + len(m.Bcc)
	e := Envelope{From: m.From, To: slices.Grow([]Address(nil), all)}
	if !m.Sender.IsZero() {
		e.From = m.Sender // who hears of what cannot be delivered
	}
	var seen map[Address]struct{}
	if all > 1 {
		seen = make(map[Address]struct{}, all)
	}
	for _, list := range [][]Address{m.To, m.Cc, m.Bcc} {
		for _, a := range list {
			key := Address{Local: a.Local, Domain: asciiLower(a.Domain)}
			if _, ok := seen[key]; ok {
				continue
			}
			if seen != nil {
				seen[key] = struct{}{}
			}
			e.To = append(e.To, a)
		}
	}
	return e
}

// check finds the first fault in what does not need to be composed to be seen.
func (m *Message) check() error {
	if err := m.checkAddresses(); err != nil {
		return err
	}
	if code, fault := textFault(m.Subject); fault != "" {
		return invalidf("subject", code, "subject %s", fault)
	}
	if len(m.Subject) > maxSubject {
		return invalidf("subject", codeTooLong, "subject has %d octets, over %d", len(m.Subject), maxSubject)
	}
	if m.Text == "" && m.HTML == "" && m.Calendar == nil && len(m.Attachments) == 0 {
		return invalidf("text", "missing_body", "message has no text, no html and no attachment")
	}
	for _, body := range []struct{ field, text string }{{"text", m.Text}, {"html", m.HTML}} {
		if !utf8.ValidString(body.text) {
			return invalidf(body.field, codeEncoding, "%s is not valid UTF-8", body.field)
		}
	}
	if m.Calendar != nil {
		if err := m.Calendar.check(); err != nil {
			return err
		}
	}
	if y := m.Date.Year(); y < 1900 || y > 9999 {
		return invalidf("date", "bad_date", "year %d is not between 1900 and 9999", y)
	}
	return nil
}

func (m *Message) checkAddresses() error {
	if m.From.IsZero() {
		return invalidf("from", "missing_from", "message has no sender")
	}
	if len(m.To)+len(m.Cc)+len(m.Bcc) == 0 {
		return invalidf("to", "missing_recipient", "message has no recipient")
	}
	for _, f := range []struct {
		name string
		Address
	}{{"from", m.From}, {"sender", m.Sender}} {
		if f.IsZero() {
			continue
		}
		if code, fault := f.fault(); fault != "" {
			return invalidf(f.name, code, "address %s %s", excerpt(f.Local+"@"+f.Domain), fault)
		}
		if misleading(f.Address) {
			return invalidf(f.name, "misleading_name", "name %s shows another address than %s", excerpt(f.Name), excerpt(f.Mailbox()))
		}
	}
	for _, f := range []struct {
		name string
		list []Address
	}{{"reply_to", m.ReplyTo}, {"to", m.To}, {"cc", m.Cc}, {"bcc", m.Bcc}} {
		for i, a := range f.list {
			if code, fault := a.fault(); fault != "" {
				return invalidf(fmt.Sprintf("%s[%d]", f.name, i), code, "address %s %s", excerpt(a.Local+"@"+a.Domain), fault)
			}
		}
	}
	return nil
}

// takeHeaders checks the caller's header fields and moves those that name
// messages to their own fields in m. It returns the others.
func (m *Message) takeHeaders() ([]HeaderField, error) {
	if len(m.Headers) == 0 {
		return nil, nil
	}
	var rest []HeaderField
	seen := make(map[string]bool, len(m.Headers))
	for _, h := range m.Headers {
		name := "headers." + h.Name
		switch ClassifyHeader(h.Name) {
		case HeaderMalformed:
			code, fault := textFault(h.Name)
			if code != codeLineBreak {
				code, fault = codeBadHeader, "is not valid"
			}
			return nil, invalidf("headers", code, "header name %s %s", excerpt(h.Name), fault)
		case HeaderStructural:
			return nil, invalidf(name, codeBadHeader, "header %s may not be set", h.Name)
		case HeaderFree:
		}
		if code, fault := textFault(h.Value); fault != "" {
			return nil, invalidf(name, code, "value of header %s %s", h.Name, fault)
		}
		if !isText(h.Name) && !isASCII(h.Value) {
			return nil, invalidf(name, codeBadHeader, "value of header %s must be ASCII", h.Name)
		}
		lower := asciiLower(h.Name)
		if seen[lower] && !isRepeatable(lower) {
			return nil, invalidf(name, codeBadHeader, "header %s is there twice", h.Name)
		}
		seen[lower] = true

		value := trimWSP(h.Value)
		var double bool
		switch lower {
		case "message-id":
			double = m.MessageID != "" && m.MessageID != value
			m.MessageID = value
		case "in-reply-to":
			double = m.InReplyTo != "" && m.InReplyTo != value
			m.InReplyTo = value
		case "references":
			double = len(m.References) > 0
			m.References = splitReferences(value)
		default:
			rest = append(rest, h)
		}
		if double {
			return nil, invalidf(name, codeBadHeader, "header %s contradicts the field of that name", h.Name)
		}
	}
	return rest, nil
}

func (m *Message) checkIDs() error {
	if !isMessageID(m.MessageID) {
		return badID("message_id", m.MessageID)
	}
	for _, id := range splitReferences(m.InReplyTo) {
		if !isReference(id) {
			return badID("in_reply_to", id)
		}
	}
	for i, id := range m.References {
		if !isReference(id) {
			return badID(fmt.Sprintf("references[%d]", i), id)
		}
	}
	return nil
}

func badID(field, id string) error {
	code, fault := textFault(id)
	if code != codeLineBreak {
		code, fault = "bad_message_id", "is not of the form <name@domain>"
	}
	return invalidf(field, code, "message id %s %s", excerpt(id), fault)
}

// HasHeader reports whether the caller gave a header field of that name.
func (m *Message) HasHeader(name string) bool {
	return slices.ContainsFunc(m.Headers, func(h HeaderField) bool { return strings.EqualFold(h.Name, name) })
}
