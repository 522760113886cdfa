package bolt

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// flight is a message that is out.
type flight struct {
	id, tenant string
	due        time.Time
	probe      bool
	lane       *lane
	// With a message that was just accepted: what it is made of.
	message *outbox.Message
	content mailer.Source
	// With any other: what is stored of it.
	record, sealed []byte

	landed bool // Deliver has returned
}

// panicPause is the pause after a panic of a handler.
const panicPause = time.Minute

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
	f.message, f.content, f.record, f.sealed = nil, nil, nil, nil
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
	if m := f.message; m != nil {
		m.State, m.Due = outbox.StateSending, f.due
		return m, m.Content(f.content), nil
	}
	m, h, err := e.open(f.id, f.record)
	if err != nil {
		return nil, nil, err
	}
	s, err := e.source(f.id, &h, f.sealed)
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
