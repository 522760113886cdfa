package river

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

var (
	errSilent   = errors.New("the database was not reached for a while; other instances may take over")
	errReplaced = errors.New("other instances have taken over, as this one was not seen for a while")
)

// register adds this instance to those that are alive. It reports false when ctx ended.
func (r *run) register() (began time.Time, ok bool) {
	for r.ctx.Err() == nil {
		began = time.Now()
		_, err := r.pool.Exec(r.ctx, `INSERT INTO instances (id) VALUES ($1) ON CONFLICT (id) DO NOTHING`, r.id())
		if err == nil {
			return began, true
		}
		r.warn("starting", err)
		sleep(r.ctx, time.Second)
	}
	return began, false
}

// leave removes it when it has nothing left.
func (r *run) leave() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 5*time.Second)
	defer cancel()
	_, err := r.pool.Exec(ctx, `DELETE FROM instances WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM messages WHERE owner = $1 AND state = 'sending')`, r.id())
	if err != nil {
		r.warn("leaving", err)
	}
}

// heard notes that others can see that this instance is alive.
func (r *run) heard(began time.Time) {
	r.limits.heard(began)
	r.gate.Reset(r.fence() - time.Since(began))
	r.mu.Lock()
	over := r.tenure.ctx.Err() != nil
	r.mu.Unlock()
	if over && r.ctx.Err() == nil {
		r.newTenure(r.id(), nil)
	}
}

// silence ends the tenure of an instance that no beat was heard of for long. Others
// are about to begin its messages, and to open its connections.
func (r *run) silence() {
	if !r.limits.silent() {
		return
	}
	r.Logger.Warn("the outbox's database was not reached for a while: nothing is sent until it is, and other instances may take over")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tenure.cancel(errSilent)
}

// observed is a state that something was seen in, and since when.
type observed struct {
	state int64
	since time.Time
}

// beats says that this instance is alive, and looks whether the others are. One is
// dead whose beat was not seen for a while in which there was no gap in the contact
// that any instance had with the database: an outage is nobody's death. So an
// instance that has just started need not watch first; it knows what those before it
// have seen.
//
// It has a connection of its own: an instance whose pool is busy is not dead.
func (r *run) beats(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	orphans := make(map[string]observed) // by owner
	strays := make(map[string]observed)  // by message
	for ctx.Err() == nil {
		began := time.Now()
		var err error
		if conn == nil || conn.IsClosed() {
			conn, err = r.connect(ctx)
		}
		alive := false
		if err == nil {
			alive, err = r.beatOnce(ctx, conn)
		}
		switch {
		case err != nil:
			clear(orphans)
			if ctx.Err() == nil {
				r.warn("saying that this instance is alive", err)
			}
		case !alive:
			clear(orphans)
			r.Logger.Warn("the other instances took this one for dead, as it was not seen for a while, and have taken its messages over; it goes on under another name")
			name := uuid.NewString()
			r.newTenure(name, errReplaced)
			r.limits.forfeit(name)
			_, err = conn.Exec(ctx, `INSERT INTO instances (id) VALUES ($1)`, name)
			if err != nil {
				r.warn("saying that this instance is alive", err)
				break
			}
			r.heard(began)
		default:
			r.heard(began)
			err = r.lookAtOthers(ctx, conn, orphans)
			if err == nil {
				err = r.lookForStrays(ctx, conn, strays)
			}
			if err != nil && ctx.Err() == nil {
				r.warn("looking after other instances", err)
			}
		}
		pause := r.beat
		if err != nil {
			pause = min(pause, time.Second)
		}
		sleep(ctx, pause-min(pause, time.Since(began)))
	}
}

// connect makes a connection outside the pool.
func (r *run) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, max(r.beat, time.Second))
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, r.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	if err := r.prepare(ctx, conn); err != nil {
		conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

func (r *run) beatOnce(ctx context.Context, conn *pgx.Conn) (alive bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, max(r.beat, time.Second))
	defer cancel()
	_, err = conn.Exec(ctx, `UPDATE contact SET last = clock_timestamp(),
		since = CASE WHEN last < clock_timestamp() - $1::interval THEN clock_timestamp() ELSE since END`, 2*r.beat+r.beat/2)
	if err != nil {
		return false, err
	}
	done, err := conn.Exec(ctx, `UPDATE instances SET beat = beat + 1, seen = clock_timestamp() WHERE id = $1`, r.id())
	if err != nil || done.RowsAffected() == 0 {
		return false, err
	}
	return true, r.limits.renew(ctx, conn)
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
