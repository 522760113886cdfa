package bolt

import (
	"context"
	"fmt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Change implements [outbox.Engine]. The goroutine that commits calls f.
func (e *Engine) Change(ctx context.Context, id string, f func(*outbox.Message) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.do(&op{apply: func(b *batch) error { return b.change(id, f) }})
}

func (b *batch) change(id string, f func(*outbox.Message) error) error {
	m, old, err := b.waiting(id)
	if err != nil {
		return err
	}
	if err := guard(func() error { return f(m) }); err != nil {
		return err
	}
	m.ID, m.Tenant = id, old.tenant
	if stateOctet(m.State) == 0 || m.State == outbox.StateSending {
		return fmt.Errorf("a message cannot be made %q", m.State)
	}
	if err := checkMessage(m); err != nil {
		return err
	}
	sealed, err := b.e.seal(nil, m)
	if err != nil {
		return err
	}
	now := newHeader(m, old.kept, old.size)
	if m.State == outbox.StateSent {
		now.kept = keptNowhere
	}
	b.put(id, old, &now, sealed)
	b.touch(b.lane(now.tenant))
	return nil
}

// waiting opens a message that is not being sent.
func (b *batch) waiting(id string) (*outbox.Message, *header, error) {
	old, _, err := b.get(id)
	if err != nil {
		return nil, nil, err
	}
	if old.state == outbox.StateSending {
		return nil, nil, outbox.ErrSending
	}
	m, _, err := b.e.open(id, b.messages.Get([]byte(id)))
	return m, old, err
}

// Drop implements [outbox.Engine].
func (e *Engine) Drop(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.do(&op{apply: func(b *batch) error {
		old, _, err := b.get(id)
		if err != nil {
			return err
		}
		if old.state == outbox.StateSending {
			return outbox.ErrSending
		}
		b.put(id, old, nil, nil)
		b.touch(b.lane(old.tenant))
		return nil
	}})
}

// get returns the header of a message, in memory of its own, and what is sealed
// behind it, which is not.
func (b *batch) get(id string) (*header, []byte, error) {
	if !goodID(id) {
		return nil, nil, outbox.ErrNotFound
	}
	v := b.messages.Get([]byte(id))
	if v == nil {
		return nil, nil, outbox.ErrNotFound
	}
	h, sealed, err := parse(v)
	if err != nil {
		return nil, nil, fmt.Errorf("message %s: %w", id, err)
	}
	h.digest = append([]byte(nil), h.digest...)
	return &h, sealed, nil
}

// guard makes an error of a panic in what belongs to others.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}
