package river

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// try is a message that this instance sends.
type try struct {
	m          *outbox.Message
	content    mailer.Content
	owner      string // the instance, by the name it had then
	generation int64
	job        int64
	purpose    purpose
	slot       *slot
}

// errLost: the message is in other hands.
var errLost = errors.New("the message was taken over by another instance")

// begin hands a message to the handler.
func (r *run) begin(t *try) {
	id := t.m.ID
	r.mu.Lock()
	r.tries[id] = t
	ctx := r.tenure.ctx
	r.mu.Unlock()
	r.wg.Go(func() {
		o := r.deliver(ctx, t)
		l := r.settle(t, o)
		r.mu.Lock()
		if r.tries[id] == t {
			delete(r.tries, id)
		}
		if t.purpose == probeRest {
			t.slot.lane.probing = false
		}
		r.mu.Unlock()
		if l != nil {
			r.laneIs(t.m.Tenant, *l)
		}
		t.slot.release(r.Engine)
		if waits(t.m.State) {
			if r.ctx.Err() != nil {
				r.shouts.add(t.m.Tenant) // somebody else has to
			} else {
				r.due(t.m.Tenant, t.m.Due)
			}
		}
	})
}

func (r *run) deliver(ctx context.Context, t *try) (o outbox.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			r.Logger.Error("trying a message panicked; it is tried again in a minute", "message", t.m.ID, "panic", p, "stack", string(debug.Stack()))
			o = outbox.Outcome{Verdict: outbox.Retry, At: time.Now().Add(time.Minute)}
		}
	}()
	return r.h.Deliver(ctx, t.m, t.content)
}

// apply gives a message the state that its outcome means.
func apply(m *outbox.Message, o outbox.Outcome) {
	m.Due = time.Time{}
	switch o.Verdict {
	case outbox.Sent:
		m.State = outbox.StateSent
	case outbox.Dead:
		m.State = outbox.StateFailed
	case outbox.Hold:
		m.State = outbox.StateHeld
	case outbox.Retry:
		m.State = outbox.StateQueued
		m.Due = o.At
		if m.Due.IsZero() {
			m.Due = time.Now()
		}
	}
}

// settle records an outcome. It tries until it succeeds, as the message may have been
// sent; when Run is over, for a while only.
func (r *run) settle(t *try, o outbox.Outcome) *outbox.Lane {
	apply(t.m, o)
	c := &change{m: t.m, generation: t.generation, job: t.job}
	wait := 50 * time.Millisecond
	var over time.Time
	for {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 30*time.Second)
		before := c.record
		l, err := r.recordOnce(ctx, t, c, o)
		if errors.Is(err, errLost) && before != nil && r.isRecorded(ctx, t, before) {
			err = nil // the time before, without an answer
		}
		cancel()
		switch {
		case err == nil:
			return l
		case errors.Is(err, errLost):
			r.Logger.Warn("another instance took a message over while this one was sending it, as this one was not seen for a while; if it was sent here, it may be sent twice",
				"message", t.m.ID, "tenant", t.m.Tenant, "outcome", string(t.m.State))
			t.m.State = "" // it is no longer ours
			return nil
		}
		r.warn("recording what became of a message", err)
		ended := r.ctx.Done()
		if r.ctx.Err() != nil {
			ended = nil
			if over.IsZero() {
				over = time.Now().Add(r.end)
			} else if time.Now().After(over) {
				r.Logger.Error("what became of a message cannot be recorded; it counts as interrupted, and may be sent twice",
					"message", t.m.ID, "tenant", t.m.Tenant, "outcome", string(t.m.State), "error", err)
				t.m.State = ""
				return nil
			}
		}
		select {
		case <-time.After(wait):
		case <-ended: // not much time is left
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// recordOnce records an outcome if the message is still this instance's. If another
// one has taken it over, and it waits again, then that it was sent is good news even
// so.
func (r *run) recordOnce(ctx context.Context, t *try, c *change, o outbox.Outcome) (l *outbox.Lane, err error) {
	err = r.tx(ctx, func(tx pgx.Tx) error {
		ours, err := r.write(ctx, tx, c, `(owner = $9 AND generation = $10)`, t.owner, t.generation)
		if err != nil {
			return err
		}
		if !ours {
			return errLost
		}
		l, err = r.outcomeLane(ctx, tx, t, o)
		return err
	})
	if errors.Is(err, errLost) && t.m.State == outbox.StateSent {
		err = r.tx(ctx, func(tx pgx.Tx) error {
			late := &change{m: t.m, generation: t.generation + 1}
			ours, err := r.write(ctx, tx, late, `generation = $9 AND state IN ('queued', 'held')`, t.generation+1)
			if err == nil && !ours {
				err = errLost
			}
			return err
		})
		if err == nil {
			r.Logger.Info("a message that another instance took over was sent after all before it was tried again", "message", t.m.ID)
		}
		return nil, err
	}
	return l, err
}

// isRecorded reports whether a record was committed.
func (r *run) isRecorded(ctx context.Context, t *try, record []byte) bool {
	var kept []byte
	err := r.pool.QueryRow(ctx, `SELECT record FROM messages WHERE id = $1 AND generation = $2`, t.m.ID, t.generation+1).Scan(&kept)
	return err == nil && bytes.Equal(kept, record)
}

// interrupted asks the handler about a message whose instance is dead.
func (r *run) interrupted(m *outbox.Message) (o outbox.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			r.Logger.Error("deciding about an interrupted message panicked", "message", m.ID, "panic", fmt.Sprint(p))
			o = outbox.Outcome{Verdict: outbox.Retry, At: time.Now().Add(time.Minute)}
		}
	}()
	return r.h.Interrupted(m)
}
