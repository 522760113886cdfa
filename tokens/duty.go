package tokens

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// clockJump is by how much the wall clock and the monotonic one may part
	// between two turns. Beyond that all turns are planned anew, a replanStep
	// apart.
	clockJump  = time.Minute
	replanStep = 100 * time.Microsecond
	// stepMost bounds the turns that are taken without looking up.
	stepMost = 1000
	// sweepEvery is how often marks of used states are swept.
	sweepEvery = time.Hour
)

// How far apart looks at the storage are, for each errand of which there may be
// very many at a time.
const (
	learnStep = 500 * time.Microsecond
	waitStep  = 10 * time.Millisecond
	retryStep = 10 * time.Millisecond
	watchStep = 5 * time.Millisecond
)

// duty is a Refresher at work.
type duty struct {
	*Refresher
	ctx context.Context
	// sources are those that are looked after. They and the upkeep are changed on
	// the goroutine of Run.
	sources atomic.Pointer[[]*Source]
	upkeep  atomic.Pointer[upkeep]
	plan    *plan
	lines   [errands]*line
	// A provider or storage that hangs must not keep the others' accounts
	// waiting: each provider has a lane of its own.
	lanes map[string]*lane
	// hand hands a source to those who do the work.
	hand func(s *Source, what errand)
	wg   sync.WaitGroup

	// wall and steady are the time of the last step on either clock.
	wall, steady time.Time
	swept        time.Time
	store        *Store // that intents are looked for in; may be nil
	recovering   atomic.Bool
	complaint    string // the last one of recover, whose it is
}

// duty begins the work: the accounts are looked at one after the other, which
// may take a while. Who sends meanwhile loads what he needs.
func (r *Refresher) duty(ctx context.Context) *duty {
	now := r.now()
	d := &duty{
		Refresher: r, ctx: ctx,
		plan: newPlan(len(r.Sources)),
		lines: [errands]*line{
			errandLearn: {every: learnStep}, errandWait: {every: waitStep},
			errandRetry: {every: retryStep}, errandWatch: {every: watchStep},
		},
		lanes: map[string]*lane{},
		wall:  now, steady: time.Now(), swept: now,
		store: r.Store,
	}
	d.hand = d.assign
	d.sources.Store(&[]*Source{})
	d.upkeep.Store(&upkeep{began: now})
	d.use(r.Sources)
	return d
}

// use takes the sources to look after from now on.
func (d *duty) use(sources []*Source) {
	now := d.now()
	before := d.sources.Load()
	d.sources.Store(&sources)
	k := d.Policy.of(len(sources), d.upkeep.Load().began)
	d.upkeep.Store(&k)
	fresh := make(map[*Source]bool, len(sources))
	for _, s := range sources {
		fresh[s] = true
	}
	for _, s := range *before {
		if fresh[s] {
			delete(fresh, s)
			continue
		}
		s.detach(d.plan)
		d.part(s)
	}
	n := 0
	for _, s := range sources {
		if !fresh[s] {
			continue
		}
		if d.store == nil {
			d.store = s.store
		}
		d.enter(s)
		s.attach(d.plan, now.Add(time.Duration(n)*learnStep).UnixNano())
		n++
	}
}

// enter makes the lane of a source, unless there is one. A provider that is asked
// elsewhere now gets another.
func (d *duty) enter(s *Source) {
	name, pacer := s.account.Provider, s.pacer()
	l := d.lanes[name]
	if l == nil || l.pacer != pacer {
		l = &lane{pacer: pacer}
		l.looks = crew{most: lookHands, work: func(s *Source) { d.look(l, s) }}
		l.watches = crew{most: watchHands, work: d.watch}
		l.asks = crew{most: paceParallel, work: func(s *Source) { d.ask(l, s) }}
		d.lanes[name] = l
	}
	if l.client != s.client {
		l.client = s.client
		pacer.setRate(s.client.provider.RefreshRate)
	}
}

// step takes the turns that have come, and returns how long it is until the
// next. Wall and steady are the time, by the clock that may be set and by the
// one that may not.
func (d *duty) step(wall, steady time.Time) time.Duration {
	if jump := wall.Round(0).Sub(d.wall.Round(0)) - steady.Sub(d.steady); jump.Abs() > clockJump {
		d.logger().Warn("the clock has jumped", "by", jump)
		d.plan.spread(wall.UnixNano(), replanStep)
		for _, l := range d.lines {
			if l != nil {
				l.restart()
			}
		}
	}
	d.wall, d.steady = wall, steady
	now := wall.UnixNano()
	for range stepMost {
		s, next := d.plan.pop(now)
		if s == nil {
			return time.Duration(min(next-now, int64(refreshTick)))
		}
		at, what, _ := s.turn(wall, d.upkeep.Load())
		if at > now {
			s.queued = false
			d.plan.put(s, at)
			continue
		}
		if l := d.lines[what]; l != nil && !s.queued {
			if slot := l.join(wall); slot.After(wall) {
				s.queued = true
				d.plan.put(s, slot.UnixNano())
				continue
			}
		}
		s.queued = false
		d.hand(s, what)
	}
	return 0
}

func (d *duty) assign(s *Source, what errand) {
	l := d.lanes[s.account.Provider]
	if what == errandWatch {
		l.watches.add(d, s)
		return
	}
	l.looks.add(d, s)
}

// replan plans the next turn of a source that was taken out of the plan, unless it
// is no longer looked after. What is due still has just been tried.
func (d *duty) replan(s *Source) {
	now := d.now()
	d.plan.settle(s)
	at, _, _ := s.turn(now, d.upkeep.Load())
	if at <= now.UnixNano() {
		at = now.Add(refreshTick).UnixNano()
	}
	s.cell.mu.Lock()
	defer s.cell.mu.Unlock()
	if s.plan == d.plan {
		d.plan.put(s, at)
	}
}

// chores are what is to be done besides.
func (d *duty) chores(now time.Time) {
	if d.Store != nil && now.Sub(d.swept).Abs() > sweepEvery {
		d.swept = now
		d.wg.Go(func() {
			defer survive(d.logger(), "sweeping used states")
			if err := d.Store.SweepStates(d.ctx, now); err != nil {
				d.logger().Warn("sweeping used states", "error", err)
			}
		})
	}
	if d.store == nil {
		return
	}
	d.store.intents.beat()
	if d.recovering.CompareAndSwap(false, true) {
		d.wg.Go(func() {
			defer d.recovering.Store(false)
			defer survive(d.logger(), "looking for refreshes that were cut short")
			d.recover()
		})
	}
}
