package outbox

import (
	"errors"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// receipt tells what has become of a message, or why it will not be sent.
func (m *Message) receipt() (mailer.Receipt, *mailer.Error) {
	r := mailer.Receipt{ID: m.ID, MessageID: m.MessageID, Tenant: m.Tenant, Status: mailer.StatusQueued, Recipients: m.outcomes()}
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
		return mailer.Receipt{}, e
	case StateCanceled:
		return mailer.Receipt{}, canceled()
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
	return &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindRejected, Code: "canceled", Err: errors.New("the message was canceled")}
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
	return &mailer.Error{
		Stage: mailer.StageAccept, Kind: mailer.KindConfig, Code: "tenant_" + string(l.State),
		Err: errors.New("the messages of this tenant are " + string(l.State)),
	}
}
