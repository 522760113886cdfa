package caddymodule

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// A configuration takes force in what outlives it when all its apps have started: they
// start in any order, and one that fails takes the whole configuration with it. Caddy's
// core tells, by the events `started` and `stopping` of the events app, which is there
// whether it is configured or not, since this app loads it.

// coreEvent does something at an event of Caddy's core. Handlers are logged: it has no
// field to be seen.
type coreEvent struct{ do func() }

// Handle implements [caddyevents.Handler].
func (c coreEvent) Handle(_ context.Context, e caddy.Event) error {
	if e.Origin() == nil { // modules may have events of the same name
		c.do()
	}
	return nil
}

// followCore has the app follow what Caddy's core does. Handlers that are configured
// come behind its own, and cannot keep an event from it.
func (a *App) followCore(ctx caddy.Context) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	events := app.(*caddyevents.App)
	a.loading = &loading{ended: make(chan struct{})}
	if err := events.On("started", coreEvent{func() { a.guarded(a.takeForce) }}); err != nil {
		return err
	}
	return events.On("stopping", coreEvent{func() { a.guarded(a.stopping) }})
}

// takeForce puts the configuration in force, now that all its apps have started.
func (a *App) takeForce() {
	defer a.loading.end(true)
	if a.box != nil {
		a.before = a.box.takeForce(a)
	}
	a.serveSMTP()
}

// stopping is called before any app stops. At an exit no message is handed out any
// more, or else the http app would wait for those who wait for theirs.
func (a *App) stopping() {
	if a.box != nil && caddy.Exiting() {
		a.box.endRun()
	}
}

// loading is whether a configuration is being loaded, or is, or could not be.
type loading struct {
	once  sync.Once
	ended chan struct{}
	ok    bool // valid when ended is closed
}

// end notes that a configuration is loaded, or that it is not and will not be. What
// comes later changes nothing. It may be called on nil.
func (l *loading) end(ok bool) {
	if l != nil {
		l.once.Do(func() { l.ok = ok; close(l.ended) })
	}
}

// done reports whether the configuration was loaded, though it may have ended by now.
func (l *loading) done() bool {
	select {
	case <-l.ended:
		return l.ok
	default:
		return false
	}
}

// loadingWait is how long a message waits for its configuration to be loaded. It comes
// so early only while other apps start.
const loadingWait = 5 * time.Second

// wait waits until it has ended, and reports whether the configuration is loaded.
func (l *loading) wait(ctx context.Context) bool {
	if l.done() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, loadingWait)
	defer cancel()
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
	return l.done()
}
