package river

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// lane is what an instance knows about the messages of a tenant. It has nothing for
// each of them.
type lane struct {
	tenant string
	// running are the messages that are being sent, and the claims that are under way.
	running int
	// resting is this instance's own; the zero Lane where the lane does not rest.
	resting outbox.Lane
	// probing: a message is out to see whether resting can end.
	probing bool
	// closed: it is parked or paused, as far as is known, and until when.
	closed bool
	until  time.Time
	// next is when the first message that waits is due, as far as is known, and expires
	// when the first expires; zero for none.
	next, expires time.Time
	// claiming: somebody is at it, and looks again before he ends if again is set.
	claiming, again bool
	timer           *time.Timer
}

// laneLocked returns the lane of a tenant. Engine.mu is held.
func (e *Engine) laneLocked(tenant string) *lane {
	l := e.lanes[tenant]
	if l == nil {
		l = &lane{tenant: tenant}
		e.lanes[tenant] = l
	}
	return l
}

// earlier returns the earlier of two times, of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// past reports whether a time is there, and over.
func past(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// purpose is why messages of a lane are claimed.
type purpose int

const (
	nothing     purpose = iota
	send                // the lane is open
	probeRest           // one message, to see whether the rest can end
	probeClosed         // one message, to see whether the lane can be opened
	expire              // messages past their time, whatever the state of the lane
)

// plan says what can be claimed now, and else when it is worth to look again.
func (l *lane) plan(now time.Time, window int) (p purpose, n int, again time.Time) {
	resting := l.resting.State == outbox.LaneResting
	if past(l.next, now) && l.running < window {
		switch {
		case l.closed && past(l.until, now):
			return probeClosed, 1, time.Time{}
		case l.closed:
		case !resting:
			return send, window - l.running, time.Time{}
		case past(l.resting.Until, now) && !l.probing:
			return probeRest, 1, time.Time{}
		}
	}
	if (l.closed || resting) && past(l.expires, now) && l.running < window {
		return expire, window - l.running, time.Time{}
	}
	if l.running >= window {
		return nothing, 0, time.Time{} // who ends looks
	}
	next := l.next
	later := func(until time.Time) {
		if until.IsZero() || l.probing {
			next = time.Time{}
		} else if !next.IsZero() && next.Before(until) {
			next = until
		}
	}
	switch {
	case l.closed:
		later(l.until)
	case resting:
		later(l.resting.Until)
	}
	if l.closed || resting {
		next = earlier(next, l.expires)
	}
	return nothing, 0, next
}

// SetLane changes the state of a lane, for all instances; [outbox.LaneResting] for
// this one.
func (e *Engine) SetLane(ctx context.Context, tenant string, l outbox.Lane) error {
	err := e.tx(ctx, func(tx pgx.Tx) error { return e.setLane(ctx, tx, tenant, l) })
	if err == nil {
		e.laneIs(tenant, l)
	}
	return err
}

// setLane is the part of it that others see.
func (e *Engine) setLane(ctx context.Context, tx pgx.Tx, tenant string, l outbox.Lane) error {
	if l.State == outbox.LaneParked || l.State == outbox.LanePaused {
		plain, err := json.Marshal(l)
		if err != nil {
			return err
		}
		record, err := e.Sealer.AppendSeal(nil, "lane/"+tenant, plain)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO lanes (tenant, until, record) VALUES ($1, $2, $3)
			ON CONFLICT (tenant) DO UPDATE SET until = excluded.until, record = excluded.record, prober = NULL, probing = NULL`,
			tenant, stamp(l.Until), record)
		if err != nil {
			return err
		}
		return e.tell(ctx, tx, laneChanged, tenant)
	}
	done, err := tx.Exec(ctx, `DELETE FROM lanes WHERE tenant = $1`, tenant)
	if err != nil || l.State == outbox.LaneResting && done.RowsAffected() == 0 {
		return err
	}
	return e.tell(ctx, tx, laneOpened, tenant)
}

// laneIs notes the state of a lane in this instance.
func (e *Engine) laneIs(tenant string, s outbox.Lane) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.laneLocked(tenant)
	l.resting = outbox.Lane{}
	l.closed, l.until = false, time.Time{}
	switch s.State {
	case outbox.LaneResting:
		l.resting = s
	case outbox.LaneParked, outbox.LanePaused:
		l.closed, l.until = true, s.Until
	case outbox.LaneOpen:
		l.next = earlier(l.next, time.Now()) // there may be some; a look costs little
	}
	e.lookLocked(l)
}

// outcomeLane is what an outcome does to the lane of its message, in the transaction
// that records it. It returns the new state as this instance has to note it, or nil.
//
// The operator's word stands: a message that was under way when the lane was paused
// does not end that. Nor does one end the parking, unless it was sent to find out.
func (e *Engine) outcomeLane(ctx context.Context, tx pgx.Tx, t *try, o outbox.Outcome) (*outbox.Lane, error) {
	tenant := t.m.Tenant
	if t.purpose == probeClosed {
		var mine bool
		err := tx.QueryRow(ctx, `SELECT prober = $2 FROM lanes WHERE tenant = $1 AND prober IS NOT NULL FOR UPDATE`, tenant, t.owner).Scan(&mine)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) || !mine {
			return nil, err
		}
		l := outbox.Lane{}
		if o.Lane != nil {
			l = *o.Lane
		}
		return &l, e.setLane(ctx, tx, tenant, l)
	}
	if o.Lane == nil {
		if t.purpose == probeRest {
			return &outbox.Lane{}, nil
		}
		return nil, nil //nolint:nilnil // nothing changes
	}
	prior, err := e.closedLane(ctx, tx, tenant)
	if err != nil {
		return nil, err
	}
	if prior.State == outbox.LanePaused || prior.State == outbox.LaneParked && o.Lane.State != outbox.LaneParked {
		return nil, nil //nolint:nilnil // nothing changes
	}
	return o.Lane, e.setLane(ctx, tx, tenant, *o.Lane)
}

// closedLane returns a lane that is parked or paused and keeps it as it is until the
// end of the transaction; the zero Lane otherwise.
func (e *Engine) closedLane(ctx context.Context, tx pgx.Tx, tenant string) (outbox.Lane, error) {
	var record []byte
	err := tx.QueryRow(ctx, `SELECT record FROM lanes WHERE tenant = $1 FOR UPDATE`, tenant).Scan(&record)
	if errors.Is(err, pgx.ErrNoRows) {
		return outbox.Lane{}, nil
	}
	if err != nil {
		return outbox.Lane{}, err
	}
	return e.unsealLane(tenant, record)
}

func (e *Engine) unsealLane(tenant string, record []byte) (l outbox.Lane, err error) {
	plain, err := e.Sealer.AppendOpen(nil, "lane/"+tenant, record)
	if err == nil {
		err = json.Unmarshal(plain, &l)
	}
	if err != nil {
		err = fmt.Errorf("the record of lane %s: %w", tenant, err)
	}
	return l, err
}

// Lanes returns the lanes that are not open: those that no instance hands out, and
// those that rest in this one.
func (e *Engine) Lanes(ctx context.Context) (map[string]outbox.Lane, error) {
	out := make(map[string]outbox.Lane)
	e.mu.Lock()
	for tenant, l := range e.lanes {
		if l.resting.State == outbox.LaneResting {
			out[tenant] = l.resting
		}
	}
	e.mu.Unlock()
	rows, err := e.pool.Query(ctx, `SELECT tenant, record FROM lanes`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			tenant string
			record []byte
		)
		if err := rows.Scan(&tenant, &record); err != nil {
			return nil, err
		}
		if out[tenant], err = e.unsealLane(tenant, record); err != nil {
			return nil, err
		}
	}
	return out, rows.Err()
}
