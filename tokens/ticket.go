package tokens

import (
	"errors"
	"time"
)

// invitationLife is how long an invitation can be renewed after sign-ins that
// failed. After that, the operator has to ask again.
const invitationLife = 30 * time.Minute

// Ticket asks a person to sign in to an account. Sealed, it is part of a link
// that can be handed to the owner of the mailbox.
type Ticket struct {
	Account Account `json:"account"`
	Prompt  string  `json:"prompt,omitempty"`
	By      string  `json:"by,omitempty"`
	// Issued is when the person was first asked. Renewals keep it.
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires"`
}

// NewTicket seals an invitation to sign in to an account, good for ten minutes.
// By names who asks. A prompt other than the provider's own can be given, such
// as select_account after a wrong one had signed in. The error is a
// [*FlowError] where nobody can sign in, else one of the key ring.
func (f *Flow) NewTicket(c *Client, a Account, by, prompt string) (sealed string, expires time.Time, err error) {
	if err := c.signsIn(a); err != nil {
		return "", time.Time{}, err
	}
	return f.sealTicket(f.ticket(a, by, prompt))
}

func (f *Flow) ticket(a Account, by, prompt string) Ticket {
	now := f.now().UTC().Truncate(time.Second)
	return Ticket{Account: a, By: by, Prompt: prompt, Issued: now, Expires: now.Add(flowLife)}
}

// Renew seals the invitation of a sign-in that failed anew, so that the person
// can try again: with the same By and Issued, good for ten minutes, but never
// longer than thirty after Issued. An empty prompt keeps the ticket's.
//
// Ok is false where another try is not the person's to make: the error does not
// come from a [Flow.Complete] that knew the browser by a cookie in its time, the reason is one that a try can't mend, or the thirty minutes are over.
func (f *Flow) Renew(e *FlowError, prompt string) (sealed string, expires time.Time, ok bool) {
	if e == nil {
		return "", time.Time{}, false
	}
	switch e.Reason {
	case ReasonDenied, ReasonScope, ReasonIdentity, ReasonMailServer, ReasonExchange:
	default:
		return "", time.Time{}, false
	}
	// An error that knows no ticket has none that was issued in time.
	t, now := e.ticket, f.now().UTC().Truncate(time.Second)
	last := t.Issued.Add(invitationLife)
	if !now.Before(last) {
		return "", time.Time{}, false
	}
	t.Expires = now.Add(flowLife)
	if last.Before(t.Expires) {
		t.Expires = last
	}
	if prompt != "" {
		t.Prompt = prompt
	}
	sealed, expires, err := f.sealTicket(t)
	return sealed, expires, err == nil
}

func (f *Flow) sealTicket(t Ticket) (sealed string, expires time.Time, err error) {
	sealed, err = f.seal(ticketName, t)
	return sealed, t.Expires, err
}

// OpenTicket reads a ticket. The error is a [*FlowError].
func (f *Flow) OpenTicket(sealed string) (Ticket, error) {
	var t Ticket
	if err := f.open(ticketName, sealed, &t); err != nil {
		return Ticket{}, &FlowError{Reason: ReasonTicket, Err: err}
	}
	if f.now().After(t.Expires) {
		return Ticket{}, &FlowError{Reason: ReasonTicket, Account: t.Account, Err: errors.New("the link has expired")}
	}
	return t, nil
}
