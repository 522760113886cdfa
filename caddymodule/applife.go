package caddymodule

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// Start begins to keep the tokens fresh, and makes all ready to send what is in the
// outbox and to serve SMTP, which begins when the other apps have started, too: see
// takeForce.
func (a *App) Start() error {
	if _, err := a.keys(); err != nil {
		return err
	}
	defer close(a.settled)
	a.startSettings()
	if err := a.startOutbox(); err != nil {
		return err
	}
	if err := a.listenSMTP(); err != nil {
		return err
	}
	a.makeManagementToken()
	a.holdings.begin()
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	refresher := &tokens.Refresher{
		Sources: a.registry.load().sources(),
		Changes: a.sources,
		Store:   a.store,
		Logger:  a.logger,
		Policy:  a.registry.load().refresh,

		Unauthorized: a.nameUnauthorized,
	}
	a.refreshed = make(chan struct{})
	go a.guarded(func() {
		defer close(a.refreshed)
		refresher.Run(ctx)
	})
	go a.guarded(func() { a.sweepPools(ctx) })
	go a.guarded(func() { a.keepWarm(ctx) })
	go a.guarded(func() { a.watchExpiries(ctx) })
	go a.guarded(func() { a.tendStorage(ctx) })
	go a.guarded(func() { a.followSettings(ctx) })
	go a.guarded(a.events.run)
	go a.guarded(func() { a.watchTroubles(ctx) })
	if a.engine != nil {
		go a.guarded(func() { a.watchLanes(ctx) })
	}
	return nil
}

// guarded runs the work of a goroutine: a panic in it must not end the web
// server.
func (a *App) guarded(work func()) {
	defer func() {
		if p := recover(); p != nil {
			a.logger.Error("panic in the background", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	work()
}

// nameUnauthorized logs an account that cannot send until a person signs in.
func (a *App) nameUnauthorized(account tokens.Account) {
	accountStates.Store(account, tokens.StateUnauthorized)
	a.logger.Warn("an account waits for a person to sign in; make the link with the administration's call",
		"provider", account.Provider, "user", account.User,
		"call", authorizeCall(account))
}

// authorizeCall is the call of the administration that begins a sign-in.
func authorizeCall(account tokens.Account) string {
	return "POST /accounts/" + account.Provider + "/" + account.User + "/authorize"
}

// sweepEvery is how often connections that were idle too long are closed.
const sweepEvery = 15 * time.Second

func (a *App) sweepPools(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, t := range a.registry.load().tenants {
				t.mail.Pool.Sweep(now)
			}
		}
	}
}

// stopGrace bounds how long an exit waits for refreshes that were sent, and how long
// for messages whose content is on its way.
const stopGrace = 30 * time.Second

// Stop ends the refresher. A reload does not wait for it: what it has begun is
// brought to its end all the same. An exit does, since a refresh that is cut
// between the provider's answer and the storage costs the grant.
func (a *App) Stop() error {
	if a.stop == nil {
		return nil
	}
	a.stop()
	a.endSettings()
	a.loading.end(false)
	if a.box != nil {
		a.box.withdraw(a)
	}
	a.events.close()
	if !caddy.Exiting() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	a.holdings.stopSMTP(ctx)
	if err := tokens.Wait(ctx); err != nil {
		a.logger.Warn("exiting while tokens are being refreshed; an account may need a new sign-in")
	}
	return nil
}

// Cleanup gives back what outlives the configuration.
func (a *App) Cleanup() error {
	a.loading.end(false)
	if a.stop != nil {
		a.stop()
	}
	a.endSettings()
	a.holdings.releaseSMTP(a)
	a.holdings.releaseOutbox(a)
	a.holdings.release()
	if a.refreshed == nil {
		a.holdings.releaseCells()
		return nil
	}
	go a.guarded(func() {
		<-a.refreshed
		a.holdings.releaseCells()
	})
	return nil
}
