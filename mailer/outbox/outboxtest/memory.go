package outboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Memory is an engine that keeps messages in memory, for tests. It is slow with many
// of them. Its zero value is an engine on an empty store.
type Memory struct {
	mu     sync.Mutex
	store  store
	dead   bool // crashed
	h      outbox.Handler
	ctx    context.Context //nolint:containedctx // of Run
	wake   *time.Timer
	lanes  map[string]*memoryLane
	flying sync.WaitGroup
}

// store is what outlives an engine.
type store struct {
	messages map[string]*outbox.Message
	contents map[string][]byte
	digests  map[string]string
	lanes    map[string]outbox.Lane
}

type memoryLane struct {
	out     int
	probing string // the id of the message that tries a closed lane
}

// NewMemory returns an engine on the store of another one that was closed, or
// crashed. Nil: on an empty store.
func NewMemory(before *Memory) *Memory {
	e := new(Memory)
	if before != nil {
		before.mu.Lock()
		defer before.mu.Unlock()
		e.store = before.store
		before.store = store{}
		before.dead = true
	}
	return e
}

// Crash ends the engine as the death of its process would.
func (e *Memory) Crash() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead = true
}

// Close ends the use of the engine.
func (e *Memory) Close() error { return nil }

func (e *Memory) initLocked() error {
	if e.dead {
		return context.Canceled
	}
	if e.store.messages == nil {
		e.store = store{
			messages: make(map[string]*outbox.Message), contents: make(map[string][]byte),
			digests: make(map[string]string), lanes: make(map[string]outbox.Lane),
		}
	}
	if e.lanes == nil {
		e.lanes = make(map[string]*memoryLane)
	}
	return nil
}

func clone(m *outbox.Message) *outbox.Message {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	of := new(outbox.Message)
	if err := json.Unmarshal(b, of); err != nil {
		panic(err)
	}
	return of
}

// Accept stores a message.
func (e *Memory) Accept(_ context.Context, m *outbox.Message, c mailer.Content) error {
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.initLocked(); err != nil {
		return err
	}
	if prior := e.store.digests[string(m.Idempotency)]; prior != "" && len(m.Idempotency) > 0 {
		return &outbox.DuplicateError{Prior: clone(e.store.messages[prior])}
	}
	if len(m.Idempotency) > 0 {
		e.store.digests[string(m.Idempotency)] = m.ID
	}
	e.store.messages[m.ID], e.store.contents[m.ID] = clone(m), b.Bytes()
	e.dispatchLocked()
	return nil
}

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

// findLocked returns the stored message itself.
func (e *Memory) findLocked(id string) (*outbox.Message, error) {
	if err := e.initLocked(); err != nil {
		return nil, err
	}
	m := e.store.messages[id]
	if m == nil {
		return nil, outbox.ErrNotFound
	}
	return m, nil
}

// Get returns a message.
func (e *Memory) Get(_ context.Context, id string) (*outbox.Message, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, err := e.findLocked(id)
	if err != nil {
		return nil, err
	}
	return clone(m), nil
}

// Content returns the content of a message.
func (e *Memory) Content(_ context.Context, id string) (mailer.Content, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, err := e.findLocked(id)
	if err != nil {
		return nil, err
	}
	b, ok := e.store.contents[id]
	if !ok {
		return nil, outbox.ErrNotFound
	}
	return m.Content(mailer.Bytes(b)), nil
}

// List returns messages, the newest first.
func (e *Memory) List(_ context.Context, f outbox.Filter) (outbox.Page, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.initLocked(); err != nil {
		return outbox.Page{}, err
	}
	var p outbox.Page
	for _, m := range e.store.messages {
		if (f.Tenant == "" || f.Tenant == m.Tenant) && (f.State == "" || f.State == m.State) && (f.Before == "" || m.ID < f.Before) && m.ID > f.After &&
			(f.CallerKind == "" || f.CallerKind == m.Caller.Kind) && (f.CallerName == "" || f.CallerName == m.Caller.Name) {
			p.Messages = append(p.Messages, clone(m))
		}
	}
	slices.SortFunc(p.Messages, func(a, b *outbox.Message) int { return strings.Compare(b.ID, a.ID) })
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	switch n := len(p.Messages); {
	case n <= limit:
	case f.After != "":
		p.Messages = p.Messages[n-limit:]
		p.Next = p.Messages[0].ID
	default:
		p.Messages = p.Messages[:limit]
		p.Next = p.Messages[limit-1].ID
	}
	return p, nil
}

// Change changes a message.
func (e *Memory) Change(_ context.Context, id string, f func(*outbox.Message) error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, err := e.findLocked(id)
	if err != nil {
		return err
	}
	if m.State == outbox.StateSending {
		return outbox.ErrSending
	}
	changed := clone(m)
	if err := f(changed); err != nil {
		return err
	}
	e.putLocked(changed)
	e.dispatchLocked()
	return nil
}

// Drop forgets a message.
func (e *Memory) Drop(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m, err := e.findLocked(id)
	if err != nil {
		return err
	}
	if m.State == outbox.StateSending {
		return outbox.ErrSending
	}
	e.dropLocked(m)
	return nil
}

// SetLane changes the state of a lane.
func (e *Memory) SetLane(_ context.Context, tenant string, l outbox.Lane) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.initLocked(); err != nil {
		return err
	}
	e.setLaneLocked(tenant, l)
	e.dispatchLocked()
	return nil
}

// Lanes returns the lanes that are not open.
func (e *Memory) Lanes(context.Context) (map[string]outbox.Lane, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.initLocked(); err != nil {
		return nil, err
	}
	return maps.Clone(e.store.lanes), nil
}

// Stats counts.
func (e *Memory) Stats(context.Context) (outbox.Stats, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.initLocked(); err != nil {
		return outbox.Stats{}, err
	}
	s := outbox.Stats{Tenants: make(map[string]outbox.TenantStats)}
	for _, m := range e.store.messages {
		t := s.Tenants[m.Tenant]
		if t.Messages == nil {
			t.Messages = make(map[outbox.State]int)
		}
		t.Messages[m.State]++
		if !m.State.Final() && m.State != outbox.StateScheduled && (t.Oldest.IsZero() || m.Accepted.Before(t.Oldest)) {
			t.Oldest = m.Accepted
		}
		s.Tenants[m.Tenant] = t
	}
	return s, nil
}
