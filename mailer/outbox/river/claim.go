package river

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

const (
	// claimers is how many lanes are served at once.
	claimers = 4
	// claimTime is how long a claim may take. A message whose claim took longer may
	// have been taken back already.
	claimTime = 8 * time.Second
)

// slot is a message's place in the window of its lane.
type slot struct {
	run  *run
	lane *lane
}

// release gives the place to the next message. A nil slot has none.
func (s *slot) release(e *Engine) {
	if s == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.lane.running--
	e.lookLocked(s.lane)
}

// slot returns a place for a message that is just being accepted, or nil where it has
// to wait. Run does not end before its wg is told that the message is accepted.
func (e *Engine) slot(tenant string, due, now time.Time) *slot {
	e.mu.Lock()
	r := e.run
	e.mu.Unlock()
	if r == nil || due.After(now) {
		return nil
	}
	window := r.window(tenant)
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.laneLocked(tenant)
	if r.out() || l.closed || l.resting.State == outbox.LaneResting || l.running >= window || past(l.next, now) {
		return nil
	}
	l.running++
	r.wg.Add(1)
	return &slot{r, l}
}

// window asks the handler.
func (r *run) window(tenant string) (n int) {
	defer func() {
		if p := recover(); p != nil {
			r.Logger.Error("the window of a tenant panicked", "tenant", tenant, "panic", p)
			n = 1
		}
	}()
	return max(1, r.h.Window(tenant))
}

func (r *run) laneClosed(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.laneLocked(tenant)
	return l.closed && !past(l.until, time.Now())
}

// due notes that there is a message, and reports whether this instance has room for
// one.
func (e *Engine) due(tenant string, at time.Time) bool {
	e.mu.Lock()
	r := e.run
	e.mu.Unlock()
	if r == nil {
		return false
	}
	window := r.window(tenant)
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.laneLocked(tenant)
	l.next = earlier(l.next, at)
	e.lookLocked(l)
	return l.running < window && !r.out()
}

// wake has a message handed out when it is due, here or elsewhere.
func (e *Engine) wake(tenant string, due time.Time) {
	if !e.due(tenant, due) {
		e.shouts.add(tenant)
	}
}

// look sees whether something can be claimed in a lane.
func (e *Engine) look(tenant string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lookLocked(e.laneLocked(tenant))
}

func (e *Engine) lookLocked(l *lane) {
	r := e.run
	if r == nil || r.stopping {
		return
	}
	if l.claiming {
		l.again = true
		return
	}
	l.claiming = true
	r.claims.Go(func() {
		r.sem <- struct{}{}
		defer func() { <-r.sem }()
		r.claimAll(l)
	})
}

// claimAll claims messages of a lane as long as there are some, and there is room.
func (r *run) claimAll(l *lane) {
	for {
		window := r.window(l.tenant)
		r.mu.Lock()
		l.again = false
		p, n, next := l.plan(time.Now(), window)
		if p == nothing || r.out() {
			l.claiming = false
			r.armLocked(l, next)
			r.mu.Unlock()
			return
		}
		l.running += n
		if p == probeRest {
			l.probing = true
		}
		r.mu.Unlock()

		c, err := r.claim(l.tenant, p, n)
		r.mu.Lock()
		l.running -= n - len(c.tries)
		if p == probeRest && len(c.tries) == 0 {
			l.probing = false
		}
		now := time.Now()
		if err != nil {
			l.claiming = false
			r.armLocked(l, now.Add(time.Second))
			r.mu.Unlock()
			if r.ctx.Err() == nil {
				r.warn("claiming messages", err)
			}
			return
		}
		l.next, l.expires, l.closed, l.until = c.next, c.expires, c.closed, c.until
		if len(c.tries) == 0 {
			// Others have claimed them at this moment, or probe.
			if soon := now.Add(50 * time.Millisecond); past(l.next, now) {
				l.next = soon
			}
			if soon := now.Add(time.Second); past(l.expires, now) {
				l.expires = soon
			}
		}
		if l.again { // somebody knows of more
			l.next = earlier(l.next, now)
		}
		r.mu.Unlock()
		for _, t := range c.tries {
			t.slot = &slot{r, l}
			r.begin(t)
		}
	}
}

// armLocked sets the timer of a lane.
func (r *run) armLocked(l *lane, at time.Time) {
	if l.timer != nil {
		l.timer.Stop()
	}
	if !at.IsZero() {
		l.timer = time.AfterFunc(max(time.Until(at), time.Millisecond), func() { r.look(l.tenant) })
	}
}

// claimed is what a claim brought, and what is known about the lane after it.
type claimed struct {
	tries                []*try
	next, expires, until time.Time
	closed               bool
}

// probed marks a lane whose message is out to see whether it can be opened, for all
// instances but only for a while: the one that sends it may die.
const probed = `UPDATE lanes SET prober = $2, probing = clock_timestamp() + $3
	WHERE tenant = $1 AND until <= $4 AND (probing IS NULL OR probing <= clock_timestamp())`

// claim takes n messages of a lane over.
func (r *run) claim(tenant string, p purpose, n int) (claimed, error) {
	ctx, cancel := context.WithTimeout(r.ctx, claimTime)
	defer cancel()
	var c claimed
	owner, now := r.id(), time.Now()
	err := r.tx(ctx, func(tx pgx.Tx) error {
		if p == probeClosed {
			done, err := tx.Exec(ctx, probed, tenant, owner, r.probe, now)
			if err != nil {
				return err
			}
			if done.RowsAffected() == 0 {
				n = 0
			}
		}
		var b pgx.Batch
		which := `due <= $2 ORDER BY due, id`
		if p == expire {
			which = `expires <= $2 ORDER BY expires, id`
		}
		if p == send || p == probeRest {
			which = `NOT EXISTS (SELECT 1 FROM lanes WHERE tenant = $1) AND ` + which
		}
		b.Queue(`WITH c AS (SELECT id AS it FROM messages WHERE tenant = $1 AND state IN ('queued', 'scheduled')
				AND EXISTS (SELECT 1 FROM instances WHERE id = $3) AND `+which+` LIMIT $4 FOR UPDATE SKIP LOCKED)
			UPDATE messages SET state = 'sending', owner = $3, generation = generation + 1 FROM c WHERE id = it
			RETURNING id, generation, job, size, record`, tenant, now, owner, n).Query(func(rows pgx.Rows) error { return c.scan(r, rows, owner, p) })
		b.Queue(`SELECT (SELECT min(due) FROM messages WHERE tenant = $1 AND state IN ('queued', 'scheduled')),
				(SELECT min(expires) FROM messages WHERE tenant = $1 AND state IN ('queued', 'scheduled'))`, tenant).QueryRow(func(row pgx.Row) error {
			var next, expires *time.Time
			err := row.Scan(&next, &expires)
			if next != nil {
				c.next = *next
			}
			if expires != nil {
				c.expires = *expires
			}
			return err
		})
		b.Queue(`SELECT greatest(until, probing) FROM lanes WHERE tenant = $1`, tenant).QueryRow(func(row pgx.Row) error {
			var until *time.Time
			err := row.Scan(&until)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			c.closed = err == nil
			if until != nil {
				c.until = *until
			}
			return err
		})
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
		if p == probeClosed && n > 0 && len(c.tries) == 0 {
			_, err := tx.Exec(ctx, `UPDATE lanes SET prober = NULL, probing = NULL WHERE tenant = $1 AND prober = $2`, tenant, owner)
			return err
		}
		return nil
	})
	if err != nil {
		return claimed{}, err
	}
	c.tries = slices.DeleteFunc(c.tries, func(t *try) bool { return t.m == nil })
	slices.SortStableFunc(c.tries, func(a, b *try) int { return a.m.Due.Compare(b.m.Due) })
	return c, nil
}

func (c *claimed) scan(r *run, rows pgx.Rows, owner string, p purpose) error {
	defer rows.Close()
	for rows.Next() {
		var (
			id     string
			job    *int64
			size   int64
			record []byte
		)
		t := &try{owner: owner, purpose: p}
		if err := rows.Scan(&id, &t.generation, &job, &size, &record); err != nil {
			return err
		}
		if job != nil {
			t.job = *job
		}
		m, err := r.unseal(id, outbox.StateSending, record)
		if err != nil {
			// It stays claimed, so that it is not looked at again and again: the next
			// instance that starts tries again.
			r.Logger.Error("a message in the outbox cannot be read; is the key of the sealed records the same in all instances?",
				"message", id, "error", err)
			r.unreadable(id, t.generation)
			continue
		}
		t.m = m
		t.content = m.Content(stored{r.Engine, id, size})
		c.tries = append(c.tries, t)
	}
	return rows.Err()
}
