package river

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// What instances tell each other: one of these letters, the name of the one that
// tells it, and a tenant.
const (
	laneDue     = "d" // something in it is due
	laneChanged = "c" // it is parked or paused
	laneOpened  = "o" // it is open, and rests nowhere
)

func (e *Engine) channel() string { return "oauth_mail:" + e.Schema }

func (e *Engine) tell(ctx context.Context, x execer, what, tenant string) error {
	_, err := x.Exec(ctx, `SELECT pg_notify($1, $2)`, e.channel(), what+e.name+tenant)
	return err
}

// listen hears what the others tell, over a connection of its own. Whenever it has
// connected, it looks at everything, as something may have been missed.
func (r *run) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.listenOnce(ctx)
		if ctx.Err() == nil {
			r.warn("listening", err)
			sleep(ctx, time.Second)
		}
	}
}

func (r *run) listenOnce(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, r.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{r.channel()}.Sanitize()); err != nil {
		return err
	}
	if err := r.pollOnce(ctx); err != nil {
		return err
	}
	for {
		quiet, cancel := context.WithTimeout(ctx, 30*time.Second)
		n, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && quiet.Err() == nil:
			return err
		case err != nil: // nothing was told; is the connection still there?
			alive, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := conn.Ping(alive)
			cancel()
			if err != nil {
				return err
			}
			continue
		}
		who, here := 1, 1+len(r.name)
		if len(n.Payload) <= here || n.Payload[who:here] == r.name { // which knows it
			continue
		}
		if err := r.told(ctx, n.Payload[:who], n.Payload[here:]); err != nil {
			return err
		}
	}
}

func (r *run) told(ctx context.Context, what, tenant string) error {
	switch what {
	case laneDue:
		r.due(tenant, time.Now())
	case laneChanged, laneOpened:
		if what == laneOpened {
			r.mu.Lock()
			l := r.laneLocked(tenant)
			l.resting = outbox.Lane{}
			l.next = earlier(l.next, time.Now())
			r.lookLocked(l)
			r.mu.Unlock()
		}
		return r.readLanes(ctx, tenant)
	}
	return nil
}

// shouts tells others of lanes that have something due which has no room here, a few
// times a second for each lane at most. What is lost here is found by polling.
type shouts struct {
	mu     sync.Mutex
	lanes  map[string]bool
	wakeup chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

const shoutPause = 200 * time.Millisecond

func (s *shouts) start(e *Engine) {
	s.lanes = make(map[string]bool)
	s.wakeup = make(chan struct{}, 1)
	s.done = make(chan struct{})
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(s.done)
		for {
			select {
			case <-s.wakeup:
				s.all(ctx, e)
				sleep(ctx, shoutPause)
			case <-ctx.Done():
				last, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				s.all(last, e)
				return
			}
		}
	}()
}

func (s *shouts) stop() {
	s.cancel()
	<-s.done
}

func (s *shouts) add(tenant string) {
	s.mu.Lock()
	s.lanes[tenant] = true
	s.mu.Unlock()
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

func (s *shouts) all(ctx context.Context, e *Engine) {
	s.mu.Lock()
	lanes := s.lanes
	s.lanes = make(map[string]bool)
	s.mu.Unlock()
	for tenant := range lanes {
		if err := e.tell(ctx, e.pool, laneDue, tenant); err != nil {
			return // the others poll
		}
	}
}
