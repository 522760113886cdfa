package mailer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Hooks are told of outcomes, for metrics, events and logs. Any may be nil.
// They are called after the outcome, on the goroutine of Send, with no lock
// held.
type Hooks struct {
	Sent   func(Submission, Receipt, time.Duration)
	Failed func(Submission, *Error, time.Duration)
	// FailedOver is told when a tenant can no longer send, why, and to whom its
	// messages go until it can; not for each of them, nor whether that one can.
	// BackAgain is told when it can.
	FailedOver func(from, to string, cause *Error)
	BackAgain  func(tenant string)
}

// Mailer is where all messages meet, by whatever way they came. It must not
// change while it is in use, and may be used concurrently.
type Mailer struct {
	// Lookup finds the settings of a tenant.
	Lookup func(name string) (*Tenant, bool)
	// Outbox takes all messages that may be sent. Nil: they are submitted at once,
	// and options that need an outbox are refused.
	Outbox Outbox
	// Hooks are told of messages that do not come into the outbox.
	Hooks Hooks
}

// Outbox keeps messages until they are sent.
type Outbox interface {
	// Send accepts a message durably and waits for what becomes of it, as long as
	// ctx and Options.Wait allow. Its receipt tells whether it was sent. With an
	// error, it is not in the outbox, or will not be sent; the receipt beside it says
	// which message that is, if one was accepted. The error is an [*Error].
	Send(ctx context.Context, s Submission) (Receipt, error)
}

// Send checks a submission, applies the sender rules of its tenant and hands it to
// the outbox or, without one, to Deliver. The error is an [*Error].
//
// Options.Wait, like the end of ctx, breaks a submission without an outbox off only
// as long as no content was written.
func (m *Mailer) Send(ctx context.Context, s Submission) (Receipt, error) {
	begin := time.Now()
	t, e := m.admit(&s)
	if e != nil {
		return Receipt{}, m.failed(s, e, begin)
	}
	if m.Outbox != nil {
		return m.Outbox.Send(ctx, s)
	}
	if s.Options.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = Within(ctx, s.Options.Wait)
		defer cancel()
	}
	r, err := m.submit(ctx, t, s)
	if err != nil {
		return Receipt{}, m.failed(s, asError(err), begin)
	}
	r.ID, r.MessageID = s.ID, s.MessageID
	if m.Hooks.Sent != nil {
		m.Hooks.Sent(s, r, time.Since(begin))
	}
	return r, nil
}

// Check reports why Send would not accept a submission, without the outbox or a mail
// server being asked, and without the hooks being told. The error is an [*Error].
func (m *Mailer) Check(s Submission) error {
	if _, e := m.admit(&s); e != nil {
		return e
	}
	return nil
}

func (m *Mailer) failed(s Submission, e *Error, begin time.Time) *Error {
	if m.Hooks.Failed != nil {
		m.Hooks.Failed(s, e, time.Since(begin))
	}
	return e
}

// admit returns the tenant of a submission, or reports why that is not accepted.
func (m *Mailer) admit(s *Submission) (*Tenant, *Error) {
	if e := s.check(m.Outbox != nil); e != nil {
		return nil, e
	}
	t, e := m.tenant(s.Tenant)
	if e != nil {
		return nil, e
	}
	return t, t.mayUse(s)
}

func (m *Mailer) tenant(name string) (*Tenant, *Error) {
	t, ok := m.Lookup(name)
	if !ok {
		return nil, &Error{Stage: StageAccept, Kind: KindConfig, Field: "tenant", Err: fmt.Errorf("unknown tenant %q", name)}
	}
	return t, nil
}

// Deliver submits a message at once, by its tenant, whose sender rules it applies.
// The error is an [*Error].
//
// While the tenant cannot send, since nobody can sign in, its server cannot be
// reached or wants no mail from it for a while, its Failover sends, if that
// one's sender rules allow it. A message that was refused is not sent again,
// and neither is one that may have been sent. So that time is left for that one,
// the tenant has half of what is left of ctx, and 15 s at most, from when it is
// the message's turn until its content begins. Where neither can send, the error
// tells why of both.
//
// A message that would wait longer than Options.Wait for the mailbox's turn fails at
// once, unless that is zero. The end of ctx breaks the submission off only as long as
// no content was written.
func (m *Mailer) Deliver(ctx context.Context, s Submission) (Receipt, error) {
	t, e := m.tenant(s.Tenant)
	if e == nil {
		e = t.mayUse(&s)
	}
	if e == nil {
		e = checkSendable(&s.Envelope, s.Content, &s.Options)
	}
	if e != nil {
		return Receipt{}, e
	}
	r, err := m.submit(ctx, t, s)
	if err != nil {
		return Receipt{}, asError(err)
	}
	r.ID, r.MessageID = s.ID, s.MessageID
	return r, nil
}

// check reports what is missing from a submission, or wanted of it that only
// an outbox can do.
func (s *Submission) check(outbox bool) *Error {
	bad := func(code, field, what string) *Error {
		return &Error{Stage: StageAccept, Kind: KindInvalid, Code: code, Field: field, Err: errors.New(what)}
	}
	switch {
	case s.ID == "":
		return bad("no_id", "id", "no id")
	case s.MessageID == "":
		return bad("no_message_id", "message_id", "no message id")
	case !outbox && (s.Options.Async || !s.Options.At.IsZero()):
		return bad("outbox_required", "", "sending later needs an outbox")
	}
	return checkSendable(&s.Envelope, s.Content, &s.Options)
}

// mayUse applies the sender rules to the address people see and to the one
// servers see, and the rules for recipients to all of them.
func (t *Tenant) mayUse(s *Submission) *Error {
	for _, a := range []Address{s.From, s.Envelope.From} {
		if !t.Senders.Allows(a) {
			return &Error{
				Stage: StageAccept, Kind: KindSender, Code: "sender_not_allowed", Field: "from",
				Err: fmt.Errorf("tenant %q may not send as %q", t.Name, a.Mailbox()),
			}
		}
	}
	for _, a := range s.Envelope.To {
		if t.Recipients != nil && !t.Recipients.Allows(a) {
			return &Error{
				Stage: StageAccept, Kind: KindInvalid, Code: "recipient_not_allowed", Field: "to",
				Err: fmt.Errorf("mail to %q is not allowed here", a.Mailbox()),
			}
		}
	}
	return nil
}

func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Stage: StageConnect, Kind: KindTemporary, Err: err}
}
