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
	// recordWait is how long the record of an outcome may take after its sender has been
	// told. Engines let it wait for a commit that somebody waits for.
	recordWait = 500 * time.Millisecond
	// recordEvery is how often it is looked for.
	recordEvery = 5 * time.Millisecond
)

// Send accepts a message and waits for what becomes of it: until ctx ends, as long as
// Options.Wait says, and 25 s at most. Once it is accepted, the end of ctx changes
// nothing. The receipt of a message that waits for something else than its sender
// comes at once and says for what; so does that of a message for which one sender too
// many would wait, with CodeBusy as its Cause. The error is an [*mailer.Error]; its Code is
// CodeFull or CodeUnavailable where the message could not be stored, CodeUncertain
// where nobody knows, and CodeConcurrent or CodeOtherRequest where its idempotency key belongs to another one.
//
// With an error about a message that was accepted, the receipt has its ID, MessageID
// and Tenant; and Replayed, where that was an earlier one with the same idempotency
// key. Otherwise it is empty.
func (o *Outbox) Send(ctx context.Context, sub mailer.Submission) (mailer.Receipt, error) {
	now := time.Now()
	s := o.settings.Load()
	p, ok := s.policy(sub.Tenant)
	if !ok {
		return mailer.Receipt{}, noTenant(sub.Tenant)
	}
	if ctx.Err() != nil {
		return mailer.Receipt{}, notStored(CodeUnavailable, context.Cause(ctx))
	}
	m := newMessage(sub, p, now)
	var w *waiter
	var why *mailer.Error // why nobody waits
	until := waitUntil(now, ctx, sub.Options)
	if !sub.Options.Async && m.State == StateQueued {
		if w = o.waiters.add(m.ID, m.Tenant, until); w == nil { // before it may be sent
			why = busy()
		}
	}
	err := o.accept(ctx, m, sub.Content)
	if !sub.Options.Async && o.recordComes(ctx, err) {
		err = o.accept(ctx, m, sub.Content)
	}
	if err != nil {
		if w != nil {
			o.waiters.remove(m.ID)
		}
		r, e := o.notAccepted(m, sub.Options.Async, err)
		if e != nil {
			return r, e
		}
		return r, nil
	}
	s.call(func() { s.Hooks.Accepted(m) })
	if w == nil {
		r := m.named()
		r.Status, r.Due, r.Cause = mailer.StatusQueued, m.Due, why
		if m.State == StateScheduled {
			r.Status = mailer.StatusScheduled
		}
		return r, nil
	}
	a := o.wait(ctx, m, w)
	if a.err != nil {
		return m.named(), a.err
	}
	a.receipt.ID, a.receipt.MessageID = m.ID, m.MessageID
	if a.receipt.Tenant == "" {
		a.receipt.Tenant = m.Tenant
	}
	return a.receipt, nil
}

// errSlowStore is a store that has not answered for as long as a sender waits.
var errSlowStore = errors.New("the storage of the outbox does not answer; the message may be stored and sent, or not")

// storing is where somebody waits for a message to be stored. It serves one after the
// other.
type storing struct {
	done  chan error
	timer *time.Timer
}

// accept stores a message. Whoever goes away meanwhile would not know whether it was
// stored, so the end of ctx does not count.
func (o *Outbox) accept(ctx context.Context, m *Message, c mailer.Content) error {
	s, _ := o.storings.Get().(*storing)
	if s == nil {
		s = &storing{make(chan error, 1), time.NewTimer(longestWait)}
	} else {
		s.timer.Reset(longestWait)
	}
	go func() {
		defer func() {
			if p := recover(); p != nil {
				s.done <- fmt.Errorf("storing the message: panic: %v", p)
			}
		}()
		s.done <- o.engine.Accept(context.WithoutCancel(ctx), m, c)
	}()
	select {
	case err := <-s.done:
		s.timer.Stop()
		o.storings.Put(s)
		return err
	case <-s.timer.C: // s is still the goroutine's
		return errSlowStore
	}
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
	if now.State == StateQueued && (now.Failure == nil || w.awaits(now.Due)) {
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

// recordComes reports whether a message was not accepted only since the outcome of
// the one before, with the same idempotency key, was told and not yet recorded; by now it
// is. It would seem to be under way to a client that repeats its request at once.
func (o *Outbox) recordComes(ctx context.Context, err error) bool {
	d, ok := errors.AsType[*DuplicateError](err)
	if !ok || !d.Prior.inFirstTry() || o.waiters.has(d.Prior.ID) {
		return false
	}
	end := time.NewTimer(recordWait)
	defer end.Stop()
	look := time.NewTicker(recordEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-end.C:
			return false
		case <-ctx.Done():
			return false
		}
		if now, err := o.engine.Get(ctx, d.Prior.ID); err != nil || !now.inFirstTry() {
			return true
		}
	}
}

// inFirstTry reports whether a message is tried for the first time, as far as is
// recorded.
func (m *Message) inFirstTry() bool { return m.State == StateSending && m.Attempts == 0 }

// notAccepted answers the sender of a message that the engine did not store.
func (o *Outbox) notAccepted(m *Message, async bool, err error) (mailer.Receipt, *mailer.Error) {
	if d, ok := errors.AsType[*DuplicateError](err); ok {
		return replay(d.Prior, m, async)
	}
	if errors.Is(err, errSlowStore) {
		e := notStored(CodeUncertain, err)
		e.Kind = mailer.KindUnknown
		return mailer.Receipt{}, e
	}
	if errors.Is(err, ErrFull) {
		return mailer.Receipt{}, notStored(CodeFull, err)
	}
	o.settings.Load().Logger.Error("the outbox cannot store messages", "error", err)
	return mailer.Receipt{}, notStored(CodeUnavailable, err)
}

func notStored(code string, err error) *mailer.Error {
	return &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: code, Err: fmt.Errorf("storing the message: %w", err)}
}

func noTenant(name string) *mailer.Error {
	return &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindConfig, Field: "tenant", Err: fmt.Errorf("unknown tenant %q", name)}
}

// tenantGone is why messages wait of a tenant that there is no more.
func tenantGone(name string) *mailer.Error {
	e := noTenant(name)
	e.Code = CodeTenantGone
	return e
}

// replay answers with what became of a message that was accepted before m, with the
// same idempotency key.
func replay(prior, m *Message, async bool) (mailer.Receipt, *mailer.Error) {
	refuse := func(code, what string) (mailer.Receipt, *mailer.Error) {
		return mailer.Receipt{}, &mailer.Error{
			Stage: mailer.StageAccept, Kind: mailer.KindInvalid, Field: "idempotency_key", Code: code, Err: errors.New(what),
		}
	}
	switch {
	case !bytes.Equal(prior.Fingerprint, m.Fingerprint):
		return refuse(CodeOtherRequest, "another message was sent with this idempotency key; use a new key")
	case prior.inFirstTry() && !async:
		return refuse(CodeConcurrent, "the message with this idempotency key is being sent at this moment; ask again in a second")
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
		Size: sub.Content.Size(), EightBit: sub.Content.EightBit(), UTF8Header: sub.Content.UTF8Header(), Summary: sub.Summary,
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
