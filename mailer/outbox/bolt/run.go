package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// run is a call of Run.
type run struct {
	ctx     context.Context
	handler outbox.Handler
}

// running reports whether messages are handed out.
func (e *Engine) running() bool { return e.run != nil && e.run.ctx.Err() == nil }

// flight is a message that is out.
type flight struct {
	id, tenant string
	due        time.Time
	probe      bool
	lane       *lane
	// With a message that was just accepted: what it is made of.
	plain   []byte
	content mailer.Source
	kept    keeping
	size    int64

	landed bool // Deliver has returned
}

// unreadablePause is how long a message waits that cannot be read.
const unreadablePause = time.Hour

// panicPause is the pause after a panic of a handler.
const panicPause = time.Minute

// Run implements [outbox.Engine].
func (e *Engine) Run(ctx context.Context, h outbox.Handler) error {
	if !e.ran.CompareAndSwap(false, true) {
		return errors.New("the outbox runs already")
	}
	defer e.ran.Store(false)
	if err := e.interrupted(ctx, h); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	r := &run{ctx, h}
	e.queue.add(&op{keep: true, arrive: func() bool { e.run = r; return false }, apply: (*batch).start})
	select {
	case <-ctx.Done():
	case <-e.ended:
		return errClosed
	}
	stopped := make(chan struct{})
	e.queue.add(&op{
		arrive: func() bool { e.run, e.stopped = nil, stopped; return false },
		apply:  func(*batch) error { return nil },
	})
	select {
	case <-stopped:
	case <-e.ended:
	}
	return nil
}

// start has messages handed out from now on.
func (b *batch) start() error {
	for _, s := range []outbox.State{outbox.StateQueued, outbox.StateScheduled} {
		for tenant := range countedTenants(b.index, s) {
			b.touch(b.lane(tenant))
		}
	}
	return nil
}

// checkStopped ends Run when its calls have returned and their outcomes are
// recorded, or cannot be for now.
func (e *Engine) checkStopped() {
	if e.stopped == nil || e.out > 0 {
		return
	}
	unrecorded := 0
	for _, f := range e.flights {
		if f.landed {
			unrecorded++
		}
	}
	if unrecorded <= len(e.stuck) {
		close(e.stopped)
		e.stopped = nil
	}
}

// window asks how many messages may be out at once.
func (e *Engine) window(tenant string) int {
	n := 1
	if err := guard(func() error { n = e.run.handler.Window(tenant); return nil }); err != nil {
		e.log().Error("the handler of the outbox has failed", "tenant", tenant, "error", err)
	}
	return max(1, n)
}

// interrupted has the handler decide about messages that were being sent when a
// process ended.
func (e *Engine) interrupted(ctx context.Context, h outbox.Handler) error {
	var ids []string
	o := &op{keep: true, done: make(chan error, 1), apply: func(b *batch) error {
		ids = nil
		prefix := []byte{indexState, stateOctet(outbox.StateSending)}
		c := b.index.Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			if _, id, ok := counted(k[2:], 2); ok && e.flights[string(id)] == nil {
				ids = append(ids, string(id))
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
	waits := make([]*op, 0, len(ids))
	for _, id := range ids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o := &op{keep: true, done: make(chan error, 1)}
		o.apply = e.decide(id, h)
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
func (e *Engine) decide(id string, h outbox.Handler) func(*batch) error {
	record, _, err := e.load(context.Background(), id, false)
	var m *outbox.Message
	if err == nil {
		m, _, err = e.open(id, record)
	}
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

// settled is an outcome that is ready to be stored.
type settled struct {
	header     header
	sealed     []byte
	lane       *outbox.Lane
	sealedLane []byte
}

// settle makes the record that an outcome leads to.
func (e *Engine) settle(m *outbox.Message, out outbox.Outcome) (*settled, error) {
	now := time.Now().UTC()
	kept := keptInline // any: what is kept stays
	m.Due = time.Time{}
	switch out.Verdict {
	case outbox.Sent:
		m.State, kept = outbox.StateSent, keptNowhere
	case outbox.Dead:
		m.State = outbox.StateFailed
	case outbox.Hold:
		m.State = outbox.StateHeld
	default:
		m.State, m.Due = outbox.StateQueued, out.At
		if out.At.IsZero() {
			m.Due = now
		}
	}
	if m.State.Final() && m.Finished.IsZero() {
		m.Finished = now
	}
	if err := checkMessage(m); err != nil {
		return nil, err
	}
	_, sealed, err := e.seal(m)
	if err != nil {
		return nil, err
	}
	s := &settled{header: newHeader(m, kept, 0), sealed: sealed, lane: out.Lane}
	if h := &s.header; h.waits() && !h.sweep.IsZero() && !h.sweep.After(now) && h.due.After(h.sweep) {
		h.sweep = h.due // it was handed out since it expired
	}
	if out.Lane != nil {
		lane := *out.Lane
		s.lane = &lane
		s.sealedLane, err = e.sealLane(m.Tenant, lane)
	}
	return s, err
}

// settle stores an outcome. A message that is not being sent has its outcome already.
func (b *batch) settle(id string, s *settled) error {
	old, _, err := b.get(id)
	if errors.Is(err, outbox.ErrNotFound) {
		return nil
	}
	if err != nil || old.state != outbox.StateSending {
		return err
	}
	now := s.header
	now.tenant, now.size = old.tenant, old.size
	if now.kept != keptNowhere {
		now.kept = old.kept
	}
	b.put(id, old, &now, s.sealed)
	b.touch(b.lane(old.tenant))
	return nil
}

// postpone lets a message wait that cannot be read.
func (b *batch) postpone(id string) error {
	old, sealed, err := b.get(id)
	if err != nil || old.state != outbox.StateSending {
		return err
	}
	now := *old
	now.state, now.due = outbox.StateQueued, b.now.Add(unreadablePause)
	b.put(id, old, &now, sealed)
	b.touch(b.lane(old.tenant))
	return nil
}

// launch hands out a message when the transaction is durable.
func (b *batch) launch(l *lane, f *flight) {
	e, r := b.e, b.e.run
	f.lane = l
	l.out++
	e.out++
	before := e.flights[f.id]
	e.flights[f.id] = f
	b.launched = append(b.launched, f.id)
	b.undo(func() {
		l.out--
		e.out--
		delete(e.flights, f.id)
		if before != nil {
			e.flights[f.id] = before
		}
	})
	b.after(func() { go e.deliver(r, f) })
}

// deliver has a message tried and its outcome recorded.
func (e *Engine) deliver(r *run, f *flight) {
	m, c, err := e.message(f)
	var s *settled
	if err == nil {
		s, err = e.settle(m, e.try(r, f, m, c))
	}
	if err != nil {
		e.log().Error("a message of the outbox cannot be read or its outcome not stored: it waits", "id", f.id, "pause", unreadablePause, "error", err)
	}
	f.plain, f.content = nil, nil
	e.queue.add(&op{
		keep: true, arrive: func() bool { return e.land(f, s) },
		apply: func(b *batch) error { return b.land(f, s) },
	})
}

// land notes that a flight has ended. Its lane may hand out the next: if there may be
// one, or the outcome says more than that the message is done, it cannot lie.
func (e *Engine) land(f *flight, s *settled) (idle bool) {
	l := f.lane
	f.landed = true
	e.out--
	l.out--
	l.unrecorded++
	if f.probe && l.probe == f.id {
		l.probe = ""
		if s != nil && s.lane == nil {
			s.lane = &outbox.Lane{} // it is well again
		}
	}
	return e.running() && !l.more && s != nil && s.lane == nil && !s.header.waits()
}

// message returns a message and its content as the handler gets it.
func (e *Engine) message(f *flight) (*outbox.Message, mailer.Content, error) {
	if f.plain != nil {
		m, err := decode(f.plain, &header{state: outbox.StateSending, due: f.due, tenant: f.tenant})
		if err != nil {
			return nil, nil, err
		}
		return m, m.Content(f.content), nil
	}
	record, sealed, err := e.load(context.Background(), f.id, true)
	if err != nil {
		return nil, nil, err
	}
	m, h, err := e.open(f.id, record)
	if err != nil {
		return nil, nil, err
	}
	s, err := e.source(f.id, &h, sealed)
	if err != nil { // the handler learns it when it reads
		e.log().Error("the content of a message cannot be read", "id", f.id, "error", err)
		s = lost{err, h.size}
	}
	return m, m.Content(s), nil
}

// try calls the handler.
func (e *Engine) try(r *run, f *flight, m *outbox.Message, c mailer.Content) (out outbox.Outcome) {
	before := m.State
	defer func() {
		if p := recover(); p != nil {
			e.log().Error("the handler of the outbox has failed", "id", f.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			m.State = before
			out = outbox.Outcome{At: time.Now().Add(panicPause)}
		}
	}()
	return r.handler.Deliver(r.ctx, m, c)
}

// land stores the outcome of a flight. Without one the message waits.
func (b *batch) land(f *flight, s *settled) error {
	e, l := b.e, f.lane
	b.touch(l)
	b.after(func() {
		l.unrecorded--
		if e.flights[f.id] == f {
			delete(e.flights, f.id)
		}
		e.lanes.forget(l)
	})
	if s == nil {
		return b.postpone(f.id)
	}
	if s.lane != nil {
		b.outcomeLane(l, s)
	}
	return b.settle(f.id, s)
}

// outcomeLane gives a lane the state that an outcome asks for. What an operator has
// paused stays so.
func (b *batch) outcomeLane(l *lane, s *settled) {
	if l.state.State == outbox.LanePaused && s.lane.State != outbox.LanePaused {
		s.lane = nil
		return
	}
	b.setLane(l, *s.lane)
	b.e.lanes.publish(l)
	b.storeLane(l.tenant, s.sealedLane)
}
