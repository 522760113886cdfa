package bolt

import (
	"container/heap"
	"sync"
	"time"

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

func (w wakes) Len() int { return len(w) }

func (w wakes) Less(i, j int) bool { return w[i].wake.Before(w[j].wake) }

func (w wakes) Swap(i, j int) { w[i], w[j] = w[j], w[i]; w[i].place, w[j].place = i, j }

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
