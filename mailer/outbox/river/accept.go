package river

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// errKnown: another message has the idempotency digest.
var errKnown = errors.New("known")

// Accept stores a message, its content, its digest and its job in one transaction,
// and tries it at once where its lane has room.
func (e *Engine) Accept(ctx context.Context, m *outbox.Message, c mailer.Content) error {
	m, err := clone(m)
	if err != nil {
		return err
	}
	for range 3 {
		err = e.accept(ctx, m, c)
		if !errors.Is(err, errKnown) {
			return full(err)
		}
		prior, err := e.prior(ctx, m.Idempotency)
		if err != nil {
			return err
		}
		if prior != nil {
			return &outbox.DuplicateError{Prior: prior}
		}
		// It has just gone.
	}
	return err
}

// prior returns the message with a digest, or nil.
func (e *Engine) prior(ctx context.Context, digest []byte) (*outbox.Message, error) {
	var id string
	err := e.pool.QueryRow(ctx, `SELECT id FROM messages WHERE idempotency = $1`, digest).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, err
	}
	m, err := e.Get(ctx, id)
	if errors.Is(err, outbox.ErrNotFound) { // or it is only not swept yet
		if err := e.Drop(ctx, id); err != nil && !errors.Is(err, outbox.ErrNotFound) {
			return nil, err
		}
		return nil, nil //nolint:nilnil // there is none
	}
	return m, err
}

func (e *Engine) accept(ctx context.Context, m *outbox.Message, c mailer.Content) error {
	now := time.Now()
	if m.Due.IsZero() {
		m.Due = now
	}
	if !waits(m.State) {
		m.State = outbox.StateQueued
	}
	// A slot of the lane, if it is tried at once; else nil.
	s := e.slot(m.Tenant, m.Due, now)
	t := &try{m: m, generation: 1, slot: s}
	owner := ""
	if s != nil {
		defer s.run.wg.Done()
		owner = s.run.id()
	}
	var content []byte
	committing := false
	err := e.tx(ctx, func(tx pgx.Tx) error {
		var err error
		if t.job, err = e.insertJob(ctx, tx, m, 1); err != nil {
			return err
		}
		record, err := e.seal(m)
		if err != nil {
			return err
		}
		var digest []byte
		if len(m.Idempotency) > 0 {
			digest = m.Idempotency
		}
		err = tx.QueryRow(ctx, `WITH s AS (SELECT $14 <> ''
				AND EXISTS (SELECT 1 FROM instances WHERE id = $14)
				AND NOT EXISTS (SELECT 1 FROM lanes WHERE tenant = $2)
				AND NOT EXISTS (SELECT 1 FROM messages WHERE tenant = $2 AND state IN ('queued', 'scheduled') AND due < $5) AS now)
			INSERT INTO messages (id, tenant, caller, state, due, accepted, expires, forget, size, job, idempotency, record, generation, owner)
			SELECT $1, $2, $3, CASE WHEN s.now THEN 'sending' ELSE $4 END, $5, $6, $7, $8, $9, $10, $11, $12, $13, CASE WHEN s.now THEN $14 END FROM s
			ON CONFLICT (idempotency) WHERE idempotency IS NOT NULL DO NOTHING
			RETURNING state`,
			m.ID, m.Tenant, callerDigest(m.Caller.Kind, m.Caller.Name), string(m.State), m.Due, m.Accepted, stamp(m.Expires), stamp(m.Forget),
			c.Size(), t.job, digest, record, t.generation, owner).Scan(&m.State)
		if errors.Is(err, pgx.ErrNoRows) {
			return errKnown
		}
		if err != nil {
			return err
		}
		content, err = e.store(ctx, tx, m.ID, c)
		committing = err == nil
		return err
	})
	if err != nil && committing {
		err = e.uncertain(ctx, m, err)
	}
	if err != nil || m.State != outbox.StateSending {
		s.release(e)
		if err == nil {
			e.wake(m.Tenant, m.Due)
		}
		return err
	}
	t.owner = owner
	t.content = m.Content(stored{e, m.ID, c.Size()})
	if content != nil {
		t.content = m.Content(mailer.Bytes(content))
	}
	s.run.begin(t)
	return nil
}

// uncertain finds out what became of a commit that was not answered.
func (e *Engine) uncertain(ctx context.Context, m *outbox.Message, cause error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](cause); ok && pg.Code != "57P01" && pg.Code != "57P02" { // it was answered
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	kept, err := e.Get(ctx, m.ID)
	if err != nil {
		return cause
	}
	m.State = kept.State
	return nil
}

// full tells where there is no space left.
func full(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.Code == "53100" || pg.Code == "54000") {
		return fmt.Errorf("%w: the database says: %s", outbox.ErrFull, pg.Message)
	}
	return err
}
