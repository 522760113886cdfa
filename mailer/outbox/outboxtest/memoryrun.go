package outboxtest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Run hands messages to h.
func (e *Memory) Run(ctx context.Context, h outbox.Handler) error {
	e.mu.Lock()
	if err := e.initLocked(); err != nil {
		e.mu.Unlock()
		return err
	}
	for _, m := range e.store.messages {
		if m.State == outbox.StateSending {
			e.recordLocked(m, h.Interrupted(m))
		}
	}
	e.h, e.ctx = h, ctx
	e.dispatchLocked()
	e.mu.Unlock()
	<-ctx.Done()
	e.mu.Lock()
	e.h = nil
	e.mu.Unlock()
	e.flying.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wake != nil {
		e.wake.Stop()
	}
	return nil
}

func (e *Memory) laneLocked(tenant string) *memoryLane {
	l := e.lanes[tenant]
	if l == nil {
		l = new(memoryLane)
		e.lanes[tenant] = l
	}
	return l
}

// dispatchLocked hands out what is due, forgets what is over, and sets the timer.
func (e *Memory) dispatchLocked() {
	if e.dead || e.h == nil || e.ctx.Err() != nil {
		return
	}
	now := time.Now()
	var next time.Time
	at := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	var due []*outbox.Message
	for _, m := range e.store.messages {
		switch {
		case m.State.Final() && !m.Forget.IsZero() && !m.Forget.After(now):
			e.dropLocked(m)
		case m.State.Final() && !m.Forget.IsZero():
			at(m.Forget)
		case m.State != outbox.StateQueued && m.State != outbox.StateScheduled:
		case !m.Expires.After(now):
			e.handOutLocked(m, e.laneLocked(m.Tenant))
		default:
			at(m.Expires)
			if m.Due.After(now) {
				at(m.Due)
			} else if e.laneLocked(m.Tenant).out < e.h.Window(m.Tenant) {
				due = append(due, m)
			}
		}
	}
	slices.SortFunc(due, func(a, b *outbox.Message) int {
		if c := a.Due.Compare(b.Due); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	for _, m := range due {
		l, state := e.laneLocked(m.Tenant), e.store.lanes[m.Tenant]
		if l.out >= e.h.Window(m.Tenant) {
			continue
		}
		if state.State != outbox.LaneOpen {
			if state.Until.IsZero() || l.probing != "" {
				continue
			}
			if state.Until.After(now) {
				at(state.Until)
				continue
			}
			l.probing = m.ID
		}
		e.handOutLocked(m, l)
	}
	if e.wake != nil {
		e.wake.Stop()
	}
	if !next.IsZero() {
		e.wake = time.AfterFunc(time.Until(next), func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.dispatchLocked()
		})
	}
}

func (e *Memory) handOutLocked(m *outbox.Message, l *memoryLane) {
	m.State = outbox.StateSending
	l.out++
	h, ctx, given := e.h, e.ctx, clone(m)
	content := given.Content(mailer.Bytes(e.store.contents[m.ID]))
	e.flying.Go(func() {
		out := deliver(ctx, h, given, content)
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.dead {
			return
		}
		l.out--
		e.recordLocked(given, out)
		e.settleLocked(given, l, out)
		e.dispatchLocked()
	})
}

func deliver(ctx context.Context, h outbox.Handler, m *outbox.Message, c mailer.Content) (out outbox.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			out = outbox.Outcome{Verdict: outbox.Retry, At: time.Now().Add(time.Minute)}
		}
	}()
	return h.Deliver(ctx, m, c)
}

func (e *Memory) recordLocked(given *outbox.Message, out outbox.Outcome) {
	m := clone(given)
	m.Due = time.Time{}
	switch out.Verdict {
	case outbox.Retry:
		m.State, m.Due = outbox.StateQueued, out.At
		if out.At.IsZero() {
			m.Due = time.Now().UTC()
		}
	case outbox.Sent:
		m.State = outbox.StateSent
		delete(e.store.contents, m.ID)
	case outbox.Dead:
		m.State = outbox.StateFailed
	case outbox.Hold:
		m.State = outbox.StateHeld
	}
	e.putLocked(m)
}

// putLocked stores a message that was changed. A digest that is gone from it is free.
func (e *Memory) putLocked(m *outbox.Message) {
	if before := e.store.messages[m.ID]; before != nil && len(m.Idempotency) == 0 {
		e.freeLocked(before)
	}
	e.store.messages[m.ID] = m
}

// settleLocked brings the lane into the state that an outcome tells.
func (e *Memory) settleLocked(m *outbox.Message, l *memoryLane, out outbox.Outcome) {
	probe := l.probing == m.ID
	if probe {
		l.probing = ""
	}
	switch {
	case e.store.lanes[m.Tenant].State == outbox.LanePaused:
	case out.Lane != nil:
		e.setLaneLocked(m.Tenant, *out.Lane)
	case probe:
		delete(e.store.lanes, m.Tenant)
	}
}

func (e *Memory) setLaneLocked(tenant string, l outbox.Lane) {
	if l.State == outbox.LaneOpen {
		delete(e.store.lanes, tenant)
		e.laneLocked(tenant).probing = ""
		return
	}
	e.store.lanes[tenant] = l
}

func (e *Memory) freeLocked(m *outbox.Message) {
	if e.store.digests[string(m.Idempotency)] == m.ID {
		delete(e.store.digests, string(m.Idempotency))
	}
}

func (e *Memory) dropLocked(m *outbox.Message) {
	e.freeLocked(m)
	delete(e.store.messages, m.ID)
	delete(e.store.contents, m.ID)
}
