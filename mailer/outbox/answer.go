package outbox

import (
	"errors"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// receipt tells what has become of a message. With the error that says why it will not
// be sent, it only says which it is.
func (m *Message) receipt() (mailer.Receipt, *mailer.Error) {
	r := m.named()
	r.Status, r.Recipients = mailer.StatusQueued, m.outcomes()
	if d := m.Delivery; d != nil {
		r.Tenant, r.Server, r.Reply, r.QueueID = d.Tenant, d.Server, d.Reply, d.QueueID
		r.Deliver = d.away()
	}
	switch m.State {
	case StateSent:
		r.Status = mailer.StatusSent
		return r, nil
	case StateFailed:
		e := m.cause()
		if e == nil {
			e = &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindRejected}
		}
		e.Recipients = r.Recipients
		return m.named(), e
	case StateCanceled:
		return m.named(), canceled()
	case StateScheduled:
		r.Status, r.Due = mailer.StatusScheduled, m.Due
	case StateQueued:
		r.Due = m.Due
	default:
	}
	if m.State != StateScheduled {
		r.Cause = m.cause()
	}
	return r, nil
}

// named is a receipt that says which message it is.
func (m *Message) named() mailer.Receipt {
	return mailer.Receipt{ID: m.ID, MessageID: m.MessageID, Tenant: m.Tenant}
}

func (m *Message) cause() *mailer.Error {
	if m.Failure == nil {
		return nil
	}
	return m.Failure.Err()
}

// outcomes are the last words about all recipients; nil where there is none yet.
func (m *Message) outcomes() []mailer.RecipientOutcome {
	said := false
	out := make([]mailer.RecipientOutcome, len(m.Recipients))
	for i, r := range m.Recipients {
		out[i] = mailer.RecipientOutcome{Address: r.Address, Kind: r.Kind, Reply: r.Reply}
		said = said || r.Done || r.Kind != mailer.KindNone
	}
	if !said {
		return nil
	}
	return out
}

func canceled() *mailer.Error {
	return &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindRejected, Code: CodeCanceled, Err: errors.New("the message was canceled")}
}

// busy is why a sender does not wait who might.
func busy() *mailer.Error {
	return &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: CodeBusy, Err: errors.New("too many senders wait for what becomes of their messages")}
}

// away returns where the message went in place of its recipients.
func (d *Delivery) away() mailer.Delivery {
	switch d.Staging {
	case "":
		return mailer.Delivery{}
	case mailer.Delivery{Nowhere: true}.String():
		return mailer.Delivery{Nowhere: true}
	}
	to, err := mailer.ParseAddress(d.Staging)
	if err != nil {
		return mailer.Delivery{}
	}
	return mailer.Delivery{To: to}
}

// closed reports whether a message in the lane has to wait for something.
func (l Lane) closed(now time.Time) bool {
	return l.State != LaneOpen && (l.Until.IsZero() || now.Before(l.Until))
}

// cause is why messages in a lane wait.
func (l Lane) cause() *mailer.Error {
	switch {
	case l.State == LaneOpen:
		return nil
	case l.Failure != nil:
		return l.Failure.Err()
	}
	return &mailer.Error{ // CodePaused, as a rule
		Stage: mailer.StageAccept, Kind: mailer.KindConfig, Code: "tenant_" + string(l.State),
		Err: errors.New("the messages of this tenant are " + string(l.State)),
	}
}
