package tokens

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// refreshTick is how often the refresher looks for tokens that are due. It
	// is also how soon a sign-in at another instance is noticed.
	refreshTick = 5 * time.Second
	// refreshParallel bounds refreshes under way at one provider: all of them
	// are between the provider's answer and the storage at some moment.
	refreshParallel = 4
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
			l = &lane{logger: r.logger()}
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
					defer l.busy.Store(false)
					l.pass(ctx, now)
				})
			}
		}
		if r.Store != nil && now.Sub(swept) > sweepEvery {
			swept = now
			wg.Go(func() {
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
	sources []*Source
	logger  *slog.Logger
	busy    atomic.Bool // a pass is under way
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
			defer func() { <-slots }()
			defer func() {
				if p := recover(); p != nil {
					l.logger.Error("panic in the refresher", "panic", p, "stack", string(debug.Stack()))
				}
			}()
			// Failures are logged where they happen and kept with the token.
			_ = s.renew(context.WithoutCancel(ctx), renewal{ahead: ahead})
		})
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
