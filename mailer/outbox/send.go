package outbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

const (
	// longestWait is the longest that a sender waits for an outcome.
	longestWait = 25 * time.Second
	// askEvery is how often the engine is asked about a message that another process
	// may send.
	askEvery = time.Second
)

// Send accepts a message and waits for what becomes of it: until ctx ends, as long as
// Options.Wait says, and 25 s at most. Once it is accepted, the end of ctx changes
// nothing. The receipt of a message that waits for something else than its sender
// comes at once and says for what. The error is an [*mailer.Error]; its Code is
// "outbox_full" or "outbox_unavailable" where the message could not be stored,
// "concurrent_idempotent_requests" where one with the same idempotency key is just
// being sent, and "invalid_idempotent_request" where that one was another.
func (o *Outbox) Send(ctx context.Context, sub mailer.Submission) (mailer.Receipt, error) {
	now := time.Now()
	s := o.settings.Load()
	p, ok := s.policy(sub.Tenant)
	if !ok {
		return mailer.Receipt{}, noTenant(sub.Tenant)
	}
	if ctx.Err() != nil {
		return mailer.Receipt{}, notStored("outbox_unavailable", context.Cause(ctx))
	}
	m := newMessage(sub, p, now)
	var w *waiter
	until := waitUntil(now, ctx, sub.Options)
	if !sub.Options.Async && m.State == StateQueued {
		w = o.waiters.add(m.ID, m.Tenant, until) // before it may be sent
	}
	// Whoever goes away now would not know whether it was stored.
	if err := o.engine.Accept(context.WithoutCancel(ctx), m, sub.Content); err != nil {
		if w != nil {
			o.waiters.remove(m.ID)
		}
		r, e := o.notAccepted(m, err)
		if e != nil {
			return mailer.Receipt{}, e
		}
		return r, nil
	}
	s.accepted(m)
	r := mailer.Receipt{ID: m.ID, MessageID: m.MessageID, Tenant: m.Tenant, Status: mailer.StatusQueued, Due: m.Due}
	if w == nil {
		if m.State == StateScheduled {
			r.Status = mailer.StatusScheduled
		}
		return r, nil
	}
	a := o.wait(ctx, m, w)
	if a.err != nil {
		return mailer.Receipt{}, a.err
	}
	a.receipt.ID, a.receipt.MessageID = m.ID, m.MessageID
	if a.receipt.Tenant == "" {
		a.receipt.Tenant = m.Tenant
	}
	return a.receipt, nil
}

// waitUntil returns how long a sender waits.
func waitUntil(now time.Time, ctx context.Context, o mailer.Options) time.Time {
	wait := longestWait
	if o.Wait > 0 {
		wait = min(wait, o.Wait)
	}
	until := now.Add(wait)
	if at, ok := ctx.Deadline(); ok && at.Before(until) {
		until = at
	}
	return until
}

// wait waits for the answer to a message that was accepted.
func (o *Outbox) wait(ctx context.Context, m *Message, w *waiter) answer {
	if l := o.lanes.get(m.Tenant); l.closed(time.Now()) || o.waiters.isStopped() {
		o.waiters.release(m.Tenant, func(id string) answer { return o.waitingIn(id, m.Tenant, l) })
	}
	timer := time.NewTimer(time.Until(w.until))
	defer timer.Stop()
	var ask <-chan time.Time
	if o.limits != nil {
		t := time.NewTicker(askEvery)
		defer t.Stop()
		ask = t.C
	}
	for {
		select {
		case a := <-w.done:
			return a
		case <-ask:
			if a, ok := o.ask(ctx, m, w); ok {
				return a
			}
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		o.waiters.remove(m.ID)
		select {
		case a := <-w.done: // it came just now
			return a
		default:
		}
		return answer{receipt: mailer.Receipt{Status: mailer.StatusQueued}}
	}
}

// ask reads whether another process has tried a message.
func (o *Outbox) ask(ctx context.Context, m *Message, w *waiter) (answer, bool) {
	now, err := o.engine.Get(ctx, m.ID)
	if err != nil || now.State == StateSending {
		return answer{}, false
	}
	if now.State == StateQueued && (now.Failure == nil || now.Due.Before(w.until)) {
		return answer{}, false
	}
	o.waiters.remove(m.ID)
	select {
	case a := <-w.done:
		return a, true
	default:
	}
	r, e := now.receipt()
	return answer{r, e}, true
}

// notAccepted answers the sender of a message that the engine did not store.
func (o *Outbox) notAccepted(m *Message, err error) (mailer.Receipt, *mailer.Error) {
	if d, ok := errors.AsType[*DuplicateError](err); ok {
		return replay(d.Prior, m)
	}
	if errors.Is(err, ErrFull) {
		return mailer.Receipt{}, notStored("outbox_full", err)
	}
	o.settings.Load().Logger.Error("the outbox cannot store messages", "error", err)
	return mailer.Receipt{}, notStored("outbox_unavailable", err)
}

func notStored(code string, err error) *mailer.Error {
	return &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: code, Err: fmt.Errorf("storing the message: %w", err)}
}

func noTenant(name string) *mailer.Error {
	return &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindConfig, Field: "tenant", Err: fmt.Errorf("unknown tenant %q", name)}
}

// replay answers with what became of a message that was accepted before m, with the
// same idempotency key.
func replay(prior, m *Message) (mailer.Receipt, *mailer.Error) {
	refuse := func(code, what string) (mailer.Receipt, *mailer.Error) {
		return mailer.Receipt{}, &mailer.Error{
			Stage: mailer.StageAccept, Kind: mailer.KindInvalid, Field: "idempotency_key", Code: code, Err: errors.New(what),
		}
	}
	switch {
	case !bytes.Equal(prior.Fingerprint, m.Fingerprint):
		return refuse("invalid_idempotent_request", "another message was sent with this idempotency key; use a new key")
	case prior.State == StateSending && prior.Attempts == 0:
		return refuse("concurrent_idempotent_requests", "the message with this idempotency key is being sent at this moment; ask again in a second")
	}
	r, e := prior.receipt()
	r.Replayed = true
	return r, e
}

// newMessage makes a message of a submission.
func newMessage(sub mailer.Submission, p Policy, now time.Time) *Message {
	o := sub.Options
	m := &Message{
		ID: sub.ID, MessageID: sub.MessageID, Tenant: sub.Tenant, Caller: sub.Caller, From: sub.From, Sender: sub.Envelope.From,
		Recipients: make([]Recipient, len(sub.Envelope.To)), AllRecipients: o.AllRecipients, RequireTLS: o.RequireTLS, DSN: o.DSN,
		Size: sub.Content.Size(), EightBit: sub.Content.EightBit(), UTF8Header: sub.Content.UTF8Header(),
		Accepted: now.UTC(), State: StateQueued, Due: now.UTC(),
	}
	for i, a := range sub.Envelope.To {
		m.Recipients[i].Address = a
	}
	if o.At.After(now) {
		m.State, m.Due = StateScheduled, o.At.UTC()
	}
	m.Expires = m.Due.Add(p.Lifetime)
	if o.IdempotencyKey != "" {
		m.Idempotency, m.Fingerprint = digest(sub.Caller.Kind, sub.Caller.Name, o.IdempotencyKey), o.Fingerprint
	}
	return m
}

// digest is a digest of strings one after the other, such that none runs into the
// next.
func digest(parts ...string) []byte {
	var b []byte
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}
