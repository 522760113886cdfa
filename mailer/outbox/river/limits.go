package river

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

var (
	errNotRunning = errors.New("outbox river: it does not run, and so has no share of a mailbox's limits")
	errFenced     = errors.New("the database was not reached for a while; its mailboxes' connections may be others' by now")
)

// limits are what this instance has of the limits of mailboxes, while Run goes on.
//
// The window of a mailbox is rows in the database, one for each message that holds a
// place. Connections are leases, counted for each instance. They last as long as its
// beat is heard; see the package's comment.
type limits struct {
	*run
	// ctx ends when what is left is to end by its time.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // that give places and leases back

	mu        sync.Mutex
	owner     string    // this instance; empty when it has left
	contact   time.Time // when a beat began that was heard
	era       int       // of leases; one ends when contact is lost
	mailboxes map[[32]byte]*mailbox
	places    map[int64]bool // of messages under way
}

// mailbox is one of them.
type mailbox struct {
	digest [32]byte
	// turn is held by the one that asks the database: first come, first served.
	turn chan struct{}
	// freed says that a lease here is no longer in use.
	freed chan struct{}
	// telling is held while the database is told of leases that are given up.
	telling sync.Mutex

	// limits.mu guards these.
	drain  func()
	leases int
	busy   int       // of leases
	gifts  int       // leases that are being given up: the database still counts them
	since  time.Time // when the latest lease was taken or given up
	used   time.Time // when all leases were in use last
	yield  bool      // give a lease up as soon as a message ends
	unsure bool      // the database may count other leases than there are
	era    int       // in which the leases were taken
}

func newLimits(r *run, contact time.Time) *limits {
	l := &limits{run: r, owner: r.id(), contact: contact, mailboxes: make(map[[32]byte]*mailbox), places: make(map[int64]bool)}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(r.ctx))
	return l
}

func (l *limits) mailbox(name string) *mailbox {
	digest := sha256.Sum256([]byte(name))
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.mailboxes[digest]
	if m == nil {
		m = &mailbox{digest: digest, turn: make(chan struct{}, 1), freed: make(chan struct{}, 1), era: l.era}
		l.mailboxes[digest] = m
	}
	return m
}

// task does f meanwhile, unless this instance has left.
func (l *limits) task(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owner != "" {
		l.tasks.Go(f)
	}
}

// fenced reports whether this instance was out of contact so long that it may not
// begin anything: others are about to take over. limits.mu is held.
func (l *limits) fenced() bool { return time.Since(l.contact) >= l.fence() }

// heard notes that a beat was heard.
func (l *limits) heard(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.contact = began
}

// silent ends the use of all leases, if this instance is out of contact.
func (l *limits) silent() bool {
	l.mu.Lock()
	out := l.fenced()
	l.mu.Unlock()
	if out {
		l.forfeit("")
	}
	return out
}

// forfeit ends the use of all leases, and closes idle connections. Name, if set, is a
// new one of this instance.
func (l *limits) forfeit(name string) {
	l.mu.Lock()
	l.era++
	if name != "" {
		l.owner, l.contact = name, time.Time{} // which is not heard yet
	}
	var drains []func()
	for _, m := range l.mailboxes {
		if m.leases+m.gifts > 0 && m.drain != nil {
			drains = append(drains, m.drain)
		}
	}
	l.mu.Unlock()
	for _, drain := range drains { // at once: one may take a moment
		l.task(drain)
	}
}

// leave gives everything up, and waits for that a little.
func (l *limits) leave() {
	l.forfeit("")
	l.mu.Lock()
	owner := l.owner
	l.owner = ""
	l.mu.Unlock()
	ended := time.AfterFunc(5*time.Second, l.cancel)
	defer ended.Stop()
	l.tasks.Wait()
	_, err := l.pool.Exec(l.ctx, `WITH w AS (DELETE FROM waiters WHERE owner = $1) DELETE FROM leases WHERE owner = $1`, owner)
	if err != nil {
		l.warn("giving connections up", err) // which end with the beat
	}
	l.cancel()
}

// Acquire takes a place for one message. It does while Run goes on.
func (e *Engine) Acquire(ctx context.Context, name string, ml outbox.MailboxLimits, recipients int) (release func(), full *outbox.Full, err error) {
	if ml.Rate <= 0 && ml.RecipientsPerDay <= 0 && ml.Connections <= 0 {
		return func() {}, nil, nil
	}
	e.mu.Lock()
	r := e.run
	e.mu.Unlock()
	if r == nil {
		return nil, nil, errNotRunning
	}
	l := r.limits
	m := l.mailbox(name)
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	over := time.Now().Add(e.patience)
	for {
		release, full, err = l.take(ctx, m, ml, recipients)
		if err != nil || full == nil || time.Now().Add(full.Wait).After(over) {
			return release, full, err
		}
		again := time.NewTimer(full.Wait)
		select {
		case <-again.C:
		case <-m.freed:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
	}
}

// take asks once. The caller has the mailbox's turn.
func (l *limits) take(ctx context.Context, m *mailbox, ml outbox.MailboxLimits, recipients int) (release func(), full *outbox.Full, err error) {
	if err := l.declare(ctx, m); err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	if l.fenced() || m.era != l.era {
		l.mu.Unlock()
		return nil, nil, errFenced
	}
	owner, era := l.owner, l.era
	m.drain = ml.Drain
	own := ml.Connections <= 0
	if m.leases > m.busy && m.leases <= ml.Connections {
		m.busy++ // so that it is not given up
		own = true
	}
	l.mu.Unlock()
	leased := ml.Connections > 0
	var place *int64
	if !own || ml.Rate > 0 || ml.RecipientsPerDay > 0 {
		per := ml.Per
		if per <= 0 {
			per = time.Minute
		}
		var (
			wait    float64 // seconds
			lacking *outbox.Limit
		)
		err = l.pool.QueryRow(ctx, `SELECT place, wait, lacking FROM take($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			m.digest[:], owner, ml.Rate, per, ml.RecipientsPerDay, recipients, ml.Connections, !own, l.dead).Scan(&place, &wait, &lacking)
		if err == nil && lacking != nil {
			full = &outbox.Full{Limit: *lacking, Wait: max(time.Duration(wait*float64(time.Second)), time.Millisecond)}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && full == nil && l.era != era {
		err = errFenced
	}
	if err != nil || full != nil {
		if own && leased {
			m.busy--
		}
		m.unsure = m.unsure || !own && err != nil
		return nil, full, err
	}
	if !own {
		m.leases++
		m.busy++
		m.since = time.Now()
	}
	if place != nil {
		l.places[*place] = true
	}
	return sync.OnceFunc(func() { l.release(m, place, leased) }), nil, nil
}

// release gives a message's place back.
func (l *limits) release(m *mailbox, place *int64, leased bool) {
	if place != nil {
		l.task(func() { l.releasePlace(*place) })
	}
	if !leased {
		return
	}
	l.mu.Lock()
	if m.busy == m.leases {
		m.used = time.Now()
	}
	m.busy--
	var g gift
	if m.yield {
		g = l.takeBackLocked(m, 1)
	}
	l.mu.Unlock()
	select {
	case m.freed <- struct{}{}:
	default:
	}
	l.giveUp(g)
}

// releasePlace begins the last part of a message's time in the window. If that cannot
// be told to the database, it ends when it is no longer renewed.
func (l *limits) releasePlace(id int64) {
	l.mu.Lock()
	delete(l.places, id)
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(l.ctx, l.dead)
	defer cancel()
	for ctx.Err() == nil {
		_, err := l.pool.Exec(ctx, `WITH s AS (SELECT set_config('synchronous_commit', 'off', true))
			UPDATE places SET released = true, until = clock_timestamp() + per FROM s WHERE id = $1 AND NOT released`, id)
		if err == nil {
			return
		}
		sleep(ctx, time.Second)
	}
}

// renew makes the places of messages under way last until this instance is dead.
func (l *limits) renew(ctx context.Context, x execer) error {
	l.mu.Lock()
	places := slices.Collect(maps.Keys(l.places))
	l.mu.Unlock()
	if len(places) == 0 {
		return nil
	}
	_, err := x.Exec(ctx, `UPDATE places SET until = clock_timestamp() + $1::interval + per WHERE id = ANY ($2) AND NOT released`, l.dead, places)
	return err
}
