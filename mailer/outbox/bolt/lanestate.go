package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Lanes implements [outbox.Engine].
func (e *Engine) Lanes(ctx context.Context) (map[string]outbox.Lane, error) {
	e.lanes.mu.Lock()
	defer e.lanes.mu.Unlock()
	return maps.Clone(e.lanes.closed), ctx.Err()
}

// SetLane implements [outbox.Engine].
func (e *Engine) SetLane(ctx context.Context, tenant string, s outbox.Lane) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(tenant) > maxTenant {
		return errors.New("the name of the tenant is longer than 1024 octets")
	}
	sealed, err := e.sealLane(tenant, s)
	if err != nil {
		return err
	}
	return e.do(&op{apply: func(b *batch) error {
		l := b.lane(tenant)
		before, probe := l.state, l.probe
		b.undo(func() {
			l.state, l.probe = before, probe
			e.lanes.publish(l)
		})
		b.setLane(l, s)
		b.storeLane(l.tenant, sealed)
		b.after(func() { e.lanes.publish(l) })
		return nil
	}})
}

// sealLane returns what is stored of a lane; nil where nothing is.
func (e *Engine) sealLane(tenant string, s outbox.Lane) ([]byte, error) {
	if s.State == outbox.LaneOpen || s.State == outbox.LaneResting {
		return nil, nil
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the state of the lane %q: %w", tenant, err)
	}
	sealed, err := e.options.Sealer.AppendSeal(nil, laneName(tenant), plain)
	if err != nil {
		return nil, fmt.Errorf("sealing the state of the lane %q: %w", tenant, err)
	}
	return sealed, nil
}

// setLane changes the state of a lane in memory.
func (b *batch) setLane(l *lane, s outbox.Lane) {
	if s.State == outbox.LaneOpen {
		s = outbox.Lane{}
	}
	l.state, l.probe = s, ""
	b.touch(l)
}

// storeLane changes it on the disk.
func (b *batch) storeLane(tenant string, sealed []byte) {
	k := appendTenant(nil, tenant)
	switch {
	case sealed != nil:
		b.set(b.lanes, k, sealed)
	case b.lanes.Get(k) != nil:
		b.remove(b.lanes, k)
	}
}

// readLanes reads the states that were stored.
func (e *Engine) readLanes() error {
	return e.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketLanes).ForEach(func(k, v []byte) error {
			tenant, _, ok := counted(k, 2)
			if !ok {
				return errDamaged
			}
			l := e.lanes.get(string(tenant))
			plain, err := e.options.Sealer.AppendOpen(nil, laneName(l.tenant), v)
			if err == nil {
				err = json.Unmarshal(plain, &l.state)
			}
			if err != nil { // its messages must wait for somebody
				e.log().Error("the state of a lane cannot be read: it is parked", "tenant", l.tenant, "error", err)
				l.state = outbox.Lane{State: outbox.LaneParked, Since: time.Now().UTC()}
			}
			e.lanes.publish(l)
			return nil
		})
	})
}
