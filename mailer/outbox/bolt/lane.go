package bolt

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// lane is a tenant's messages. There is none in memory for a tenant that has
// nothing to do.
type lane struct {
	tenant         string
	dues, expiries []byte // prefixes of its keys

	state outbox.Lane
	// probe is the message that tells whether the lane can be opened.
	probe string
	// out counts its calls of Deliver, unrecorded those that have returned and whose
	// outcome is not stored. The transaction that hands out the next ones stores it.
	out, unrecorded int
	// more is set where it may have messages that are due and find no room.
	more bool
	// wake is when it is looked at again; zero: when something about it changes.
	wake  time.Time
	place int // in the heap; -1: not in it
}

// lanes are those in memory, and in a heap by wake.
type lanes struct {
	byTenant map[string]*lane
	waking   wakes

	mu     sync.Mutex
	closed map[string]outbox.Lane // those that are not open
}

func newLanes() *lanes {
	return &lanes{byTenant: map[string]*lane{}, closed: map[string]outbox.Lane{}}
}

func (ls *lanes) get(tenant string) *lane {
	l := ls.byTenant[tenant]
	if l == nil {
		l = &lane{
			tenant: tenant, place: -1,
			dues: lanePrefix(indexDue, tenant), expiries: lanePrefix(indexExpiry, tenant),
		}
		ls.byTenant[tenant] = l
	}
	return l
}

func (ls *lanes) next() time.Time {
	if len(ls.waking) == 0 {
		return time.Time{}
	}
	return ls.waking[0].wake
}

// wakeAt puts a lane to its place.
func (ls *lanes) wakeAt(l *lane, at time.Time) {
	l.wake = at
	switch {
	case at.IsZero() && l.place >= 0:
		heap.Remove(&ls.waking, l.place)
	case at.IsZero():
	case l.place >= 0:
		heap.Fix(&ls.waking, l.place)
	default:
		heap.Push(&ls.waking, l)
	}
}

// calm lets no lane wake before a time. Those that were looked at in a transaction
// that failed are looked at then.
func (ls *lanes) calm(until time.Time) {
	for _, l := range ls.byTenant {
		if l.wake.IsZero() || l.wake.Before(until) {
			ls.wakeAt(l, until)
		}
	}
}

// forget drops a lane that has nothing to do.
func (ls *lanes) forget(l *lane) {
	if l.state.State == outbox.LaneOpen && l.out == 0 && l.unrecorded == 0 && l.wake.IsZero() {
		delete(ls.byTenant, l.tenant)
	}
}

// publish makes the state of a lane known.
func (ls *lanes) publish(l *lane) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.state.State == outbox.LaneOpen {
		delete(ls.closed, l.tenant)
		return
	}
	ls.closed[l.tenant] = l.state
}

// wakes implements [heap.Interface].
type wakes []*lane

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].wake.Before(w[j].wake) }
func (w wakes) Swap(i, j int)      { w[i], w[j] = w[j], w[i]; w[i].place, w[j].place = i, j }

// Push implements [heap.Interface].
func (w *wakes) Push(x any) {
	l := x.(*lane)
	l.place = len(*w)
	*w = append(*w, l)
}

// Pop implements [heap.Interface].
func (w *wakes) Pop() any {
	last := len(*w) - 1
	l := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	l.place = -1
	return l
}

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
	sealed, err := e.options.Sealer.Seal(laneName(tenant), plain)
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
			plain, err := e.options.Sealer.Open(laneName(l.tenant), v)
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

func (b *batch) lane(tenant string) *lane { return b.e.lanes.get(tenant) }

// touch has a lane looked at before the transaction ends.
func (b *batch) touch(l *lane) {
	if n := len(b.touched); n == 0 || b.touched[n-1] != l {
		b.touched = append(b.touched, l)
	}
}

// first returns the first entry with a time under a prefix of the index.
func (b *batch) first(prefix []byte) (at time.Time, id string, ok bool) {
	return first(b.index, prefix)
}

func first(index *bbolt.Bucket, prefix []byte) (at time.Time, id string, ok bool) {
	k, _ := index.Cursor().Seek(prefix)
	if !bytes.HasPrefix(k, prefix) {
		return at, "", false
	}
	return timed(k[len(prefix):])
}

// fill marks what is due in the lanes that something happened to.
func (b *batch) fill() {
	ls := b.e.lanes
	for !ls.next().IsZero() && !ls.next().After(b.now) {
		l := ls.waking[0]
		ls.wakeAt(l, time.Time{})
		b.touch(l)
	}
	for _, l := range b.touched {
		b.look(l)
	}
}

// mayHand reports whether a message that is accepted can be handed out at once.
func (b *batch) mayHand(l *lane, due time.Time) bool {
	e := b.e
	if !e.running() || l.state.State != outbox.LaneOpen || due.After(b.now) || b.now.Before(e.calm) || l.out >= e.window(l.tenant) {
		return false
	}
	at, _, ok := b.first(l.dues)
	return !ok || at.After(due)
}

// maxHand is how many messages are marked in a transaction.
const maxHand = 512

// look hands out what can be, and says when to look again.
func (b *batch) look(l *lane) {
	ls, wake := b.e.lanes, time.Time{}
	l.more = false
	defer func() {
		ls.wakeAt(l, wake)
		b.after(func() { ls.forget(l) })
	}()
	if !b.e.running() {
		return
	}
	if b.now.Before(b.e.calm) {
		wake = b.e.calm
		return
	}
	for window := b.e.window(l.tenant); b.err == nil && l.out < window; {
		if len(b.launched) >= maxHand { // others wait for this transaction
			wake = b.now
			return
		}
		wake = time.Time{}
		if at, id, ok := b.first(l.expiries); ok {
			if !at.After(b.now) {
				b.hand(l, id, false, append(appendTime(lanePrefix(indexExpiry, l.tenant), at), id...))
				continue
			}
			wake = at
		}
		at, id, ok := b.first(l.dues)
		if !ok {
			return
		}
		from := at
		if l.state.State != outbox.LaneOpen {
			if l.probe != "" || l.state.Until.IsZero() {
				return
			}
			if l.state.Until.After(from) {
				from = l.state.Until
			}
		}
		if from.After(b.now) {
			if wake.IsZero() || from.Before(wake) {
				wake = from
			}
			return
		}
		b.hand(l, id, l.state.State != outbox.LaneOpen, append(appendTime(lanePrefix(indexDue, l.tenant), at), id...))
	}
	wake, l.more = time.Time{}, true
}

// hand marks a message and hands it out when the mark is durable.
func (b *batch) hand(l *lane, id string, probe bool, key []byte) {
	old, sealed, err := b.get(id)
	if err != nil || !old.waits() || old.tenant != l.tenant {
		b.dangling(key)
		return
	}
	now := *old
	now.state, now.sweep = outbox.StateSending, time.Time{}
	b.put(id, old, &now, sealed)
	if probe {
		before := l.probe
		l.probe = id
		b.undo(func() { l.probe = before })
	}
	b.launch(l, &flight{id: id, tenant: l.tenant, due: now.due, probe: probe})
}
