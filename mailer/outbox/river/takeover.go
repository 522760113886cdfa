package river

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// observed is a state that something was seen in, and since when.
type observed struct {
	state int64
	since time.Time
}

// lookAtOthers takes over what dead instances were sending, and after a while what
// belongs to none: who claimed it at the moment of his removal may still record it.
func (r *run) lookAtOthers(ctx context.Context, conn *pgx.Conn, orphans map[string]observed) error {
	rows, err := conn.Query(ctx, `SELECT i.id, i.beat FROM instances i, contact c
			WHERE i.id <> $1 AND greatest(i.seen, c.since) < clock_timestamp() - $2::interval
		UNION SELECT owner, -1 FROM messages m WHERE state = 'sending' AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = m.owner)`, r.id(), r.dead)
	if err != nil {
		return err
	}
	beats := make(map[string]int64)
	for rows.Next() {
		var (
			id   string
			beat int64
		)
		if err := rows.Scan(&id, &beat); err != nil {
			rows.Close()
			return err
		}
		beats[id] = beat
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for id := range orphans {
		if _, there := beats[id]; !there {
			delete(orphans, id)
		}
	}
	for id, beat := range beats {
		if beat < 0 {
			o, known := orphans[id]
			if !known {
				orphans[id] = observed{beat, time.Now()}
			}
			if !known || time.Since(o.since) < r.dead {
				continue
			}
		}
		if err := r.takeOver(ctx, conn, id, beat); err != nil {
			return err
		}
		delete(orphans, id)
	}
	return nil
}

// takeOver has the handler decide about all messages that a dead instance was
// sending, and removes it.
func (r *run) takeOver(ctx context.Context, conn *pgx.Conn, dead string, beat int64) error {
	tenants := make(map[string]bool)
	n := 0
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if beat >= 0 {
			// An instance that is only slow waits here, and then sees that it is gone.
			var one int
			err := tx.QueryRow(ctx, `SELECT 1 FROM instances WHERE id = $1 AND beat = $2 FOR UPDATE SKIP LOCKED`, dead, beat).Scan(&one)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil // it lives, or another does this
			}
			if err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, `SELECT id, generation, job, record FROM messages WHERE owner = $1 AND state = 'sending' FOR UPDATE SKIP LOCKED`, dead)
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f foundRow, err error) {
			return f, row.Scan(&f.id, &f.generation, &f.job, &f.record)
		})
		if err != nil {
			return err
		}
		for _, f := range found {
			m, err := r.unseal(f.id, outbox.StateSending, f.record)
			if err != nil {
				r.Logger.Error("an interrupted message in the outbox cannot be read; it is looked at again in an hour", "message", f.id, "error", err)
				if err := putBack(ctx, tx, f.id, f.generation, time.Now().Add(time.Hour)); err != nil {
					return err
				}
				continue
			}
			o := r.interrupted(m)
			apply(m, o)
			c := &change{m: m, generation: f.generation}
			if f.job != nil {
				c.job = *f.job
			}
			if _, err := r.write(ctx, tx, c, `generation = $9`, f.generation); err != nil {
				return err
			}
			if o.Lane != nil {
				if err := r.setLane(ctx, tx, m.Tenant, *o.Lane); err != nil {
					return err
				}
			}
			tenants[m.Tenant] = true
			n++
		}
		if _, err := tx.Exec(ctx, `UPDATE lanes SET prober = NULL, probing = NULL WHERE prober = $1`, dead); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM instances WHERE id = $1`, dead)
		return err
	})
	if err != nil {
		return err
	}
	if n > 0 {
		r.Logger.Warn("an instance has died; what it was sending is taken over", "messages", n)
	}
	for t := range tenants {
		r.wake(t, time.Now())
	}
	return nil
}

type foundRow struct {
	id         string
	generation int64
	job        *int64
	record     []byte
}

// putBack has a message wait that nobody began to send.
func putBack(ctx context.Context, tx execer, id string, generation int64, due time.Time) error {
	_, err := tx.Exec(ctx, `UPDATE messages SET state = 'queued', owner = NULL, due = $3, generation = generation + 1
		WHERE id = $1 AND generation = $2 AND state = 'sending'`, id, generation, due)
	return err
}
