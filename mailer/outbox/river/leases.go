package river

import (
	"context"
	"time"
)

// An instance keeps a lease when a message has ended, as the connection stays open in
// its pool and the server counts it. It gives it up, and closes its idle connections
// before, where nobody has used it for a while, or where another instance waits that
// has fewer; of two that have work, neither gives the other what it would need itself
// a moment later, but one that has none gets its turn after some seconds.

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
	m.gifts += n
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
		g.m.telling.Lock()
		defer g.m.telling.Unlock()
		l.mu.Lock()
		owner := l.owner
		l.mu.Unlock()
		_, err := l.pool.Exec(ctx, `WITH gone AS (DELETE FROM leases WHERE mailbox = $1 AND owner = $2 AND n <= $3)
			UPDATE leases SET n = n - $3 WHERE mailbox = $1 AND owner = $2 AND n > $3`, g.m.digest[:], owner, g.n)
		l.mu.Lock()
		defer l.mu.Unlock()
		g.m.gifts -= g.n
		g.m.unsure = g.m.unsure || err != nil
	})
}

// declare has the database count the leases of a mailbox right, where it may not.
// After contact was lost they are those of messages that went on, whatever the others
// have taken since: nobody opens another connection until they have ended. The
// caller has the mailbox's turn.
func (l *limits) declare(ctx context.Context, m *mailbox) error {
	l.mu.Lock()
	sure := !m.unsure && m.era == l.era
	l.mu.Unlock()
	if sure {
		return nil
	}
	m.telling.Lock()
	defer m.telling.Unlock()
	l.mu.Lock()
	if l.fenced() {
		l.mu.Unlock()
		return errFenced
	}
	if m.era != l.era {
		m.leases, m.era = m.busy, l.era // the idle connections are closed
	}
	m.unsure = false
	n, owner := m.leases+m.gifts, l.owner
	l.mu.Unlock()
	_, err := l.pool.Exec(ctx, `WITH m AS (SELECT mailbox FROM mailboxes WHERE mailbox = $1 FOR UPDATE),
			gone AS (DELETE FROM leases USING m WHERE leases.mailbox = m.mailbox AND owner = $2 AND $3 = 0)
		INSERT INTO leases SELECT mailbox, $2, $3 FROM m WHERE $3 > 0 ON CONFLICT (mailbox, owner) DO UPDATE SET n = $3`, m.digest[:], owner, n)
	if err != nil {
		l.mu.Lock()
		m.unsure = true
		l.mu.Unlock()
	}
	return err
}

// look has the database count leases right, and gives leases up.
func (l *limits) look(ctx context.Context) {
	tick := time.NewTicker(min(time.Second, l.timing.tenure/3))
	defer tick.Stop()
	for ctx.Err() == nil {
		l.lookOnce(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (l *limits) lookOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var (
		digests [][]byte
		unsure  []*mailbox
	)
	l.mu.Lock()
	for _, m := range l.mailboxes {
		switch {
		case m.unsure || m.era != l.era:
			unsure = append(unsure, m)
		case m.leases > 0:
			digests = append(digests, m.digest[:])
		}
	}
	l.mu.Unlock()
	for _, m := range unsure {
		select {
		case m.turn <- struct{}{}:
			_ = l.declare(ctx, m) // or the next time
			<-m.turn
		default: // who has the turn does it
		}
	}
	if len(digests) > 0 {
		l.yieldToOthers(ctx, digests)
	}
}

// yieldToOthers gives up what is idle, and what others should have.
func (l *limits) yieldToOthers(ctx context.Context, digests [][]byte) {
	l.mu.Lock()
	owner := l.owner
	l.mu.Unlock()
	rows, err := l.pool.Query(ctx, `SELECT w.mailbox, min(coalesce(l.n, 0)) FROM waiters w LEFT JOIN leases l ON l.mailbox = w.mailbox AND l.owner = w.owner
		WHERE w.mailbox = ANY ($1) AND w.owner <> $2 AND w.seen > clock_timestamp() - interval '3 seconds' GROUP BY w.mailbox`, digests, owner)
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
		if m.leases == 0 || m.era != l.era {
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
		case wanted && now.Sub(m.since) >= l.timing.tenure && (theirs == 0 || theirs+1 < m.leases):
			m.yield = true
			gifts = append(gifts, l.takeBackLocked(m, 1))
		case now.Sub(m.used) >= l.idle && m.leases > m.busy:
			gifts = append(gifts, l.takeBackLocked(m, m.leases))
		}
	}
	l.mu.Unlock()
	for _, g := range gifts {
		l.giveUp(g)
	}
}
