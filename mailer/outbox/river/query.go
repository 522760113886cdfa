package river

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// querier and execer are a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// get returns a message and the size of its content.
func (e *Engine) get(ctx context.Context, q querier, id, and string) (*outbox.Message, int64, error) {
	var (
		state  outbox.State
		size   int64
		record []byte
	)
	err := q.QueryRow(ctx, `SELECT m.state, m.size, m.record FROM messages m
		WHERE m.id = $1 AND NOT (m.state IN ('sent', 'failed', 'canceled') AND coalesce(m.forget <= $2, false))`+and, id, time.Now()).Scan(&state, &size, &record)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, outbox.ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	m, err := e.unseal(id, state, record)
	return m, size, err
}

// Get returns a message.
func (e *Engine) Get(ctx context.Context, id string) (*outbox.Message, error) {
	m, _, err := e.get(ctx, e.pool, id, "")
	return m, err
}

// List returns messages, the newest first.
func (e *Engine) List(ctx context.Context, f outbox.Filter) (outbox.Page, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	var (
		where = []string{"true"}
		args  []any
	)
	and := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if f.Tenant != "" {
		and("tenant = $%d", f.Tenant)
	}
	if f.State != "" {
		and("state = $%d", string(f.State))
	}
	if f.CallerKind != "" || f.CallerName != "" {
		and("caller = $%d", callerDigest(f.CallerKind, f.CallerName))
	}
	if f.Before != "" {
		and("id < $%d", f.Before)
	}
	order := "DESC"
	if f.After != "" {
		order = "ASC"
		and("id > $%d", f.After)
	}
	args = append(args, limit+1)
	rows, err := e.pool.Query(ctx, `SELECT id, state, record FROM messages WHERE `+strings.Join(where, " AND ")+
		fmt.Sprintf(` ORDER BY id %s LIMIT $%d`, order, len(args)), args...)
	if err != nil {
		return outbox.Page{}, err
	}
	defer rows.Close()
	var p outbox.Page
	for rows.Next() {
		var (
			id     string
			state  outbox.State
			record []byte
		)
		if err := rows.Scan(&id, &state, &record); err != nil {
			return outbox.Page{}, err
		}
		if len(p.Messages) == limit {
			p.Next = p.Messages[limit-1].ID
			break
		}
		m, err := e.unseal(id, state, record)
		if err != nil {
			return outbox.Page{}, err
		}
		p.Messages = append(p.Messages, m)
	}
	rows.Close()
	if f.After != "" {
		slices.Reverse(p.Messages)
	}
	return p, rows.Err()
}

// Stats counts.
func (e *Engine) Stats(ctx context.Context) (outbox.Stats, error) {
	s := outbox.Stats{Tenants: make(map[string]outbox.TenantStats)}
	rows, err := e.pool.Query(ctx, `SELECT t.tenant, t.state, t.n, (
			SELECT min(accepted) FROM messages m WHERE m.tenant = t.tenant AND m.state IN ('queued', 'sending', 'held'))
		FROM (SELECT tenant, state, sum(n)::bigint AS n FROM (SELECT * FROM counts UNION ALL SELECT * FROM tally) a GROUP BY tenant, state) t
		WHERE t.n > 0`)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			tenant string
			state  outbox.State
			n      int64
			oldest *time.Time
		)
		if err := rows.Scan(&tenant, &state, &n, &oldest); err != nil {
			return s, err
		}
		t, ok := s.Tenants[tenant]
		if !ok {
			t.Messages = make(map[outbox.State]int)
		}
		t.Messages[state] = int(n)
		if oldest != nil {
			t.Oldest = oldest.UTC()
		}
		s.Tenants[tenant] = t
	}
	if err := rows.Err(); err != nil {
		return s, err
	}
	err = e.pool.QueryRow(ctx, `SELECT pg_total_relation_size('messages') + pg_total_relation_size('contents')`).Scan(&s.Bytes)
	return s, err
}
