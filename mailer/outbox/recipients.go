package outbox

import (
	"slices"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// pending returns the recipients of the next try.
func (m *Message) pending() []mailer.Address {
	to := make([]mailer.Address, 0, len(m.Recipients))
	for _, r := range m.Recipients {
		if !r.Done {
			to = append(to, r.Address)
		}
	}
	return to
}

// Delivered is how many of the recipients have got the message, as far as is known.
func (m *Message) Delivered() int {
	n := 0
	for _, r := range m.Recipients {
		if r.delivered() {
			n++
		}
	}
	return n
}

func (r *Recipient) delivered() bool { return r.Done && r.Kind == mailer.KindNone }

// took notes how a try handed the message over, and returns why some of its recipients
// have not got it yet; nil where all is said.
func (m *Message) took(r mailer.Receipt) *mailer.Error {
	if m.Delivery != nil {
		m.Earlier = append(m.Earlier, *m.Delivery)
	}
	d := &Delivery{Tenant: r.Tenant, Server: r.Server, Reply: r.Reply, QueueID: r.QueueID, Staging: r.Deliver.String()}
	m.Delivery = d
	asked := m.pending()
	rest := m.taken(r.Recipients)
	if rest == nil && len(m.Earlier) == 0 {
		return nil
	}
	for _, r := range m.Recipients {
		if r.delivered() && slices.Contains(asked, r.Address) {
			d.To = append(d.To, r.Address)
		}
	}
	return rest
}

// taken notes what the server said of the recipients of a message that it took, and
// returns why some of them have not got it yet; nil where all is said.
func (m *Message) taken(said []mailer.RecipientOutcome) *mailer.Error {
	var rest *mailer.Error
	m.each(said, func(r *Recipient, o *mailer.RecipientOutcome) {
		if o == nil { // it took the message and spoke of nobody
			r.Done, r.Kind = true, mailer.KindNone
			return
		}
		r.Kind, r.Reply = o.Kind, o.Reply
		switch o.Kind.Outcome() {
		case mailer.Done, mailer.Dead:
			r.Done = true
		default:
			rest = refusal(rest, m, o.Kind, o.Reply)
		}
	})
	return rest
}

// refused notes what the server said of the recipients of a message that it did not
// take, and returns why some of them may get it yet; nil where the failure is about
// all of them. With all set, one refusal is about all.
func (m *Message) refused(e *mailer.Error, all bool) *mailer.Error {
	dead := e.Kind.Outcome() == mailer.Dead
	if e.Stage == mailer.StageRcpt {
		for _, o := range e.Recipients {
			all = all || o.Kind == mailer.KindNone // it could have gone to that one
		}
	}
	var rest *mailer.Error
	m.each(e.Recipients, func(r *Recipient, o *mailer.RecipientOutcome) {
		switch {
		case o != nil && o.Kind != mailer.KindNone:
			r.Kind, r.Reply = o.Kind, o.Reply
		case dead && e.Stage != mailer.StageRcpt:
			r.Kind, r.Reply = e.Kind, e.Reply
		}
		switch {
		case all: // none is done before the others
		case r.Kind.Outcome() == mailer.Dead:
			r.Done = true
		case dead && o != nil && o.Kind != mailer.KindNone:
			rest = refusal(rest, m, o.Kind, o.Reply)
		}
	})
	return rest
}

// refusal is the failure of a message that waits for some of its recipients only.
func refusal(first *mailer.Error, m *Message, k mailer.Kind, reply mailer.Reply) *mailer.Error {
	if first != nil {
		return first
	}
	e := &mailer.Error{Stage: mailer.StageRcpt, Kind: k, Reply: reply}
	if m.Delivery != nil {
		e.Server = m.Delivery.Server
	}
	return e
}

// each calls f with each pending recipient and what was said of it, in one order;
// nil for nothing.
func (m *Message) each(said []mailer.RecipientOutcome, f func(*Recipient, *mailer.RecipientOutcome)) {
	i := 0
	for n := range m.Recipients {
		r := &m.Recipients[n]
		if r.Done {
			continue
		}
		var o *mailer.RecipientOutcome
		if i < len(said) && said[i].Address == r.Address {
			o = &said[i]
		}
		i++
		f(r, o)
	}
}
