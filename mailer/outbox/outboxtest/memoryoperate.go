package outboxtest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

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
	m, err := e.restingLocked(id)
	if err != nil {
		return err
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
	m, err := e.restingLocked(id)
	if err != nil {
		return err
	}
	e.dropLocked(m)
	return nil
}

// restingLocked finds a message that is not being sent.
func (e *Memory) restingLocked(id string) (*outbox.Message, error) {
	m, err := e.findLocked(id)
	if err == nil && m.State == outbox.StateSending {
		err = outbox.ErrSending
	}
	return m, err
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
