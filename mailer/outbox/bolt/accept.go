package bolt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Accept implements [outbox.Engine].
func (e *Engine) Accept(ctx context.Context, m *outbox.Message, c mailer.Content) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkMessage(m); err != nil {
		return err
	}
	look := e.glance // accept finds what it misses
	for {
		if err := e.duplicate(ctx, m, look); err != nil {
			return err
		}
		err := e.accept(m, c)
		if !errors.Is(err, errKnown) {
			return err
		}
		look = e.view
	}
}

// errKnown: the digest came into the index while the message was prepared.
var errKnown = errors.New("known")

// duplicate returns the error for a message that was accepted before.
func (e *Engine) duplicate(ctx context.Context, m *outbox.Message, look func(func(*bbolt.Tx) error) error) error {
	if len(m.Idempotency) == 0 {
		return nil
	}
	var id string
	err := look(func(tx *bbolt.Tx) error {
		id = string(tx.Bucket(bucketIndex).Get(digestKey(m.Idempotency)))
		return nil
	})
	if err != nil || id == "" {
		return err
	}
	prior, err := e.Get(ctx, id)
	if errors.Is(err, outbox.ErrNotFound) { // dropped this moment
		return nil
	}
	if err != nil {
		return err
	}
	return &outbox.DuplicateError{Prior: prior}
}

// sealing is where a message is sealed that is accepted. It serves for one after the other.
type sealing struct{ record, content []byte }

var sealings = sync.Pool{New: func() any { return new(sealing) }}

// maxSealing is the largest that serves again.
const maxSealing = 16 << 10

func (s *sealing) giveBack() {
	if cap(s.record) <= maxSealing && cap(s.content) <= maxSealing {
		sealings.Put(s)
	}
}

// accept stores a message and its content.
func (e *Engine) accept(m *outbox.Message, c mailer.Content) error {
	stored := *m // what it refers to is only read
	switch {
	case stored.State != "" && stored.State != outbox.StateSending:
	case stored.Due.After(time.Now()):
		stored.State = outbox.StateScheduled
	default:
		stored.State = outbox.StateQueued
	}
	if stateOctet(stored.State) == 0 {
		return fmt.Errorf("the outbox knows no state %q", stored.State)
	}
	if stored.Due.IsZero() && !stored.State.Final() {
		stored.Due = time.Now().UTC()
	}
	room := sealings.Get().(*sealing)
	defer room.giveBack() // who commits has copied it, or never will
	sealed, err := e.seal(room.record[:0], &stored)
	if err != nil {
		return err
	}
	k, err := e.keep(room.content[:0], stored.ID, c)
	if err != nil {
		return err
	}
	room.record, room.content = sealed, k.sealed
	h := newHeader(&stored, k.where, k.size)
	o := &op{accept: true, id: m.ID, size: len(sealed) + len(k.sealed)}
	o.apply = func(b *batch) error { return b.accept(m, h, sealed, k) }
	err = e.do(o)
	if err != nil {
		k.undo()
	}
	k.done()
	return err
}

// accept adds a message to a transaction. Who brings it waits meanwhile.
func (b *batch) accept(m *outbox.Message, h header, sealed []byte, k *kept) error {
	id := []byte(m.ID)
	if b.messages.Get(id) != nil {
		return fmt.Errorf("there is a message %s in the outbox already", m.ID)
	}
	if h.knows() && b.index.Get(digestKey(h.digest)) != nil {
		return errKnown
	}
	if h.state == outbox.StateScheduled {
		if err := b.roomScheduled(&h); err != nil {
			return err
		}
	}
	if err := b.room(int64(len(sealed) + len(k.sealed))); err != nil {
		return err
	}
	l := b.lane(h.tenant)
	direct := h.waits() && b.mayHand(l, h.due)
	if direct {
		h.state, h.sweep = outbox.StateSending, time.Time{}
	}
	b.put(m.ID, nil, &h, sealed)
	if k.where == keptInline {
		b.set(b.contents, id, k.sealed)
	}
	if direct {
		b.launch(l, &flight{id: m.ID, tenant: m.Tenant, due: h.due, message: m.Clone(), content: k.source})
		return nil
	}
	b.touch(l)
	return nil
}
