package mailer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// submit sends a message by its tenant or, while that one cannot send, by the
// one it fails over to. It is one step: that one's own failover is not asked.
func (m *Mailer) submit(ctx context.Context, t *Tenant, s Submission) (Receipt, error) {
	other := m.failover(t, s)
	if other == nil {
		return t.submitChecked(ctx, s.Envelope, s.Content, s.Options, nil)
	}
	first, probe := t.Breaker.open()
	if first == nil {
		r, over, err := m.try(ctx, t, other, s, probe)
		if err == nil {
			return r, nil
		}
		if first = asError(err); !over || ctx.Err() != nil {
			return Receipt{}, first
		}
	}
	r, err := other.submitChecked(ctx, s.Envelope, s.Content, s.Options, nil)
	if err == nil {
		return r, nil
	}
	e := asError(err)
	switch {
	case !e.CannotSend():
		return Receipt{}, e
	case first.Kind.Outcome() != Retry:
		return Receipt{}, bothFailed(e, t.Name, first)
	}
	return Receipt{}, bothFailed(first, other.Name, e) // there is hope
}

// bothFailed is e, which also tells what became of another try.
func bothFailed(e *Error, tenant string, other *Error) *Error {
	both := *e
	both.Err = bothError{e.Err, tenant, other}
	if e.Kind.Outcome() == Retry && other.Kind.Outcome() == Retry {
		both.RetryAfter = min(e.RetryAfter, other.RetryAfter) // whichever can send first
	}
	return &both
}

// bothError is a cause beside which another tenant's failure is told. For
// programs it is the cause alone.
type bothError struct {
	cause  error
	tenant string
	other  *Error
}

func (e bothError) Error() string {
	also := fmt.Sprintf("tenant %s cannot send either: %v", e.tenant, e.other)
	if e.cause == nil {
		return also
	}
	return e.cause.Error() + "; " + also
}

func (e bothError) Unwrap() error { return e.cause }

// failover returns the tenant that may send a message in place of t; nil for
// none. What is not for its recipients goes nowhere else, and nothing for
// recipients goes to one that delivers elsewhere.
func (m *Mailer) failover(t *Tenant, s Submission) *Tenant {
	if t.Failover == "" || t.Failover == t.Name || t.Deliver.Astray() {
		return nil
	}
	other, ok := m.Lookup(t.Failover)
	if !ok || other.Deliver.Astray() || other.mayUse(&s) != nil {
		return nil
	}
	return other
}

// longTry is how long a try must have lasted that is taken for a failure though
// it was given up.
const longTry = 10 * time.Second

// try sends a message by its own tenant and notes what that says of it. Over
// reports whether, with an error, the other tenant may send the message.
func (m *Mailer) try(ctx context.Context, t, other *Tenant, s Submission, probe bool) (r Receipt, over bool, err error) {
	a := &attempt{breaker: t.Breaker, probe: probe}
	defer a.end()
	note := func() { t.Breaker.unsure(probe) } // where a content panics
	defer func() { note() }()
	// A rest is nothing to wait for when there is another way.
	if e := t.Limits.paused(); e != nil {
		err = e
	} else {
		r, err = t.submitChecked(ctx, s.Envelope, s.Content, s.Options, a)
	}
	if err == nil {
		note = func() { m.backAgain(t, probe) }
		return r, false, nil
	}
	if down, ok := errors.AsType[downError](err); ok {
		return Receipt{}, true, down.refusal
	}
	e := asError(err)
	slow := e.tooSlow()
	switch {
	case e.CannotSend() || slow && e.Stage == StageMail:
		if a.conclusive(ctx, e) && !t.hasRoomForFewer(e) {
			note = func() { m.failedOver(t, other, e, probe) }
		}
		return Receipt{}, true, e
	case e.Reply.Code != 0: // it speaks of the message
		note = func() { m.backAgain(t, probe) }
	}
	return Receipt{}, slow, e
}

func (m *Mailer) failedOver(t, other *Tenant, cause *Error, probe bool) {
	if t.Breaker.down(cause, probe) && m.Hooks.FailedOver != nil {
		m.Hooks.FailedOver(t.Name, other.Name, cause)
	}
}

func (m *Mailer) backAgain(t *Tenant, probe bool) {
	if t.Breaker.up(probe) && m.Hooks.BackAgain != nil {
		m.Hooks.BackAgain(t.Name)
	}
}

// hasRoomForFewer reports whether a message only had too many recipients for what
// is left of the mailbox's day: the next one may fit.
func (t *Tenant) hasRoomForFewer(e *Error) bool {
	return e.Stage == StageLimit && e.Code == codeRecipients && t.Limits.Held() == nil
}

// tooSlow reports whether a try was broken off for the other tenant's sake,
// before the server could have got the message.
func (e *Error) tooSlow() bool { return e.Kind == KindTemporary && errors.Is(e, errSlow) }

// CannotSend reports whether a failure shows that no message can go by its tenant
// at present. One that is about the message, or after which it may have been sent,
// does not.
func (e *Error) CannotSend() bool {
	switch e.Kind {
	case KindUnauthorized:
		return true
	case KindThrottled:
		if e.Stage == StageLimit {
			return e.Code == codePaused || e.Code == codeRecipients
		}
		return e.Stage != StageRcpt
	case KindConfig, KindTemporary:
		switch e.Stage {
		case StageDNS, StageConnect, StageTLS, StageGreeting, StageEHLO, StageSTARTTLS, StageToken, StageAuth:
			return true
		default:
		}
	default:
	}
	return false
}
