package mailer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
)

// Delivery turns the mail of a tenant away from its recipients, for staging.
// The zero value does not: mail goes to whom it is for.
type Delivery struct {
	// Nowhere checks and composes messages and dials nobody.
	Nowhere bool
	// To gets all messages in place of their recipients, who are named in
	// X-Original-To at the top of each.
	To Address
}

// Astray reports whether mail does not go to whom it is for.
func (d Delivery) Astray() bool { return d.Nowhere || !d.To.IsZero() }

// String returns "none", the address in place of the recipients, or nothing
// where mail goes to whom it is for.
func (d Delivery) String() string {
	if d.Nowhere {
		return "none"
	}
	return d.To.Mailbox()
}

// notDelivered is what a receipt says in place of a server.
const notDelivered = "not delivered: this tenant delivers nothing"

// submitAstray submits to nobody, or to somebody else.
func (t *Tenant) submitAstray(ctx context.Context, env Envelope, content Content, o Options) (Receipt, error) {
	d := t.Deliver
	if d.Nowhere {
		r, e := d.drop(t.Name, env, content)
		if e != nil {
			return Receipt{}, e
		}
		return r, nil
	}
	other, prefixed := d.redirect(env, content)
	r, err := t.submitLimited(ctx, other, prefixed, o, nil)
	if err != nil {
		e := *asError(err)
		e.Recipients = d.outcomes(env.To, e.Recipients)
		return Receipt{}, &e
	}
	r.Recipients, r.Deliver = d.outcomes(env.To, r.Recipients), d
	return r, nil
}

// drop does all with a message but send it.
func (d Delivery) drop(tenant string, env Envelope, content Content) (Receipt, *Error) {
	n, err := content.WriteTo(io.Discard)
	if err == nil && n != content.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		e := &Error{Stage: StageData, Kind: KindTemporary, Err: err}
		if cause, ok := errors.AsType[*Error](err); ok { // the content knows better what this means
			e.Kind, e.Code, e.Field = cause.Kind, cause.Code, cause.Field
		}
		return Receipt{}, e
	}
	r := Receipt{Tenant: tenant, Status: StatusSent, Reply: Reply{Text: notDelivered}, Deliver: d}
	for _, a := range env.To {
		r.Recipients = append(r.Recipients, RecipientOutcome{Address: a, Reply: r.Reply})
	}
	return r, nil
}

// redirect returns what to send in place of a message.
func (d Delivery) redirect(env Envelope, content Content) (Envelope, Content) {
	return Envelope{From: env.From, To: []Address{d.To}}, prefixed{originalTo(env.To), content}
}

// originalTo is a header field with the recipients, one in each line.
func originalTo(to []Address) []byte {
	var b bytes.Buffer
	b.WriteString("X-Original-To:")
	for i, a := range to {
		if i > 0 {
			b.WriteString(",\r\n")
		}
		b.WriteString(" " + a.Mailbox())
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// outcomes says of each original recipient what the server said of the one in
// their place, of whom got may tell.
func (d Delivery) outcomes(original []Address, got []RecipientOutcome) []RecipientOutcome {
	if len(got) != 1 {
		return nil
	}
	out := make([]RecipientOutcome, len(original))
	for i, a := range original {
		o := got[0]
		o.Address = a
		o.Reply.Text = strings.TrimSpace("to " + d.To.Mailbox() + " instead: " + o.Reply.Text)
		out[i] = o
	}
	return out
}

// prefixed is a content with header fields on top.
type prefixed struct {
	fields []byte
	Content
}

// WriteTo writes the whole message.
func (p prefixed) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p.fields)
	if err != nil {
		return int64(n), err
	}
	m, err := p.Content.WriteTo(w)
	return int64(n) + m, err
}

// Size is the number of octets that WriteTo writes.
func (p prefixed) Size() int64 { return int64(len(p.fields)) + p.Content.Size() }

// EightBit reports whether the message has octets above 127.
func (p prefixed) EightBit() bool { return p.UTF8Header() || p.Content.EightBit() }

// UTF8Header reports whether a header field has octets above 127.
func (p prefixed) UTF8Header() bool { return !isASCII(string(p.fields)) || p.Content.UTF8Header() }
