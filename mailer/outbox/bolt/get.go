package bolt

import (
	"context"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Get implements [outbox.Engine].
func (e *Engine) Get(ctx context.Context, id string) (*outbox.Message, error) {
	m, err := e.read(ctx, id)
	if err == nil && m.State == outbox.StateSending { // its outcome may lie
		o := &op{apply: func(*batch) error { return nil }, done: make(chan error, 1)}
		if e.queue.add(o) && e.wait(ctx, o) == nil {
			return e.read(ctx, id)
		}
	}
	return m, err
}

// read returns a message as it is stored.
func (e *Engine) read(ctx context.Context, id string) (*outbox.Message, error) {
	record, _, err := e.load(ctx, id, false)
	if err != nil {
		return nil, err
	}
	m, _, err := e.open(id, record)
	return m, err
}

// load reads a record and, if it is in the database and wanted, the sealed content.
func (e *Engine) load(ctx context.Context, id string, content bool) (record, sealed []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if !goodID(id) {
		return nil, nil, outbox.ErrNotFound
	}
	err = e.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMessages).Get([]byte(id))
		if v == nil {
			return outbox.ErrNotFound
		}
		record = append([]byte(nil), v...)
		if content {
			sealed = append([]byte(nil), tx.Bucket(bucketContents).Get([]byte(id))...)
		}
		return nil
	})
	return record, sealed, err
}

// Content implements [outbox.Engine].
func (e *Engine) Content(ctx context.Context, id string) (mailer.Content, error) {
	record, sealed, err := e.load(ctx, id, true)
	if err != nil {
		return nil, err
	}
	m, h, err := e.open(id, record)
	if err != nil {
		return nil, err
	}
	s, err := e.source(id, &h, sealed)
	if err != nil {
		return nil, err
	}
	return m.Content(s), nil
}
