package caddymodule

import (
	"context"
	"time"
)

const (
	// warmTimeout bounds one sign-in, and warmAgain is how long one that failed is
	// not tried again: servers count them.
	warmTimeout = 30 * time.Second
	warmAgain   = 5 * time.Minute
)

// keepWarm has a connection ready for each tenant that wants one.
func (a *App) keepWarm(ctx context.Context) {
	var cold []*tenant
	for _, t := range a.registry.load().tenants {
		if t.warm && !t.deliver.Nowhere {
			cold = append(cold, t)
		}
	}
	if len(cold) == 0 {
		return
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	failed := make(map[*tenant]time.Time)
	for {
		for _, t := range cold {
			if ctx.Err() == nil && time.Since(failed[t]) >= warmAgain && !a.warmUp(ctx, t) {
				failed[t] = time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// warmUp reports whether a connection is ready. A failure says nothing that the
// next message would not.
func (a *App) warmUp(ctx context.Context, t *tenant) bool {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	err := t.mail.Warm(ctx)
	if err != nil {
		a.logger.Debug("no connection could be made ready", "tenant", t.name, "error", err)
	}
	return err == nil
}
