package mailer

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Compose checks the message and returns it in the form of RFC 5322 and MIME
// (RFC 2045): everything in 7 bits, except where an address needs SMTPUTF8.
// Line breaks and other control characters in header data are refused, never
// cleaned. A failure is an [*Error] of [KindInvalid] with Field and Code, or of
// [KindTemporary] when an attached message cannot be read.
//
// What Compose returns shares no memory with m but for the attachments' data.
// Compose fills in an empty Date and MessageID in m, so that the caller knows
// them, and changes nothing else.
func (m *Message) Compose() (Content, error) { return m.compose(nil) }

func (m *Message) compose(random io.Reader) (Content, error) {
	work := *m
	headers, err := work.takeHeaders()
	if err != nil {
		return nil, err
	}
	if work.Date.IsZero() {
		work.Date = time.Now().UTC()
	}
	if err := work.check(); err != nil {
		return nil, err
	}
	if work.MessageID == "" {
		work.MessageID = NewMessageID(NewID(), work.From)
	}
	if err := work.checkIDs(); err != nil {
		return nil, err
	}
	root, err := work.tree(random)
	if err != nil {
		return nil, err
	}

	c := composers.Get().(*composer)
	defer c.giveBack()
	c.buf = slices.Grow(c.buf, 1024+len(m.Text)+len(m.Text)/2+len(m.HTML)+len(m.HTML)/2)
	if err := c.header(&work, headers); err != nil {
		return nil, err
	}
	if err := c.part(&root); err != nil {
		return nil, err
	}
	if root.text == "" || !strings.HasSuffix(string(c.buf[max(0, len(c.buf)-2):]), "\r\n") {
		c.buf = append(c.buf, "\r\n"...)
	}
	c.flush()

	m.Date, m.MessageID = work.Date, work.MessageID
	content := &composed{utf8Header: work.needsSMTPUTF8()}
	content.segments = append(content.one[:0], c.segments...)
	for _, s := range content.segments {
		content.size += s.size()
	}
	return content, nil
}

// needsSMTPUTF8 looks at the addresses that appear in the header.
func (m *Message) needsSMTPUTF8() bool {
	for _, list := range [][]Address{{m.From, m.Sender}, m.ReplyTo, m.To, m.Cc} {
		for _, a := range list {
			if a.NeedsSMTPUTF8() {
				return true
			}
		}
	}
	return false
}

// senders are the addresses of the field Sender, which is not there where it would say
// what From says (RFC 5322, section 3.6.2).
func (m *Message) senders() []Address {
	if m.Sender.IsZero() || m.Sender.Mailbox() == m.From.Mailbox() {
		return nil
	}
	return []Address{m.Sender}
}

// composed is a Content made by Compose.
type composed struct {
	segments []segment
	one      [1]segment // room for those of a message without attachments
	size     int64
	// utf8Header: an address in the header cannot be written in ASCII. All else
	// is, always.
	utf8Header bool
}

func (c *composed) Size() int64      { return c.size }
func (c *composed) EightBit() bool   { return c.utf8Header }
func (c *composed) UTF8Header() bool { return c.utf8Header }

// WriteTo fails with an [*Error] if an attachment cannot be read or does not
// have the size it had, and with w's error if w fails.
func (c *composed) WriteTo(w io.Writer) (int64, error) {
	counter := &countingWriter{w: w}
	for _, s := range c.segments {
		if err := s.writeTo(counter); err != nil {
			return counter.n, err
		}
	}
	return counter.n, nil
}

// part is a node of the MIME tree. Exactly one of children, text and file is
// there.
type part struct {
	subtype  string // of multipart or of text
	method   string // of text/calendar
	boundary string
	children []part
	text     string
	file     *attachment
}

// tree arranges the bodies and attachments:
// mixed(related(alternative(text, html, calendar), inline…), attachments…), without
// the levels that would have one child.
func (m *Message) tree(random io.Reader) (part, error) {
	if m.HTML == "" && m.Calendar == nil && len(m.Attachments) == 0 { // often
		return part{subtype: "plain", text: m.Text}, nil
	}
	var bodies, inline, files []part
	if m.Text != "" {
		bodies = append(bodies, part{subtype: "plain", text: m.Text})
	}
	if m.HTML != "" {
		bodies = append(bodies, part{subtype: "html", text: m.HTML})
	}
	if c := m.Calendar; c != nil {
		bodies = append(bodies, part{subtype: "calendar", method: c.method(), text: c.Content})
	}
	for i, a := range m.Attachments {
		file, err := a.check("attachments[" + strconv.Itoa(i) + "]")
		if err != nil {
			return part{}, err
		}
		// Only HTML can refer to another part.
		if file.inline && file.contentID != "" && m.HTML != "" {
			inline = append(inline, part{file: file})
		} else {
			files = append(files, part{file: file})
		}
	}
	children := bodies
	for _, level := range []struct {
		subtype string
		more    []part
	}{{"alternative", nil}, {"related", inline}, {"mixed", files}} {
		children = append(children, level.more...)
		if len(children) < 2 {
			continue
		}
		boundary, err := newBoundary(random)
		if err != nil {
			return part{}, err
		}
		children = []part{{subtype: level.subtype, boundary: boundary, children: children}}
	}
	return children[0], nil
}

// composer collects the segments of a message.
type composer struct {
	segments []segment
	buf      []byte // what follows the last segment
}

var composers = sync.Pool{New: func() any { return new(composer) }}

// maxComposed is the largest buffer that is used again.
const maxComposed = 64 << 10

// giveBack ends the use of the composer.
func (c *composer) giveBack() {
	clear(c.segments)
	c.segments, c.buf = c.segments[:0], c.buf[:0]
	if cap(c.buf) > maxComposed {
		c.buf = nil
	}
	composers.Put(c)
}

// flush makes a segment of what is in the buffer, as large as that.
func (c *composer) flush() {
	switch n := len(c.buf); {
	case n == 0:
	case cap(c.buf) > maxComposed:
		c.segments = append(c.segments, literal(c.buf))
		c.buf = nil
	default:
		c.segments = append(c.segments, literal(bytes.Clone(c.buf)))
		c.buf = c.buf[:0]
	}
}

// header writes the fields of the message in their fixed order.
func (c *composer) header(m *Message, headers []HeaderField) error {
	date := m.Date
	if _, offset := date.Zone(); offset%60 != 0 || offset <= -24*3600 || offset >= 24*3600 {
		date = date.UTC() // RFC 5322 has no such zones
	}
	c.buf = append(date.AppendFormat(append(c.buf, "Date: "...), time.RFC1123Z), "\r\n"...)
	if err := c.addresses("From", "from", m.From); err != nil {
		return err
	}
	if err := c.addresses("Sender", "sender", m.senders()...); err != nil {
		return err
	}
	if err := c.addresses("Reply-To", "reply_to", m.ReplyTo...); err != nil {
		return err
	}
	if err := c.addresses("To", "to", m.To...); err != nil {
		return err
	}
	if err := c.addresses("Cc", "cc", m.Cc...); err != nil {
		return err
	}
	if err := c.ids("Message-ID", "message_id", m.MessageID); err != nil {
		return err
	}
	if err := c.ids("In-Reply-To", "in_reply_to", splitReferences(m.InReplyTo)...); err != nil {
		return err
	}
	if err := c.ids("References", "references", m.References...); err != nil {
		return err
	}
	w := startField(c.buf, "Subject")
	w.text(m.Subject, func(word string) bool { return needsEncoding(word) || len(word) > foldAt })
	if err := c.end(w, "subject"); err != nil {
		return err
	}
	for _, h := range headers {
		w := startField(c.buf, h.Name)
		// A value that is ASCII may hold encoded words of the caller's own.
		w.text(h.Value, func(word string) bool { return !isASCII(word) })
		if err := c.end(w, "headers."+h.Name); err != nil {
			return err
		}
	}
	c.buf = append(c.buf, "MIME-Version: 1.0\r\n"...)
	return nil
}

// addresses writes a field with mailboxes, unless there are none. Errors call it field.
func (c *composer) addresses(name, field string, list ...Address) error {
	if len(list) == 0 {
		return nil
	}
	w := startField(c.buf, name)
	w.addresses(list)
	return c.end(w, field)
}

// ids writes a field with message ids, unless there are none.
func (c *composer) ids(name, field string, list ...string) error {
	if len(list) == 0 {
		return nil
	}
	w := startField(c.buf, name)
	for _, id := range list {
		w.word(id)
	}
	return c.end(w, field)
}

func (c *composer) end(f *field, name string) error {
	b, ok := f.end()
	if !ok {
		return invalidf(name, codeTooLong, "a word is too long for a line of %d octets", maxLine)
	}
	c.buf = b
	return nil
}

// part writes the rest of p's header and its body, without a line break at the
// end: in a multipart that one belongs to the boundary (RFC 2046, section 5.1).
func (c *composer) part(p *part) error {
	switch {
	case p.text != "":
		c.text(p)
	case p.file != nil:
		b, err := p.file.header(c.buf)
		if err != nil {
			return err
		}
		c.buf = append(b, "\r\n"...)
		c.flush()
		c.segments = append(c.segments, encoded{p.file})
	default:
		f := startField(c.buf, "Content-Type")
		f.word("multipart/" + p.subtype + ";")
		if p.subtype == "related" { // RFC 2387, section 3.1
			f.word(`type="` + p.children[0].contentType() + `";`)
		}
		f.word(`boundary="` + p.boundary + `"`)
		c.buf, _ = f.end()
		for i := range p.children {
			// The line break ends the child before, or the header.
			c.buf = append(c.buf, "\r\n--"+p.boundary+"\r\n"...)
			if err := c.part(&p.children[i]); err != nil {
				return err
			}
		}
		c.buf = append(c.buf, "\r\n--"+p.boundary+"--"...)
	}
	return nil
}

func (p *part) contentType() string {
	switch {
	case p.text != "":
		return "text/" + p.subtype
	case p.file != nil:
		return p.file.contentType
	}
	return "multipart/" + p.subtype
}

// newBoundary makes a MIME boundary (RFC 2046, section 5.1.1) of 30 random
// characters, with the system's randomness where random is nil. It is compared
// with nothing: no content meets it by chance.
func newBoundary(random io.Reader) (string, error) {
	if random == nil {
		random = rand.Reader
	}
	var b [15]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("reading random octets: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}
