package river

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// sweepMost is how many messages are forgotten in one transaction.
const sweepMost = 500

// sweeps does what one instance does for all of them: whoever holds the lock.
func (r *run) sweeps(ctx context.Context) {
	for ctx.Err() == nil {
		more, err := r.sweepOnce(ctx)
		if err != nil && ctx.Err() == nil {
			r.warn("forgetting old messages", err)
		}
		if !more {
			sleep(ctx, r.Engine.poll)
		}
	}
}

func (r *run) sweepOnce(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = r.tx(ctx, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, r.lockKey("sweep")).Scan(&mine); err != nil || !mine {
			return err
		}
		done, err := tx.Exec(ctx, `WITH old AS (SELECT id FROM messages WHERE state IN ('sent', 'failed', 'canceled') AND forget <= $1
				ORDER BY forget LIMIT $2 FOR UPDATE SKIP LOCKED),
			c AS (DELETE FROM contents USING old WHERE contents.id = old.id)
			DELETE FROM messages USING old WHERE messages.id = old.id`, time.Now(), sweepMost)
		if err != nil {
			return err
		}
		more = done.RowsAffected() == sweepMost
		_, err = tx.Exec(ctx, `WITH gone AS (DELETE FROM tally RETURNING tenant, state, n)
			INSERT INTO counts AS c SELECT tenant, state, sum(n) FROM gone GROUP BY tenant, state
			ON CONFLICT (tenant, state) DO UPDATE SET n = c.n + excluded.n`)
		if err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, `DELETE FROM counts WHERE n = 0`); err != nil {
			return err
		}
		// Those of the dead count for nothing already.
		_, err = tx.Exec(ctx, `DELETE FROM leases WHERE ctid IN (SELECT ctid FROM leases l
			WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = l.owner) FOR UPDATE SKIP LOCKED)`)
		return err
	})
	return more, err
}
