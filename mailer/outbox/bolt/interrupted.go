package bolt

import (
	"bytes"
	"context"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// interrupted has the handler decide about messages that were being sent when a
// process ended.
func (e *Engine) interrupted(ctx context.Context, h outbox.Handler) error {
	type interruption struct {
		id     string
		record []byte
	}
	var all []interruption
	o := &op{keep: true, done: make(chan error, 1), apply: func(b *batch) error {
		all = nil
		prefix := []byte{indexState, stateOctet(outbox.StateSending)}
		c := b.index.Cursor(prefix)
		for k, _ := c.Seek(prefix); k != nil; k, _ = c.Next() {
			if _, id, ok := counted(k[2:], 2); ok && e.flights[string(id)] == nil {
				all = append(all, interruption{string(id), bytes.Clone(b.messages.Get(id))})
			}
		}
		return nil
	}}
	if !e.queue.add(o) {
		return errClosed
	}
	if err := e.wait(ctx, o); err != nil {
		return err
	}
	waits := make([]*op, 0, len(all))
	for _, i := range all {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o := &op{keep: true, done: make(chan error, 1)}
		o.apply = e.decide(i.id, i.record, h)
		if !e.queue.add(o) {
			return errClosed
		}
		waits = append(waits, o)
	}
	for _, o := range waits {
		if err := e.wait(ctx, o); err != nil {
			return err
		}
		if o.err != nil {
			e.log().Error("the outcome of a message that was being sent cannot be stored", "error", o.err)
		}
	}
	return nil
}

// wait waits until an op is stored that is tried until it is.
func (e *Engine) wait(ctx context.Context, o *op) error {
	select {
	case o.err = <-o.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ended:
		return errClosed
	}
}

// decide asks about one message.
func (e *Engine) decide(id string, record []byte, h outbox.Handler) func(*batch) error {
	m, _, err := e.open(id, record)
	if err != nil {
		e.log().Error("a message that was being sent cannot be read: it waits", "id", id, "error", err)
		return func(b *batch) error { return b.postpone(id) }
	}
	var out outbox.Outcome
	if err := guard(func() error { out = h.Interrupted(m); return nil }); err != nil {
		e.log().Error("the handler of the outbox has failed", "id", id, "error", err)
		out = outbox.Outcome{At: time.Now().Add(panicPause)}
		m, _, _ = e.open(id, record)
	}
	if out.Verdict != outbox.Hold {
		out.Verdict = outbox.Retry
	}
	s, err := e.settle(m, out)
	if err != nil {
		e.log().Error("the outcome of a message cannot be stored: it waits", "id", id, "error", err)
		return func(b *batch) error { return b.postpone(id) }
	}
	return func(b *batch) error {
		if s.lane != nil {
			b.outcomeLane(b.lane(m.Tenant), s)
		}
		return b.settle(id, s)
	}
}
