package mailer

import (
	"context"
	"time"
)

// submit sends a message by its tenant or, while that one cannot send, by the
// one it fails over to. It is one step: that one's own failover is not asked.
func (m *Mailer) submit(ctx context.Context, t *Tenant, s Submission) (Receipt, error) {
	other := m.failover(t, s)
	if other == nil {
		return t.submitChecked(ctx, s.Envelope, s.Content, s.Options)
	}
	first := t.Breaker.open()
	if first == nil {
		r, err := m.try(ctx, t, other, s)
		if err == nil {
			return r, nil
		}
		if first = asError(err); ctx.Err() != nil || !first.cannotSend() {
			return Receipt{}, first
		}
	}
	r, err := other.submitChecked(ctx, s.Envelope, s.Content, s.Options)
	if err == nil {
		return r, nil
	}
	e := asError(err)
	if e.cannotSend() && first.Kind.Outcome() == Retry {
		return Receipt{}, first // there is hope
	}
	return Receipt{}, e
}

// failover returns the tenant that may send a message in place of t; nil for
// none. What is not for its recipients goes nowhere else, and nothing for
// recipients goes to one that delivers elsewhere.
func (m *Mailer) failover(t *Tenant, s Submission) *Tenant {
	if t.Failover == "" || t.Failover == t.Name || t.Deliver.Astray() {
		return nil
	}
	other, ok := m.Lookup(t.Failover)
	if !ok || other.Deliver.Astray() || other.mayUse(s) != nil {
		return nil
	}
	return other
}

// longTry is how long a try must have lasted that is taken for a failure though
// its caller gave it up.
const longTry = 10 * time.Second

// try sends a message by its own tenant and notes what that says of it.
func (m *Mailer) try(ctx context.Context, t, other *Tenant, s Submission) (r Receipt, err error) {
	begin := time.Now()
	note := t.Breaker.unsure // where a content panics
	defer func() { note() }()
	// A rest is nothing to wait for when there is another way.
	if e := t.Limits.paused(); e != nil {
		err = e
	} else {
		r, err = t.submitChecked(ctx, s.Envelope, s.Content, s.Options)
	}
	e := asError(err)
	switch {
	case err == nil:
		note = func() { m.backAgain(t) }
	case e.cannotSend():
		if ctx.Err() == nil || time.Since(begin) >= longTry {
			note = func() { m.failedOver(t, other, e) }
		}
	case e.Reply.Code != 0: // it speaks of the message
		note = func() { m.backAgain(t) }
	}
	return r, err
}

func (m *Mailer) failedOver(t, other *Tenant, cause *Error) {
	if t.Breaker.down(cause) && m.Hooks.FailedOver != nil {
		m.Hooks.FailedOver(t.Name, other.Name, cause)
	}
}

func (m *Mailer) backAgain(t *Tenant) {
	if t.Breaker.up() && m.Hooks.BackAgain != nil {
		m.Hooks.BackAgain(t.Name)
	}
}

// cannotSend reports whether a failure shows that no message can go by this
// tenant at present. One that is about the message, or after which it may have
// been sent, does not.
func (e *Error) cannotSend() bool {
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
