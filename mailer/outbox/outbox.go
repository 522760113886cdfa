package outbox

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// Outbox decides what becomes of messages, whatever engine keeps them. It may be used
// concurrently.
type Outbox struct {
	engine   Engine
	limits   SharedLimits // nil where no other process uses the engine
	settings atomic.Pointer[Settings]
	waiters  waiters
	lanes    lanes
	storings sync.Pool // *storing
	jitter   func() float64
}

var _ mailer.Outbox = (*Outbox)(nil)

// New returns an outbox on an engine, which stays the caller's to close.
func New(e Engine, s Settings) *Outbox {
	o := &Outbox{engine: e, jitter: rand.Float64}
	o.limits, _ = e.(SharedLimits)
	o.Use(s)
	return o
}

// Use replaces the settings. Tries that are under way end with those they began
// with. Lanes stay as they are: see [Outbox.Unpark].
func (o *Outbox) Use(s Settings) { o.settings.Store(s.withDefaults()) }

// Engine returns the engine, to read from. What changes messages or lanes goes through
// the Outbox.
func (o *Outbox) Engine() Engine { return o.engine }

// refreshEvery is how often the lanes are read that other processes may have changed.
const refreshEvery = 10 * time.Second

// Run sends messages until ctx ends and the tries that are under way have ended, too.
// It is called once at a time.
func (o *Outbox) Run(ctx context.Context) error {
	o.refresh(ctx)
	if o.limits != nil {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		defer func() { cancel(); <-done }()
		go func() {
			defer close(done)
			o.refreshOften(ctx)
		}()
	}
	o.waiters.stop(false)
	released := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() { o.releaseAll(); close(released) }) // tries go on for a while
	defer func() {
		if !unwatch() {
			<-released
		}
		o.releaseAll() // those that were tried until now, too
	}()
	return o.engine.Run(ctx, handler{o})
}

// releaseAll answers those whose messages are not being tried, since none is handed
// out any more.
func (o *Outbox) releaseAll() {
	o.waiters.stop(true)
	o.waiters.release("", func(id string) answer { return answer{receipt: mailer.Receipt{ID: id, Status: mailer.StatusQueued}} })
}

func (o *Outbox) refreshOften(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(refreshEvery):
			o.refresh(ctx)
		}
	}
}

// refresh reads the states of the lanes. What this process has changed of late the
// engine may not have recorded yet.
func (o *Outbox) refresh(ctx context.Context) {
	now := time.Now()
	all, err := o.engine.Lanes(ctx)
	if err != nil {
		if ctx.Err() == nil {
			o.settings.Load().Logger.Warn("the outbox cannot read which tenants rest; it tries again", "error", err)
		}
		return
	}
	o.lanes.load(now.Add(-refreshEvery/2), all)
}

// changed tells of a lane's change, and those who wait for messages in it.
func (o *Outbox) changed(s *Settings, tenant string, before, now Lane) {
	if now.State != LaneOpen {
		o.waiters.release(tenant, func(id string) answer { return o.waitingIn(id, tenant, now) })
	}
	if before.State != now.State {
		s.call(func() { s.Hooks.Lane(tenant, before, now) })
	}
}

// waitingIn answers the sender of a message that waits in a lane that is not open.
func (o *Outbox) waitingIn(id, tenant string, l Lane) answer {
	return answer{receipt: mailer.Receipt{ID: id, Tenant: tenant, Status: mailer.StatusQueued, Cause: l.cause(), Due: l.Until}}
}
