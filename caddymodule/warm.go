package caddymodule

import (
	"context"
	"maps"
	"time"
)

const (
	// warmTimeout bounds one sign-in.
	warmTimeout = 30 * time.Second
	// warmAgain is how long one that failed is not tried again, and warmLast when
	// many did, one after the other: servers count them.
	warmAgain = 5 * time.Minute
	warmLast  = time.Hour
)

// cooling is how a tenant's sign-ins have failed.
type cooling struct {
	wait time.Duration // zero: the last one did not
	next time.Time
}

// keepWarm has a connection ready for each tenant that wants one.
func (a *App) keepWarm(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	failed := make(map[*tenant]cooling)
	var seen *snapshot
	var cold []*tenant
	for {
		if s := a.registry.load(); s != seen {
			seen, cold = s, s.wantWarm()
			maps.DeleteFunc(failed, func(t *tenant, _ cooling) bool { return s.tenants[t.name] != t })
		}
		for _, t := range cold {
			c := failed[t]
			if ctx.Err() != nil || time.Now().Before(c.next) || !t.wantsWarm() {
				continue
			}
			if a.warmUp(ctx, t) {
				delete(failed, t)
				continue
			}
			c.wait = min(warmLast, max(warmAgain, 2*c.wait))
			c.next = time.Now().Add(c.wait)
			failed[t] = c
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// wantWarm returns the tenants that want a connection kept ready.
func (s *snapshot) wantWarm() []*tenant {
	var list []*tenant
	for _, t := range s.tenants {
		if t.warm && !t.mail.Deliver.Nowhere {
			list = append(list, t)
		}
	}
	return list
}

// wantsWarm reports whether a message would use a connection now: not while its
// mailbox is to leave the server alone, or the tenant is known to be down.
func (t *tenant) wantsWarm() bool {
	if cause, next := t.mail.Breaker.Down(); cause != nil && time.Now().Before(next) {
		return false
	}
	return t.mail.Limits.Held() == nil
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
