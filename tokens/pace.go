package tokens

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"
)

const (
	// paceDefault is the rate where the provider's settings name none: background
	// refreshes a second.
	paceDefault = 10
	// paceParallel bounds background refreshes under way at one host: all of
	// them are between the provider's answer and the storage at some moment.
	paceParallel = 4
	// paceFloor is the share of the rate below which complaints don't push it,
	// and paceRecovery how long it takes from nothing back to the full rate.
	paceFloor    = 1.0 / 16
	paceRecovery = 5 * time.Minute
	// paceComplaints is how long several complaints count as one: they answer
	// what was sent before the first was heard.
	paceComplaints = 5 * time.Second
	// paceReserve is how many seconds' worth of refreshes may be made on demand
	// beyond the rate. The background makes up for it.
	paceReserve = 1.0
	// paceWaitMax is how long a refresh on demand waits at most; somebody waits
	// for it.
	paceWaitMax = 30 * time.Second
)

// pacer keeps refreshes at one host to a rate, and those of the background to a
// few at a time. Refreshes on demand go first. It counts on the monotonic clock.
type pacer struct {
	mu sync.Mutex
	// base is the rate that is wanted, and rate what complaints leave of it, both
	// a second. Zero is no limit.
	base, rate float64
	// level is how many refreshes may be made at once, at the time at. Below zero
	// some were made in advance.
	level float64
	at    time.Time
	// held keeps the background away until then, as a Retry-After wants it.
	held time.Time
	// complained is when the rate was last halved.
	complained time.Time
	busy       int // in the background, under way
	// freed is closed when one of the busy ends; nil while nobody waits for it.
	freed chan struct{}
}

// errCrowded: there are more refreshes on demand than the provider's rate lets
// through.
var errCrowded = errors.New("too many refreshes wait for their turn at this provider; see its refresh_rate")

// setRate sets the rate that is wanted: [Provider.RefreshRate].
func (p *pacer) setRate(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case rate == 0:
		rate = paceDefault
	case rate < 0:
		rate = 0
	}
	if rate != p.base || p.at.IsZero() {
		p.base, p.rate, p.level, p.at = rate, rate, max(1, rate/10), time.Now()
	}
}

// refillLocked brings level and rate up to now.
func (p *pacer) refillLocked(now time.Time) {
	past := now.Sub(p.at).Seconds()
	p.at = now
	p.rate = min(p.base, p.rate+p.base*past/paceRecovery.Seconds())
	// A tenth of a second's worth makes up for timers that go off late.
	p.level = min(p.level+p.rate*past, max(1, p.rate/10))
}

// wait is how long the level takes to rise to a value.
func (p *pacer) waitLocked(level float64) time.Duration {
	return time.Duration((level - p.level) / p.rate * float64(time.Second))
}

// permit lets one background refresh be made.
type permit struct {
	p     *pacer
	spent bool
	// lent is set when the place was given back before the end, and over at the
	// end; p.mu guards both.
	lent, over bool
	// onLend is told of the former; optional.
	onLend func()
}

// lendAfter is how long a permit is kept while its holder waits for an
// account's lock.
const lendAfter = 500 * time.Millisecond

// lend gives the place to others if the wait that begins takes long: the lock of
// a process that has died is good for another ten seconds, and four of them would
// keep a host's accounts waiting. The refresh is made all the same, as one more.
// The func that is returned ends the wait. A nil permit has none to give.
func (t *permit) lend() (ended func() bool) {
	if t == nil {
		return func() bool { return true }
	}
	return time.AfterFunc(lendAfter, func() {
		t.p.mu.Lock()
		defer t.p.mu.Unlock()
		if t.over {
			return
		}
		t.lent = true
		t.p.freeLocked()
		if t.onLend != nil {
			t.onLend()
		}
	}).Stop
}

// freeLocked makes place for another background refresh.
func (p *pacer) freeLocked() {
	p.busy--
	if p.freed != nil {
		close(p.freed)
		p.freed = nil
	}
}

// background waits until a background refresh may be made. The permit must be
// released.
func (p *pacer) background(ctx context.Context) (*permit, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		wait, freed := p.tryBackground(time.Now())
		if wait == 0 && freed == nil {
			return &permit{p: p}, nil
		}
		var due <-chan time.Time
		var timer *time.Timer
		if wait > 0 {
			timer = time.NewTimer(wait)
			due = timer.C
		}
		select {
		case <-due:
		case <-freed:
		case <-ctx.Done():
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// tryBackground begins a background refresh, or returns what to wait for: a
// time, or a channel.
func (p *pacer) tryBackground(now time.Time) (time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy >= paceParallel {
		if p.freed == nil {
			p.freed = make(chan struct{})
		}
		return 0, p.freed
	}
	if wait := p.held.Sub(now); wait > 0 {
		return wait, nil
	}
	if p.base > 0 {
		p.refillLocked(now)
		if p.level < 1 {
			return max(p.waitLocked(1), time.Millisecond), nil
		}
		p.level--
	}
	p.busy++
	return 0, nil
}

// release ends a background refresh. One that was not made after all does not
// count. It reports whether the place was lent.
func (t *permit) release() (lent bool) {
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if !t.spent {
		p.level++
	}
	t.over = true
	if !t.lent {
		p.freeLocked()
	}
	return t.lent
}

// onDemand counts a refresh that somebody waits for and returns how long it has
// to wait. It does not stand behind the background's.
func (p *pacer) onDemand() (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base == 0 {
		return 0, nil
	}
	p.refillLocked(time.Now())
	p.level--
	lowest := -max(p.base*paceReserve, 1)
	if p.level >= lowest {
		return 0, nil
	}
	wait := p.waitLocked(lowest)
	if wait > paceWaitMax {
		p.level++
		return 0, errCrowded
	}
	return wait, nil
}

// atOnce counts a refresh that waits for nothing.
func (p *pacer) atOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.base > 0 {
		p.refillLocked(time.Now())
		p.level--
	}
}

// complain halves the rate: the host has answered 429 or 503. Until retryAfter
// has passed the background stays away, though no longer than after a failure:
// one account's answer must not hold all others' back for a day. That account
// keeps to the time by itself.
func (p *pacer) complain(retryAfter time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if until := now.Add(min(retryAfter, failurePauseMax)); retryAfter > 0 && until.After(p.held) {
		p.held = until
	}
	if p.base == 0 || !p.complained.IsZero() && now.Sub(p.complained) < paceComplaints {
		return
	}
	p.refillLocked(now)
	p.complained = now
	p.rate = max(p.rate/2, p.base*paceFloor)
}

// perSecond returns the rate as it is now; zero for no limit.
func (p *pacer) perSecond() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}

// pacers are the pacers of many hosts. They outlive configurations.
type pacers struct {
	mu    sync.Mutex
	hosts map[string]*pacer
}

// everyPacer is the process's.
var everyPacer pacers

// of returns the pacer of a provider's token endpoint.
func (a *pacers) of(p *Provider) *pacer {
	host := tokenHost(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.hosts[host]
	if h == nil {
		if a.hosts == nil {
			a.hosts = map[string]*pacer{}
		}
		h = &pacer{}
		h.setRate(p.RefreshRate)
		a.hosts[host] = h
	}
	return h
}

// tokenHost is the host of a provider's token endpoint, as far as that is known
// without discovery; else the issuer's.
func tokenHost(p *Provider) string {
	for _, address := range []string{p.TokenEndpoint, p.Issuer} {
		if u, err := url.Parse(address); err == nil && u.Host != "" {
			return u.Host
		}
	}
	return ""
}
