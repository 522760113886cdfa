package mailer

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	codeTooLarge      = "too_large"
	codeMissingFrom   = "missing_from"
	codeMisleading    = "misleading_name"
	codeLongHeader    = "header_too_large"
	maxReceivedHeader = 256 << 10
	maxReceivedFields = 2000

	// CodeLoop is the Code of a message that has been through too many servers.
	CodeLoop = "routing_loop"
	// maxHops is how many servers a message may have been through: RFC 5321, section
	// 6.3, wants at least 100.
	maxHops = 100
)

// Intake reads a message as another program wrote it (RFC 5322), and makes a
// [Content] of it. What Content promises and the message breaks is mended; all
// else stays octet for octet, so that a signature (DKIM, S/MIME) over a message
// that needed no mending stays valid.
//
// What is mended:
//   - A bare LF becomes CRLF, unless RefuseBareLF is set. A bare CR and a NUL are
//     always refused. The last line gets an end.
//   - Bcc, Resent-Bcc and Return-Path go. Date and Message-ID are added where they
//     are missing or empty, MIME-Version where there are fields of MIME. A text
//     above 127 without any of those gets them (RFC 1428).
//   - White space before a field's colon goes, as do lines of white space in the
//     header, and the first line of an mbox. The first line that is no field ends
//     the header, if no empty line does.
//   - A line over 998 octets is refused with RefuseLongLines. Otherwise it is folded
//     at white space in a header, and refused if
//     it has none. In a body it is broken so that decoding gives what it gave
//     before: base64 anywhere, quoted-printable by a soft line break. A text in
//     7bit or 8bit has nothing like that: it is broken behind its last white
//     space, and where there is none between two characters, also of UTF-8 and
//     ISO-2022-JP.
//
// The From field must have exactly one address, by the rules of [ParseAddress].
// A value that stricter readers would take for something else is written anew.
// With more than 100 Received fields a message goes in a circle, and is refused.
//
// An Intake may be copied, and used by several goroutines at once.
type Intake struct {
	// MaxSize is how many octets a message may have. Zero: no limit.
	MaxSize int64
	// RefuseBareLF refuses a message with a bare LF.
	RefuseBareLF bool
	// RefuseLongLines refuses a message with a line over 998 octets, which is mended
	// otherwise.
	RefuseLongLines bool
	// Spool takes bodies over 64 KiB. Nil: they stay in memory.
	Spool *Spool
	// From, if set, replaces the address in the From field. The original one goes
	// to Reply-To, unless there is one, and the Sender field goes. The name stays
	// if the field has one.
	From Address
	// DefaultFrom stands in the From field where there is none.
	DefaultFrom Address
	// Trace is a field to put in front of the header, as Received is (RFC 5321, section
	// 4.4), with its line ends.
	Trace string
	// Now is the clock for Date. Nil means time.Now.
	Now func() time.Time
}

// Received is a message that an [Intake] has read.
type Received struct {
	Content Content
	// From is the address in the From field, after rewriting.
	From Address
	// MessageID is the value of the Message-ID field, with angle brackets.
	MessageID string
	// Repaired tells what was mended, in words for a log.
	Repaired []string

	to   []recipientField
	body *spooled
}

// Recipients returns the addresses in the fields To, Cc and Bcc, without duplicates. A
// list that is empty but for its name, such as "undisclosed-recipients:;", has none. The
// error is an [*Error] with Field.
func (r *Received) Recipients() ([]Address, error) {
	var m Message
	for _, f := range r.to {
		list, err := ParseAddressList(f.value)
		if e, ok := errors.AsType[*Error](err); ok {
			e.Field = f.name
			return nil, e
		}
		m.To = append(m.To, list...)
	}
	return m.Envelope().To, nil
}

// recipientField is the value of a field with recipients.
type recipientField struct{ name, value string }

// recipients returns the fields with recipients.
func (h *header) recipients() (fields []recipientField) {
	for _, f := range h.fields {
		if f.name != "to" && f.name != "cc" && f.name != "bcc" {
			continue
		}
		if v := f.value(); v != "" && !strings.HasSuffix(v, ":;") {
			fields = append(fields, recipientField{f.name, v})
		}
	}
	return fields
}

// Close gives back the spool file. Content must not be used afterwards: writing
// it fails. Close may be called more than once.
func (r *Received) Close() error { return r.body.Close() }

// Read reads one message up to the end of r. Id is for its Message-ID, if it has
// none: something unique that can stand before the "@", as from [NewID].
//
// It fails with r's own error if r fails, and otherwise with an [*Error]: of
// [KindInvalid] with Field and Code where the message is at fault, of
// [KindTemporary] where the spool is full or broken. It may return before r ends.
func (in *Intake) Read(r io.Reader, id string) (*Received, error) {
	buffer := lineBuffers.Get().(*bufio.Reader)
	buffer.Reset(r)
	defer func() {
		buffer.Reset(nil)
		lineBuffers.Put(buffer)
	}()
	l := &lineReader{r: buffer, max: in.MaxSize, noLF: in.RefuseBareLF, noLong: in.RefuseLongLines}
	h, first, err := readHeader(l)
	if err != nil {
		return nil, err
	}
	from, err := in.settleFrom(h)
	if err != nil {
		return nil, err
	}
	now := time.Now
	if in.Now != nil {
		now = in.Now
	}
	to := h.recipients()
	messageID := h.mend(id, from, now())
	b, err := readBody(l, h, first, in.Spool)
	if err != nil {
		return nil, err
	}
	h.mendMIME(b.eightBit, b.isUTF8)
	head := h.octets(in.Trace)
	utf8Header := !isASCII(head)
	return &Received{
		Content:   &received{header: head, body: b.out, eightBit: b.eightBit || utf8Header, utf8Header: utf8Header},
		From:      from,
		MessageID: messageID,
		Repaired:  l.mended,
		to:        to,
		body:      b.out,
	}, nil
}

// repairs collects what was mended, each thing once.
type repairs []string

func (r *repairs) note(what string) {
	if !slices.Contains(*r, what) {
		*r = append(*r, what)
	}
}

// received is a Content made by an Intake.
type received struct {
	header               []byte // with the empty line
	body                 *spooled
	eightBit, utf8Header bool
}

func (c *received) Size() int64      { return int64(len(c.header)) + c.body.size }
func (c *received) EightBit() bool   { return c.eightBit }
func (c *received) UTF8Header() bool { return c.utf8Header }

// WriteTo fails with an [*Error] if the spool file cannot be read or was given
// back, and with w's error if w fails.
func (c *received) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c.header)
	if err != nil {
		return int64(n), err
	}
	m, err := c.body.WriteTo(w)
	return int64(n) + m, err
}
