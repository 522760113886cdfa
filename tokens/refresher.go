package tokens

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// refreshTick is how often the refresher looks for tokens that are due. It
	// is also how soon a sign-in at another instance is noticed.
	refreshTick = 5 * time.Second
	// refreshParallel bounds refreshes under way: all of them are between the
	// provider's answer and the storage at some moment.
	refreshParallel = 4
	// sweepEvery is how often marks of used states are swept.
	sweepEvery = time.Hour
)

// Refresher renews tokens before they end, without traffic.
type Refresher struct {
	// Sources are the accounts to look after.
	Sources []*Source
	// Store is swept of what ended sign-ins leave.
	Store  *Store
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Run works until the context ends, and returns when no refresh is under way:
// a refresh that was sent is never cut short.
func (r *Refresher) Run(ctx context.Context) {
	tick := time.NewTicker(refreshTick)
	defer tick.Stop()
	swept := r.now()
	for {
		r.pass(ctx)
		if now := r.now(); now.Sub(swept) > sweepEvery {
			swept = now
			if err := r.Store.SweepStates(ctx, now); err != nil {
				r.Logger.Warn("sweeping used states", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pass renews what is due now.
func (r *Refresher) pass(ctx context.Context) {
	now := r.now()
	slots := make(chan struct{}, refreshParallel)
	var wg sync.WaitGroup
	for _, s := range r.Sources {
		if ctx.Err() != nil {
			break
		}
		ahead := s.stagger()
		if s.due().Add(-ahead).After(now) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			defer func() {
				if p := recover(); p != nil {
					r.Logger.Error("panic in the refresher", "panic", p, "stack", string(debug.Stack()))
				}
			}()
			// Failures are logged where they happen and kept with the token.
			_ = s.renew(context.WithoutCancel(ctx), renewal{ahead: ahead})
		})
	}
	wg.Wait()
}

func (r *Refresher) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}
