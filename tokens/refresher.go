package tokens

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// refreshTick is how often the refresher looks for tokens that are due. It
	// is also how soon a sign-in at another instance is noticed where one is
	// waited for.
	refreshTick = 5 * time.Second
	// refreshParallel bounds refreshes under way at one provider: all of them
	// are between the provider's answer and the storage at some moment.
	refreshParallel = 4
	// watchAll is up to how many accounts all are watched for what other
	// instances do. Of more, only those that are in use.
	watchAll = 1000
	// inUse is how long after its last use an account counts as being in use.
	inUse = time.Hour
	// sweepEvery is how often marks of used states are swept.
	sweepEvery = time.Hour
)

// Refresher renews tokens before they end, without traffic.
type Refresher struct {
	// Sources are the accounts to look after.
	Sources []*Source
	// Store is swept of what ended sign-ins leave. Optional.
	Store *Store
	// Logger gets what went wrong. nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Run works until the context ends, and returns when no refresh is under way:
// a refresh that was sent is never cut short.
func (r *Refresher) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	// A provider or storage that hangs must not keep the others' accounts
	// waiting: each provider has a lane of its own.
	lanes := map[string]*lane{}
	for _, s := range r.Sources {
		l := lanes[s.account.Provider]
		if l == nil {
			l = &lane{logger: r.logger(), all: len(r.Sources) <= watchAll}
			lanes[s.account.Provider] = l
		}
		l.sources = append(l.sources, s)
	}
	tick := time.NewTicker(refreshTick)
	defer tick.Stop()
	swept := r.now()
	for {
		now := r.now()
		for _, l := range lanes {
			if l.busy.CompareAndSwap(false, true) {
				wg.Go(func() {
					defer survive(l.logger, "the refresher")
					defer l.busy.Store(false)
					l.pass(ctx, now)
				})
			}
			if l.watching.CompareAndSwap(false, true) {
				wg.Go(func() {
					defer survive(l.logger, "watching the storage")
					defer l.watching.Store(false)
					l.watch(ctx, now)
				})
			}
		}
		if r.Store != nil && now.Sub(swept) > sweepEvery {
			swept = now
			wg.Go(func() {
				defer survive(r.logger(), "sweeping used states")
				if err := r.Store.SweepStates(ctx, now); err != nil {
					r.logger().Warn("sweeping used states", "error", err)
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lane is the accounts of one provider.
type lane struct {
	sources  []*Source
	all      bool // watch accounts that nobody uses, too
	logger   *slog.Logger
	busy     atomic.Bool // a pass is under way
	watching atomic.Bool // a watch is under way
}

// pass renews what is due now.
func (l *lane) pass(ctx context.Context, now time.Time) {
	slots := make(chan struct{}, refreshParallel)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range l.sources {
		due, ahead := s.due()
		if due.Add(-ahead).After(now) {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		wg.Go(func() {
			defer survive(l.logger, "the refresher")
			defer func() { <-slots }()
			// Failures are logged where they happen and kept with the token.
			_ = s.renew(context.WithoutCancel(ctx), renewal{ahead: ahead})
		})
	}
}

// watch looks for what other instances have done to accounts that need no
// renewal. It takes its time, one account after the other, and apart from the
// passes, which a slow storage would hold up.
func (l *lane) watch(ctx context.Context, now time.Time) {
	for _, s := range l.sources {
		if ctx.Err() != nil {
			return
		}
		if !l.all && now.Unix()-s.cell.lastUsed.Load() > int64(inUse/time.Second) || !s.unwatched(now) {
			continue
		}
		if err := s.notice(ctx); err != nil && !unreadable(err) {
			return // the storage is in trouble: so would be the next look
		}
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
	return slog.New(slog.DiscardHandler)
}
