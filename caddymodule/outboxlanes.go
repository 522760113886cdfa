package caddymodule

import (
	"context"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// lanesEvery is how often lanes are looked at whose reason may have gone.
const lanesEvery = 15 * time.Second

// watchLanes lets messages flow again that waited for something that has come to
// pass.
func (a *App) watchLanes(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.loading.ended:
	}
	if !a.loading.done() {
		return
	}
	a.warnForsaken(ctx)
	var before *snapshot
	if a.before != nil {
		before = a.before.registry.load()
		a.before = nil // it would keep the one before it, and that one all others
	}
	a.openChanged(ctx, before)
	tick := time.NewTicker(lanesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.openLanes(ctx, hasToken)
			a.tellBacklogs(ctx)
		}
	}
}

// openChanged lets messages flow that waited under other settings; nil for none.
func (a *App) openChanged(ctx context.Context, before *snapshot) {
	var changed map[string]bool
	if before != nil {
		changed = rerouted(before, a.registry.load())
	}
	a.openLanes(ctx, func(_ context.Context, t *tenant, l outbox.Lane) bool { return changed[t.name] || configured(t, l) })
	a.hasten(ctx, changed)
}

// openLanes opens the lanes whose reason is gone.
func (a *App) openLanes(ctx context.Context, gone func(context.Context, *tenant, outbox.Lane) bool) {
	box, release, err := a.useOutbox()
	if err != nil {
		return // Start has told
	}
	defer release()
	lanes, err := box.Engine().Lanes(ctx)
	if err != nil {
		a.logger.Warn("reading the states of the outbox", "error", err)
		return
	}
	s := a.registry.load()
	for name, lane := range lanes {
		t := s.tenants[name]
		if t == nil || lane.Failure == nil || ctx.Err() != nil || !gone(ctx, t, lane) {
			continue
		}
		if err := box.Unpark(ctx, name); err != nil {
			a.logger.Warn("messages of a tenant that waited still wait", "tenant", name, "error", err)
		}
	}
}

// configured reports whether a new configuration may have ended what a tenant waits
// for: a setting or its password was wrong.
func configured(t *tenant, l outbox.Lane) bool {
	return l.State == outbox.LaneParked &&
		(l.Failure.Kind == mailer.KindConfig || l.Failure.Kind == mailer.KindUnauthorized && t.source == nil)
}

// hasten makes due what waits since the old way to send was closed.
func (a *App) hasten(ctx context.Context, rerouted map[string]bool) {
	if len(rerouted) == 0 {
		return
	}
	box, release, err := a.useOutbox()
	if err != nil {
		return // Start has told
	}
	defer release()
	for name := range rerouted {
		if err := box.Hasten(ctx, name); err != nil && ctx.Err() == nil {
			a.logger.Warn("messages of a tenant that waited still wait", "tenant", name, "error", err)
		}
	}
}

// rerouted returns the tenants that send in another way than before, by another server,
// with another sign-in, or within other limits.
func rerouted(before, now *snapshot) map[string]bool {
	changed := map[string]bool{}
	for name, t := range now.tenants {
		if old := before.tenants[name]; old == nil || old.way != t.way {
			changed[name] = true
		}
	}
	return changed
}

// warnForsaken tells of messages whose tenant is no longer configured.
func (a *App) warnForsaken(ctx context.Context) {
	stats, err := a.outboxStats(ctx)
	if err != nil {
		return // Start or the engine has told
	}
	s := a.registry.load()
	for name, t := range stats.Tenants {
		if n := waiting(t); n > 0 && s.tenants[name] == nil {
			a.logger.Warn("the outbox holds messages of a tenant that is not configured; bring the tenant back, or cancel them",
				"tenant", name, "messages", n, "outbox", a.box.key)
		}
	}
}

// hasToken reports whether a tenant waits for a token that is there by now, by
// whatever way it came: a refresh, or a sign-in at another instance.
func hasToken(ctx context.Context, t *tenant, l outbox.Lane) bool {
	if t.source == nil || l.State != outbox.LaneParked && l.State != outbox.LaneResting {
		return false
	}
	st := t.source.Status(ctx)
	switch {
	case st.State != tokens.StateAuthorized:
		return false
	case l.Failure.Stage == mailer.StageToken:
		return st.IssuedAt.After(l.Since) || st.AuthorizedAt.After(l.Since)
	case l.Failure.Stage == mailer.StageAuth:
		return st.AuthorizedAt.After(l.Since)
	}
	return false
}

// waitsForSignIn returns the account that somebody has to sign in to, where a tenant's
// messages wait for nothing else.
func waitsForSignIn(ctx context.Context, t *tenant, l outbox.Lane) (account tokens.Account, waits bool) {
	if t == nil || t.source == nil || l.State != outbox.LaneParked || l.Failure == nil || l.Failure.Stage != mailer.StageToken ||
		t.source.Status(ctx).State != tokens.StateUnauthorized {
		return tokens.Account{}, false
	}
	return t.account, true
}

// unparkAccount lets the messages flow that waited for an account.
func (a *App) unparkAccount(s *snapshot, account tokens.Account) {
	if a.engine == nil {
		return
	}
	go a.guarded(func() {
		box, release, err := a.useOutbox()
		if err != nil {
			return // Start has told
		}
		defer release()
		for _, t := range s.users[account] {
			if err := box.Unpark(context.Background(), t.name); err != nil {
				a.logger.Warn("messages of a tenant that waited still wait", "tenant", t.name, "error", err)
			}
		}
	})
}
