package outbox

import (
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// The rests of a lane whose server cannot be reached: from the first one each is
// twice the one before.
const (
	firstRest = 10 * time.Second
	lastRest  = 5 * time.Minute
	leastRest = time.Second
)

// How long a parked lane waits for a person before a message tries it.
const (
	parkProbe  = time.Hour
	brakeProbe = 24 * time.Hour
)

// lanes is what this process knows of the states of lanes. The engine has the truth;
// this is to answer senders without asking it, and to tell a lane's first trouble
// from the next.
type lanes struct {
	mu sync.Mutex
	of map[string]*lane // those that are not open, or have something to remember
}

// lane is what is known of a tenant's lane.
type lane struct {
	Lane
	rest    time.Duration // the last one; zero when the lane is open
	era     int           // counts how often it was closed
	changed time.Time
	brake   brake
}

// toLocked brings the lane into a state.
func (l *lane) toLocked(to Lane, now time.Time) {
	if l.State == LaneOpen && to.State != LaneOpen {
		l.era++
	}
	if to.State == LaneOpen {
		l.rest = 0
	}
	l.Lane, l.changed = to, now
}

// finding is what a try says of its lane.
type finding struct {
	state LaneState // LaneOpen: messages can be sent
	// silent findings say nothing.
	silent bool
	// until is when it is tried again. Zero, with LaneResting: after the next rest.
	until   time.Time
	failure *Failure
}

// get returns the state of a lane.
func (l *lanes) get(tenant string) Lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if of := l.of[tenant]; of != nil {
		return of.Lane
	}
	return Lane{}
}

func (l *lanes) laneLocked(tenant string) *lane {
	of := l.of[tenant]
	if of == nil {
		if l.of == nil {
			l.of = make(map[string]*lane)
		}
		of = new(lane)
		l.of[tenant] = of
	}
	return of
}

// set notes what an operator or the engine made of a lane, and returns what it was.
func (l *lanes) set(tenant string, now time.Time, to Lane) Lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.laneLocked(tenant)
	before := of.Lane
	of.toLocked(to, now)
	of.rest, of.brake = 0, brake{}
	return before
}

// load takes over what the engine said at a time, but for lanes that have changed
// since.
func (l *lanes) load(at time.Time, all map[string]Lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for tenant, of := range l.of {
		if _, ok := all[tenant]; !ok && of.changed.Before(at) {
			of.toLocked(Lane{}, of.changed)
		}
	}
	for tenant, now := range all {
		if of := l.laneLocked(tenant); of.changed.Before(at) {
			of.toLocked(now, of.changed)
		}
	}
}

// begin returns which closing of its lane a try is the probe of; zero: the lane is open.
func (l *lanes) begin(tenant string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if of := l.of[tenant]; of != nil && of.State != LaneOpen {
		return of.era
	}
	return 0
}

// learn takes over what a try has found, and returns the state that its outcome sets,
// with those before and after.
//
// What was under way when a lane closed does not open it, and does not lengthen its
// rest: only a try that began later is a probe.
func (l *lanes) learn(tenant string, era int, now time.Time, f finding) (set *Lane, before, after Lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.of[tenant]
	if of == nil && (f.silent || f.state == LaneOpen) {
		return nil, Lane{}, Lane{} // as nearly always
	}
	of = l.laneLocked(tenant)
	before = of.Lane
	probe := before.State != LaneOpen && era == of.era
	switch {
	case before.State == LanePaused:
		return nil, before, before // only an operator opens it
	case before.State == LaneOpen && (f.silent || f.state == LaneOpen):
		return nil, before, before
	case !probe && (f.silent || f.state == LaneOpen):
		return nil, before, before
	case f.silent:
	case f.state == LaneOpen:
		of.toLocked(Lane{}, now)
		return nil, before, of.Lane
	case before.State == LaneOpen, f.state == LaneParked && before.State == LaneResting:
		of.toLocked(Lane{State: f.state, Since: now.UTC(), Until: of.until(now, f), Failure: f.failure}, now)
	case probe:
		// A parked lane stays parked, whatever else is wrong with it now.
		of.Until, of.changed = of.until(now, f), now
		if f.state == before.State {
			of.Failure = f.failure
		}
	case f.until.After(of.Until) && !of.Until.IsZero():
		of.Until, of.changed = f.until, now
	}
	to := of.Lane
	return &to, before, to
}

// until returns when the next probe is.
func (l *lane) until(now time.Time, f finding) time.Time {
	if !f.until.IsZero() {
		return f.until
	}
	l.rest = min(lastRest, max(firstRest, 2*l.rest))
	return now.Add(l.rest).UTC()
}

// refused counts a permanent refusal, and reports whether most came in a row.
func (l *lanes) refused(tenant string, e *mailer.Error, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.laneLocked(tenant).brake.refused(e, most)
}

// taken forgets the refusals: the server took a message.
func (l *lanes) taken(tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if of := l.of[tenant]; of != nil {
		of.brake = brake{}
	}
}
