package river

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// lock locks the row of a message that nobody sends.
func (e *Engine) lock(ctx context.Context, tx pgx.Tx, id string) (*change, error) {
	var (
		c      change
		state  outbox.State
		job    *int64
		record []byte
	)
	err := tx.QueryRow(ctx, `SELECT state, generation, job, record FROM messages WHERE id = $1 FOR UPDATE`, id).Scan(&state, &c.generation, &job, &record)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, outbox.ErrNotFound
	case err != nil:
		return nil, err
	case state == outbox.StateSending:
		return nil, outbox.ErrSending
	}
	if job != nil {
		c.job = *job
	}
	c.m, err = e.unseal(id, state, record)
	return &c, err
}

// Change has f change a message.
func (e *Engine) Change(ctx context.Context, id string, f func(*outbox.Message) error) error {
	var c *change
	err := e.tx(ctx, func(tx pgx.Tx) error {
		var err error
		if c, err = e.lock(ctx, tx, id); err != nil {
			return err
		}
		if err := f(c.m); err != nil {
			return err
		}
		if waits(c.m.State) && c.m.Due.IsZero() {
			c.m.Due = time.Now()
		}
		_, err = e.write(ctx, tx, c, `generation = $9`, c.generation)
		return err
	})
	if err == nil && waits(c.m.State) {
		e.wake(c.m.Tenant, c.m.Due)
	}
	return err
}

// Drop forgets a message and its content.
func (e *Engine) Drop(ctx context.Context, id string) error {
	return e.tx(ctx, func(tx pgx.Tx) error {
		var (
			state outbox.State
			job   *int64
		)
		err := tx.QueryRow(ctx, `SELECT state, job FROM messages WHERE id = $1 FOR UPDATE`, id).Scan(&state, &job)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return outbox.ErrNotFound
		case err != nil:
			return err
		case state == outbox.StateSending:
			return outbox.ErrSending
		}
		if _, err := tx.Exec(ctx, `WITH c AS (DELETE FROM contents WHERE id = $1) DELETE FROM messages WHERE id = $1`, id); err != nil {
			return err
		}
		if job == nil {
			return nil
		}
		return e.deleteJob(ctx, tx, *job)
	})
}
