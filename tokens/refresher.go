package tokens

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// refreshTick is how often the refresher looks around at least. It is also
	// how soon a sign-in at another instance is noticed where one is waited for.
	refreshTick = 5 * time.Second
	// manyAccounts is up to how many accounts all are kept in memory, kept fresh
	// and watched for what other instances do. Of more, only those that are in
	// use.
	manyAccounts = 1000
	// sweepEvery is how often marks of used states are swept.
	sweepEvery = time.Hour
	// clockJump is by how much the wall clock and the monotonic one may part
	// between two turns. Beyond that all turns are planned anew, a replanStep
	// apart.
	clockJump  = time.Minute
	replanStep = 100 * time.Microsecond
	// stepMost bounds the turns that are taken without looking up.
	stepMost = 1000
)

// How far apart looks at the storage are, for each errand of which there may be
// very many at a time.
const (
	learnStep = 500 * time.Microsecond
	waitStep  = 10 * time.Millisecond
	retryStep = 10 * time.Millisecond
	watchStep = 5 * time.Millisecond
)

// Refresher renews tokens before they end, without traffic. It has no goroutine
// and no timer for an account: a plan says whose turn is next.
type Refresher struct {
	// Sources are the accounts to look after. A Source is looked after by one
	// running Refresher at a time.
	Sources []*Source
	// Store is swept of what ended sign-ins leave, and searched for refreshes that
	// were cut short. nil is the first source's, which is not swept.
	Store *Store
	// Policy says which tokens are kept fresh.
	Policy Policy
	// Logger gets what went wrong. nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Run works until the context ends, and returns when no renewal of its sources
// is under way: a refresh that was sent is never cut short. Tokens that are not
// stored by then are tried to be once more.
func (r *Refresher) Run(ctx context.Context) {
	underWay.begin() // what is not stored yet is, in the end
	defer underWay.end()
	d := r.duty(ctx)
	defer d.end()
	tick := time.NewTicker(intentBeat)
	defer tick.Stop()
	d.chores(r.now()) // refreshes that were cut come first
	for {
		wait := d.step(r.now(), time.Now())
		next := time.NewTimer(min(max(wait, time.Millisecond), refreshTick))
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		case <-d.plan.wake:
		case <-tick.C:
			d.chores(r.now())
		}
		next.Stop()
	}
}

func (r *Refresher) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func (r *Refresher) logger() *slog.Logger {
	if r.Logger != nil {
		return r.Logger
	}
	return discard
}

// duty is a Refresher at work.
type duty struct {
	*Refresher
	ctx    context.Context
	upkeep upkeep
	plan   *plan
	lines  [errands]*line
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

// lane is the work for the accounts of one provider.
type lane struct {
	pacer *pacer
	// looks are at the storage, and asks are refreshes. Watching has hands of its
	// own: it would hold them up with a slow storage.
	looks, asks, watches crew
}

const (
	lookHands  = 4
	watchHands = 1
)

// duty begins the work: the accounts are looked at one after the other, which
// may take a while. Who sends meanwhile loads what he needs.
func (r *Refresher) duty(ctx context.Context) *duty {
	now := r.now()
	d := &duty{
		Refresher: r, ctx: ctx,
		upkeep: r.Policy.of(len(r.Sources), now),
		plan:   newPlan(len(r.Sources)),
		lines: [errands]*line{
			errandLearn: {every: learnStep}, errandWait: {every: waitStep},
			errandRetry: {every: retryStep}, errandWatch: {every: watchStep},
		},
		lanes: map[string]*lane{},
		wall:  now, steady: time.Now(), swept: now,
		store: r.Store,
	}
	d.hand = d.assign
	for i, s := range r.Sources {
		if d.store == nil {
			d.store = s.store
		}
		if d.lanes[s.account.Provider] == nil {
			l := &lane{pacer: s.pacer()}
			l.pacer.setRate(s.client.provider.RefreshRate)
			l.looks = crew{most: lookHands, work: func(s *Source) { d.look(l, s) }}
			l.watches = crew{most: watchHands, work: d.watch}
			l.asks = crew{most: paceParallel, work: func(s *Source) { d.ask(l, s) }}
			d.lanes[s.account.Provider] = l
		}
		s.attach(d.plan, now.Add(time.Duration(i)*learnStep).UnixNano())
	}
	return d
}

// end waits for the work under way, and goes on showing others that it is.
func (d *duty) end() {
	landed := make(chan struct{})
	go func() {
		defer close(landed)
		d.wg.Wait()
		for _, s := range d.Sources {
			s.detach(d.plan)
		}
		d.leave()
	}()
	tick := time.NewTicker(intentBeat)
	defer tick.Stop()
	for {
		select {
		case <-landed:
			return
		case <-tick.C:
			if d.store != nil {
				d.store.intents.beat()
			}
		}
	}
}

// leave waits for renewals that somebody else has begun, and makes a last try to
// store what is in memory only.
func (d *duty) leave() {
	slots := make(chan struct{}, recoverHands)
	for _, s := range d.Sources {
		s.cell.mu.Lock()
		nothing := s.cell.flight == nil && !s.cell.unsaved
		s.cell.mu.Unlock()
		if nothing {
			continue
		}
		slots <- struct{}{}
		d.wg.Go(func() {
			defer survive(d.logger(), "storing a token at the end")
			defer func() { <-slots }()
			s.leave()
		})
	}
	d.wg.Wait()
	if d.store != nil {
		d.store.intents.leave()
	}
}

// leave is that of one source. Where another refresher looks after the account
// by now, that one goes on trying.
func (s *Source) leave() {
	ctx := context.Background()
	f, err := s.claim(ctx)
	if err != nil {
		return
	}
	defer s.land(f, errAsk)
	c := s.cell
	c.mu.Lock()
	others := c.views != nil
	c.mu.Unlock()
	if others || c.onlyCopy() == nil {
		return
	}
	if _, saved, err := s.secure(ctx, renewal{}); !saved && c.onlyCopy() != nil {
		s.log().Error("a new token could not be stored and is in memory only, and no longer looked after; with the end of this process a person may have to sign in again; check the storage",
			"error", err)
	}
}

// attach has a plan look after the source, from a time on.
func (s *Source) attach(p *plan, at int64) {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.plan != nil {
		return // it is another's
	}
	s.plan, s.nextView = p, c.views
	c.views = s
	s.queued = true // the times that they begin at are spaced already
	p.put(s, at)
}

// detach ends that.
func (s *Source) detach(p *plan) {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.plan != p {
		return
	}
	for at := &c.views; *at != nil; at = &(*at).nextView {
		if *at == s {
			*at = s.nextView
			break
		}
	}
	p.remove(s)
	s.plan, s.nextView = nil, nil
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
		at, what, _ := s.turn(wall, &d.upkeep)
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

// replan plans the next turn of a source that was taken out of the plan. What
// is due still has just been tried.
func (d *duty) replan(s *Source) {
	now := d.now()
	d.plan.settle(s)
	at, _, _ := s.turn(now, &d.upkeep)
	if at <= now.UnixNano() {
		at = now.Add(refreshTick).UnixNano()
	}
	d.plan.put(s, at)
}

// look looks at the storage. Where that is not enough, the provider is to be
// asked.
func (d *duty) look(l *lane, s *Source) {
	ask := false
	defer func() {
		if !ask {
			d.replan(s)
		}
	}()
	defer survive(d.logger(), "the refresher")
	_, _, ahead := s.turn(d.now(), &d.upkeep)
	err := s.renew(context.WithoutCancel(d.ctx), renewal{look: true, ahead: ahead})
	if err == error(errAsk) {
		now := d.now()
		if at, _, _ := s.turn(now, &d.upkeep); at <= now.UnixNano() {
			ask = true
			l.asks.add(d, s)
		}
		return
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == KindNeedsPerson {
		s.remind(e)
	}
}

// ask renews a token, in its turn. Failures are logged where they happen and
// kept with the token.
func (d *duty) ask(l *lane, s *Source) {
	defer d.replan(s)
	defer survive(d.logger(), "the refresher")
	defer s.store.intents.withdraw(s.account)
	if now := d.now(); !d.due(s, now) {
		return
	}
	p, err := l.pacer.background(d.ctx)
	if err != nil {
		return // the work ends
	}
	p.onLend = func() { l.asks.more(d) }
	defer func() {
		if p.release() {
			l.asks.fewer()
		}
	}()
	now := d.now()
	if !d.due(s, now) {
		return // somebody could not wait
	}
	d.announce(l, s)
	_, _, ahead := s.turn(now, &d.upkeep)
	_ = s.renew(context.WithoutCancel(d.ctx), renewal{ahead: ahead, permit: p})
}

func (d *duty) due(s *Source, now time.Time) bool {
	at, _, _ := s.turn(now, &d.upkeep)
	return at <= now.UnixNano()
}

// watch looks for what another instance has done to an account that needs no
// renewal.
func (d *duty) watch(s *Source) {
	defer d.replan(s)
	defer survive(d.logger(), "watching the storage")
	_ = s.notice(d.ctx) // a storage in trouble shows when tokens are due
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
