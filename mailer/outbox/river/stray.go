package river

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// unreadable notes a message that was claimed and cannot be read.
func (r *run) unreadable(id string, generation int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad[id] = generation
}

// lookForStrays puts messages back that are this instance's, but that it knows nothing
// of: the answer to its claim was lost, or cannot be read. Nobody has begun them.
func (r *run) lookForStrays(ctx context.Context, conn *pgx.Conn, strays map[string]observed) error {
	rows, err := conn.Query(ctx, `SELECT id, tenant, generation FROM messages WHERE owner = $1 AND state = 'sending'`, r.id())
	if err != nil {
		return err
	}
	type row struct {
		id, tenant string
		generation int64
	}
	sending, err := pgx.CollectRows(rows, func(c pgx.CollectableRow) (w row, err error) {
		return w, c.Scan(&w.id, &w.tenant, &w.generation)
	})
	if err != nil {
		return err
	}
	now := time.Now()
	seen := make(map[string]bool, len(sending))
	for _, m := range sending {
		r.mu.Lock()
		t := r.tries[m.id]
		bad := r.bad[m.id] == m.generation
		r.mu.Unlock()
		if t != nil && t.generation == m.generation {
			continue
		}
		seen[m.id] = true
		due := now
		switch s, known := strays[m.id]; {
		case bad:
			due = now.Add(time.Hour)
		case !known || s.state != m.generation:
			strays[m.id] = observed{m.generation, now}
			continue
		case now.Sub(s.since) < max(claimTime+r.beat, r.dead):
			continue
		}
		if err := putBack(ctx, conn, m.id, m.generation, due); err != nil {
			return err
		}
		delete(strays, m.id)
		r.mu.Lock()
		delete(r.bad, m.id)
		r.mu.Unlock()
		r.due(m.tenant, due)
	}
	for id := range strays {
		if !seen[id] {
			delete(strays, id)
		}
	}
	return nil
}
