package river

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// chunk is the most of a content that is in memory at once, in octets.
const chunk = 256 << 10

func chunkName(id string, n int) string { return fmt.Sprintf("content/%s/%d", id, n) }

// chunks stores a content in a transaction, chunk by chunk.
type chunks struct {
	e    *Engine
	ctx  context.Context
	tx   pgx.Tx
	id   string
	buf  []byte
	n    int
	size int64
}

func (c *chunks) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(c.buf) == chunk {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
		k := min(chunk-len(c.buf), len(p))
		c.buf = append(c.buf, p[:k]...)
		p = p[k:]
	}
	c.size += int64(total)
	return total, nil
}

func (c *chunks) flush() error {
	sealed, err := c.e.Sealer.AppendSeal(nil, chunkName(c.id, c.n), c.buf)
	if err != nil {
		return err
	}
	if _, err := c.tx.Exec(c.ctx, `INSERT INTO contents (id, n, data) VALUES ($1, $2, $3)`, c.id, c.n, sealed); err != nil {
		return err
	}
	c.n++
	c.buf = c.buf[:0]
	return nil
}

// store writes the content of a message. What it returns is all of it where that is
// small, else nil.
func (e *Engine) store(ctx context.Context, tx pgx.Tx, id string, c mailer.Content) ([]byte, error) {
	w := &chunks{e: e, ctx: ctx, tx: tx, id: id}
	if s := c.Size(); s > 0 && s <= chunk {
		w.buf = make([]byte, 0, s)
	}
	if _, err := c.WriteTo(w); err != nil {
		return nil, fmt.Errorf("reading the content: %w", err)
	}
	if w.size != c.Size() {
		return nil, fmt.Errorf("reading the content: it has %d octets, and said %d", w.size, c.Size())
	}
	var small []byte
	if w.n == 0 {
		small = bytes.Clone(w.buf)
	}
	return small, w.flush() // the last chunk, and an empty one of an empty content
}

// stored is a content in the database. It holds one chunk in memory while it is read,
// and no connection between two.
type stored struct {
	e    *Engine
	id   string
	size int64
}

func (s stored) Size() int64 { return s.size }

func (s stored) Open() (io.ReadCloser, error) { return &storedReader{stored: s}, nil }

type storedReader struct {
	stored
	n    int
	rest []byte
	read int64
}

func (r *storedReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.read >= r.size {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, fmt.Errorf("the stored content of message %s: %w", r.id, err)
		}
	}
	k := copy(p, r.rest)
	r.rest = r.rest[k:]
	r.read += int64(k)
	return k, nil
}

func (r *storedReader) next() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var sealed []byte
	err := r.e.pool.QueryRow(ctx, `SELECT data FROM contents WHERE id = $1 AND n = $2`, r.id, r.n).Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return outbox.ErrNotFound
	}
	if err != nil {
		return err
	}
	r.rest, err = r.e.Sealer.AppendOpen(nil, chunkName(r.id, r.n), sealed)
	if err == nil && len(r.rest) == 0 {
		err = io.ErrUnexpectedEOF
	}
	r.n++
	return err
}

func (r *storedReader) Close() error { return nil }

// Content returns the content of a message.
func (e *Engine) Content(ctx context.Context, id string) (mailer.Content, error) {
	m, size, err := e.get(ctx, e.pool, id, ` AND EXISTS (SELECT 1 FROM contents c WHERE c.id = m.id)`)
	if err != nil {
		return nil, err
	}
	return m.Content(stored{e, id, size}), nil
}
