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
	Hooks  Hooks
}

// Send checks a submission, applies the sender rules of its tenant and
// submits it at once. Options that need an outbox are refused. The error is an
// [*Error].
//
// While the tenant cannot send, since nobody can sign in, its server cannot be
// reached or wants no mail from it for a while, its Failover sends, if that
// one's sender rules allow it. A message that was refused is not sent again,
// and neither is one that may have been sent. So that time is left for that one,
// the tenant has half of what is left of ctx, and 15 s at most, from when it is
// the message's turn until its content begins. Where neither can send, the error
// tells why of both.
//
// Options.Wait, like the end of ctx, breaks the submission off only as long as
// no content was written.
func (m *Mailer) Send(ctx context.Context, s Submission) (Receipt, error) {
	begin := time.Now()
	r, err := m.send(ctx, s)
	took := time.Since(begin)
	if err != nil {
		e := asError(err)
		if m.Hooks.Failed != nil {
			m.Hooks.Failed(s, e, took)
		}
		return Receipt{}, e
	}
	if m.Hooks.Sent != nil {
		m.Hooks.Sent(s, r, took)
	}
	return r, nil
}

func (m *Mailer) send(ctx context.Context, s Submission) (Receipt, error) {
	if e := s.check(); e != nil {
		return Receipt{}, e
	}
	t, ok := m.Lookup(s.Tenant)
	if !ok {
		return Receipt{}, &Error{Stage: StageAccept, Kind: KindConfig, Field: "tenant", Err: fmt.Errorf("unknown tenant %q", s.Tenant)}
	}
	if e := t.mayUse(s); e != nil {
		return Receipt{}, e
	}
	if s.Options.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Options.Wait)
		defer cancel()
	}
	r, err := m.submit(ctx, t, s)
	if err != nil {
		return Receipt{}, err
	}
	r.ID, r.MessageID = s.ID, s.MessageID
	return r, nil
}

// check reports what is missing from a submission, or wanted of it that only
// an outbox can do.
func (s Submission) check() *Error {
	bad := func(code, field, what string) *Error {
		return &Error{Stage: StageAccept, Kind: KindInvalid, Code: code, Field: field, Err: errors.New(what)}
	}
	switch {
	case s.ID == "":
		return bad("no_id", "id", "no id")
	case s.MessageID == "":
		return bad("no_message_id", "message_id", "no message id")
	case s.Options.Async || !s.Options.At.IsZero():
		return bad("outbox_required", "", "sending later needs an outbox")
	}
	return checkSendable(s.Envelope, s.Content, s.Options)
}

// mayUse applies the sender rules to the address people see and to the one
// servers see.
func (t *Tenant) mayUse(s Submission) *Error {
	for _, a := range []Address{s.From, s.Envelope.From} {
		if !t.Senders.Allows(a) {
			return &Error{
				Stage: StageAccept, Kind: KindSender, Code: "sender_not_allowed", Field: "from",
				Err: fmt.Errorf("tenant %q may not send as %q", t.Name, a.Mailbox()),
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
