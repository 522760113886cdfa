package river

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// limits are what this instance has of the limits of mailboxes.
//
// The window of a mailbox is rows in the database, one for each message that holds a
// place. Connections are leases, counted for each instance. An instance keeps a lease
// when a message has ended, as the connection stays open in its pool and the server
// counts it. It gives it up, and closes its idle connections before, where nobody has
// used it for a while, or where another instance waits that has fewer; of two that
// have work, neither gives the other what it would need itself a moment later, but
// one that has none gets its turn after some seconds.
type limits struct {
	e *Engine
	// owner names this instance. It has nothing to do with who owns messages: leases
	// live and die by their own time.
	owner  string
	ctx    context.Context
	cancel context.CancelFunc
	// quit ends look, which closes done; nil before the first Acquire.
	quit, done chan struct{}
	tasks      sync.WaitGroup // that give places and leases back

	mu        sync.Mutex
	mailboxes map[[32]byte]*mailbox
	places    map[int64]bool // of messages under way
	closed    bool           // and no task begins
}

// mailbox is one of them.
type mailbox struct {
	digest [32]byte
	// turn is held by the one that asks the database: first come, first served.
	turn chan struct{}
	// freed says that a lease here is no longer in use.
	freed chan struct{}

	// limits.mu guards these.
	drain  func()
	leases int
	busy   int // of leases
	// renewed is when the leases were known to last for another timing.renewal.
	renewed time.Time
	since   time.Time // when the latest lease was taken or given up
	used    time.Time // when all leases were in use last
	yield   bool      // give a lease up as soon as a message ends
	unsure  bool      // the database may count more leases than there are
}

func (l *limits) init(e *Engine) {
	l.e = e
	l.owner = uuid.NewString()
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.mailboxes = make(map[[32]byte]*mailbox)
	l.places = make(map[int64]bool)
}

func (l *limits) mailbox(name string) *mailbox {
	digest := sha256.Sum256([]byte(name))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.quit, l.done = make(chan struct{}), make(chan struct{})
		go l.look(l.ctx)
	}
	m := l.mailboxes[digest]
	if m == nil {
		m = &mailbox{digest: digest, turn: make(chan struct{}, 1), freed: make(chan struct{}, 1)}
		l.mailboxes[digest] = m
	}
	return m
}

// close gives everything up.
func (l *limits) close() {
	l.mu.Lock()
	done := l.done
	l.mu.Unlock()
	if done == nil {
		return
	}
	close(l.quit)
	<-done
	l.mu.Lock()
	gifts := make([]gift, 0, len(l.mailboxes))
	for _, m := range l.mailboxes {
		gifts = append(gifts, l.takeBackLocked(m, m.leases))
	}
	l.mu.Unlock()
	for _, g := range gifts {
		l.giveUp(g)
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		l.tasks.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(5 * time.Second): // what is left ends by its time
	}
	l.cancel()
	<-ended
}

// task does f meanwhile.
func (l *limits) task(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.tasks.Go(f)
	}
}

// Acquire takes a place for one message.
func (e *Engine) Acquire(ctx context.Context, name string, ml outbox.MailboxLimits, recipients int) (release func(), wait time.Duration, err error) {
	if ml.Rate <= 0 && ml.RecipientsPerDay <= 0 && ml.Connections <= 0 {
		return func() {}, 0, nil
	}
	l := &e.limits
	m := l.mailbox(name)
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	over := time.Now().Add(e.patience)
	for {
		release, wait, err = l.take(ctx, m, ml, recipients)
		if err != nil || wait == 0 || time.Now().Add(wait).After(over) {
			return release, wait, err
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-m.freed:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
	}
}

// take asks once. The caller has the mailbox's turn.
func (l *limits) take(ctx context.Context, m *mailbox, ml outbox.MailboxLimits, recipients int) (release func(), wait time.Duration, err error) {
	e := l.e
	l.mu.Lock()
	m.drain = ml.Drain
	own := ml.Connections <= 0
	if m.leases > m.busy && m.leases <= ml.Connections && time.Since(m.renewed) < e.renewal*3/4 {
		m.busy++ // so that it is not given up
		own = true
	}
	l.mu.Unlock()
	leased := ml.Connections > 0
	var place *int64
	asked := time.Now()
	if !own || ml.Rate > 0 || ml.RecipientsPerDay > 0 {
		per := ml.Per
		if per <= 0 {
			per = time.Minute
		}
		var seconds float64
		err = e.pool.QueryRow(ctx, `SELECT place, wait FROM take($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			m.digest[:], l.owner, ml.Rate, per, ml.RecipientsPerDay, recipients, ml.Connections, !own, e.renewal).Scan(&place, &seconds)
		wait = time.Duration(seconds * float64(time.Second))
		if err != nil || wait > 0 {
			l.mu.Lock()
			if own && leased {
				m.busy--
			}
			m.unsure = m.unsure || !own && err != nil
			l.mu.Unlock()
			return nil, wait, err
		}
	}
	l.mu.Lock()
	if !own {
		if m.leases == 0 {
			m.renewed = asked
		}
		m.leases++
		m.busy++
		m.since = time.Now()
	}
	if place != nil {
		l.places[*place] = true
	}
	l.mu.Unlock()
	return sync.OnceFunc(func() { l.release(m, place, leased) }), 0, nil
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
	ctx, cancel := context.WithTimeout(l.ctx, l.e.renewal)
	defer cancel()
	for ctx.Err() == nil {
		_, err := l.e.pool.Exec(ctx, `WITH s AS (SELECT set_config('synchronous_commit', 'off', true))
			UPDATE places SET released = true, until = clock_timestamp() + per FROM s WHERE id = $1 AND NOT released`, id)
		if err == nil {
			return
		}
		sleep(ctx, time.Second)
	}
}

// gift is leases that nobody here may use any more, and the database still counts.
type gift struct {
	m     *mailbox
	n     int
	drain func()
}

// takeBackLocked makes a gift of so many leases, if they are not in use.
func (l *limits) takeBackLocked(m *mailbox, n int) gift {
	n = min(n, m.leases-m.busy)
	if n <= 0 {
		return gift{}
	}
	m.leases -= n
	m.since = time.Now()
	m.yield = false
	return gift{m, n, m.drain}
}

// giveUp gives a gift to the others. Before they may open a connection, the idle ones
// here are closed.
func (l *limits) giveUp(g gift) {
	if g.n == 0 {
		return
	}
	l.task(func() {
		if g.drain != nil {
			g.drain()
		}
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		_, err := l.e.pool.Exec(ctx, `WITH gone AS (DELETE FROM leases WHERE mailbox = $1 AND owner = $2 AND n <= $3)
			UPDATE leases SET n = n - $3 WHERE mailbox = $1 AND owner = $2 AND n > $3`, g.m.digest[:], l.owner, g.n)
		if err != nil {
			l.mu.Lock()
			g.m.unsure = true
			l.mu.Unlock()
		}
	})
}

// makeSure has the database count the leases of a mailbox right.
func (l *limits) makeSure(ctx context.Context, m *mailbox) {
	select {
	case m.turn <- struct{}{}: // so that none is taken meanwhile
		defer func() { <-m.turn }()
	default:
		return
	}
	l.mu.Lock()
	n := m.leases
	m.unsure = false
	l.mu.Unlock()
	_, err := l.e.pool.Exec(ctx, `WITH gone AS (DELETE FROM leases WHERE mailbox = $1 AND owner = $2 AND $3 = 0)
		UPDATE leases SET n = $3 WHERE mailbox = $1 AND owner = $2 AND n > $3 AND $3 > 0`, m.digest[:], l.owner, n)
	if err != nil {
		l.mu.Lock()
		m.unsure = true
		l.mu.Unlock()
	}
}

// look renews leases and places, and gives leases up.
func (l *limits) look(ctx context.Context) {
	defer close(l.done)
	pause := min(time.Second, l.e.tenure/3)
	var renewed time.Time
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		if time.Since(renewed) > l.e.renewal/4 && l.renew(ctx) {
			renewed = time.Now()
		}
		l.yieldToOthers(ctx)
		select {
		case <-tick.C:
		case <-l.quit:
			return
		}
	}
}

// renew makes leases and places last. Where it fails for long, the connections that
// are idle are closed while the leases still last.
func (l *limits) renew(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, l.e.renewal/4)
	defer cancel()
	began := time.Now()
	l.mu.Lock()
	places := slices.Collect(maps.Keys(l.places))
	l.mu.Unlock()
	_, err := l.e.pool.Exec(ctx, `WITH p AS (UPDATE places SET until = clock_timestamp() + $2::interval + per WHERE id = ANY ($3) AND NOT released)
		UPDATE leases SET until = clock_timestamp() + $2::interval WHERE owner = $1`, l.owner, l.e.renewal, places)
	if err == nil {
		l.mu.Lock()
		for _, m := range l.mailboxes {
			m.renewed = began
		}
		l.mu.Unlock()
		return true
	}
	l.mu.Lock()
	var late []func()
	for _, m := range l.mailboxes {
		if m.leases > 0 && time.Since(m.renewed) > l.e.renewal*3/4 {
			m.leases, m.unsure = m.busy, true
			if m.drain != nil {
				late = append(late, m.drain)
			}
		}
	}
	l.mu.Unlock()
	for _, drain := range late {
		drain()
	}
	return false
}

// yieldToOthers gives up what is idle, and what others should have.
func (l *limits) yieldToOthers(ctx context.Context) {
	var (
		digests [][]byte
		unsure  []*mailbox
	)
	l.mu.Lock()
	for _, m := range l.mailboxes {
		if m.leases > 0 {
			digests = append(digests, m.digest[:])
		}
		if m.unsure {
			unsure = append(unsure, m)
		}
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, m := range unsure {
		l.makeSure(ctx, m)
	}
	if len(digests) == 0 {
		return
	}
	rows, err := l.e.pool.Query(ctx, `SELECT w.mailbox, min(coalesce(l.n, 0)) FROM waiters w LEFT JOIN leases l ON l.mailbox = w.mailbox AND l.owner = w.owner
		WHERE w.mailbox = ANY ($1) AND w.owner <> $2 AND w.seen > clock_timestamp() - interval '3 seconds' GROUP BY w.mailbox`, digests, l.owner)
	if err != nil {
		return
	}
	poorest := make(map[[32]byte]int) // of those that wait
	for rows.Next() {
		var (
			digest []byte
			n      int
		)
		if rows.Scan(&digest, &n) == nil {
			poorest[[32]byte(digest)] = n
		}
	}
	if rows.Err() != nil {
		return
	}
	var gifts []gift
	now := time.Now()
	l.mu.Lock()
	for _, m := range l.mailboxes {
		if m.leases == 0 {
			continue
		}
		if m.busy == m.leases {
			m.used = now
		}
		theirs, wanted := poorest[m.digest]
		m.yield = false
		switch {
		case wanted && m.leases > m.busy && now.Sub(m.used) >= time.Second: // it was not needed for a second
			gifts = append(gifts, l.takeBackLocked(m, 1))
		case wanted && now.Sub(m.since) >= l.e.tenure && (theirs == 0 || theirs+1 < m.leases):
			m.yield = true
			gifts = append(gifts, l.takeBackLocked(m, 1))
		case now.Sub(m.used) >= l.e.idle && m.leases > m.busy:
			gifts = append(gifts, l.takeBackLocked(m, m.leases))
		}
	}
	l.mu.Unlock()
	for _, g := range gifts {
		l.giveUp(g)
	}
}
