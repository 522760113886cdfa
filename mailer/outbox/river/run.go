package river

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// run is a call of Run.
type run struct {
	*Engine
	h   outbox.Handler
	ctx context.Context

	claims sync.WaitGroup
	wg     sync.WaitGroup // of tries, and of messages being accepted that become some
	sem    chan struct{}  // of claimers

	limits *limits
	// gate ends this tenure, unless a beat is heard before.
	gate *time.Timer

	// Engine.mu guards these.
	stopping bool
	tenure   *tenure
	tries    map[string]*try
	// bad are messages that cannot be read, with the generations they were claimed in.
	bad    map[string]int64
	warned time.Time
}

// tenure is the time in which this instance is known to own its messages. When it is
// over, deliveries whose content was not begun break off.
type tenure struct {
	id     string
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (r *run) id() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tenure.id
}

// newTenure ends the one before.
func (r *run) newTenure(id string, cause error) {
	t := &tenure{id: id}
	t.ctx, t.cancel = context.WithCancelCause(r.ctx)
	r.mu.Lock()
	before := r.tenure
	r.tenure = t
	r.mu.Unlock()
	if before != nil {
		before.cancel(cause)
	}
}

// out reports whether the tenure is over: nothing is handed out. Engine.mu is held.
func (r *run) out() bool { return r.stopping || r.tenure.ctx.Err() != nil }

// warn tells of trouble with the database, now and then.
func (r *run) warn(doing string, err error) {
	r.mu.Lock()
	quiet := time.Since(r.warned) < 5*time.Second
	if !quiet {
		r.warned = time.Now()
	}
	r.mu.Unlock()
	if !quiet {
		r.Logger.Warn("the outbox's database is in trouble; what was accepted stays there", "doing", doing, "error", err)
	}
}

// Run hands messages to h until ctx ends. A message that an instance was sending when
// it ended is decided about some seconds later, when the instance is known to be dead.
func (e *Engine) Run(ctx context.Context, h outbox.Handler) error {
	r := &run{
		Engine: e, h: h, ctx: ctx, sem: make(chan struct{}, claimers),
		tries: make(map[string]*try), bad: make(map[string]int64),
	}
	r.newTenure(uuid.NewString(), nil)
	began, ok := r.register()
	if !ok {
		return nil
	}
	r.limits = newLimits(r, began)
	r.gate = time.AfterFunc(r.fence(), r.silence)
	e.mu.Lock()
	if e.run != nil {
		e.mu.Unlock()
		r.gate.Stop()
		r.limits.leave()
		r.leave()
		return errors.New("outbox river: it runs already")
	}
	e.run = r
	e.mu.Unlock()

	// What goes on until all outcomes are recorded.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { r.beats(background) })
	wg.Go(func() { r.limits.look(background) })
	wg.Go(func() { r.listen(ctx) })
	wg.Go(func() { r.polls(ctx) })
	wg.Go(func() { r.sweeps(ctx) })
	wg.Go(func() { r.river(ctx) })
	<-ctx.Done()
	e.mu.Lock()
	r.stopping = true
	e.mu.Unlock()
	r.claims.Wait()
	r.wg.Wait()
	e.mu.Lock()
	e.run = nil
	for _, l := range e.lanes {
		if l.timer != nil {
			l.timer.Stop()
		}
		l.claiming, l.again, l.probing = false, false, false
	}
	e.mu.Unlock()
	end()
	wg.Wait()
	r.gate.Stop()
	r.limits.leave()
	r.leave()
	return nil
}

// river works on the jobs.
func (r *run) river(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := r.riverClient(r.id()+"-"+uuid.NewString()[:8], r)
		if err == nil {
			err = c.Start(context.WithoutCancel(ctx))
		}
		if err != nil {
			r.warn("starting River", err)
			sleep(ctx, time.Second)
			continue
		}
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := c.StopAndCancel(stop); err != nil {
			r.warn("stopping River", err)
		}
		return
	}
}

// polls looks at all lanes that have messages which wait, now and then.
func (r *run) polls(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.pollOnce(ctx); err != nil && ctx.Err() == nil {
			r.warn("looking for messages", err)
		}
		sleep(ctx, r.Engine.poll)
	}
}

// allLanes finds for each tenant what is due first and what expires first: an index
// probe or three for each, however many messages it has.
const allLanes = `WITH RECURSIVE t AS (
		(SELECT tenant FROM messages WHERE state IN ('queued', 'scheduled') ORDER BY tenant LIMIT 1)
		UNION ALL
		SELECT (SELECT m.tenant FROM messages m WHERE m.state IN ('queued', 'scheduled') AND m.tenant > t.tenant ORDER BY m.tenant LIMIT 1)
		FROM t WHERE t.tenant IS NOT NULL)
	SELECT t.tenant,
		(SELECT min(due) FROM messages m WHERE m.tenant = t.tenant AND m.state IN ('queued', 'scheduled')),
		(SELECT min(expires) FROM messages m WHERE m.tenant = t.tenant AND m.state IN ('queued', 'scheduled'))
	FROM t WHERE t.tenant IS NOT NULL`

func (r *run) pollOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := r.readLanes(ctx, ""); err != nil {
		return err
	}
	rows, err := r.pool.Query(ctx, allLanes)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			tenant       string
			due, expires *time.Time
		)
		if err := rows.Scan(&tenant, &due, &expires); err != nil {
			return err
		}
		r.mu.Lock()
		l := r.laneLocked(tenant)
		if due != nil {
			l.next = earlier(l.next, *due)
		}
		if expires != nil {
			l.expires = earlier(l.expires, *expires)
		}
		r.lookLocked(l)
		r.mu.Unlock()
	}
	return rows.Err()
}

// readLanes notes which lanes are parked or paused; tenant selects one of them.
func (r *run) readLanes(ctx context.Context, tenant string) error {
	rows, err := r.pool.Query(ctx, `SELECT tenant, greatest(until, probing) FROM lanes WHERE $1 = '' OR tenant = $1`, tenant)
	if err != nil {
		return err
	}
	defer rows.Close()
	closed := make(map[string]time.Time)
	for rows.Next() {
		var (
			name  string
			until *time.Time
		)
		if err := rows.Scan(&name, &until); err != nil {
			return err
		}
		closed[name] = time.Time{}
		if until != nil {
			closed[name] = *until
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range closed {
		r.laneLocked(name)
	}
	for name, l := range r.lanes {
		if tenant != "" && tenant != name {
			continue
		}
		until, now := closed[name]
		changed := l.closed != now || !l.until.Equal(until)
		l.closed, l.until = now, until
		if changed {
			r.lookLocked(l)
		}
	}
	return nil
}
