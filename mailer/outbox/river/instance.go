package river

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
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
