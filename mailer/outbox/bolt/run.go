package bolt

import (
	"context"
	"errors"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// run is a call of Run.
type run struct {
	ctx     context.Context
	handler outbox.Handler
}

// running reports whether messages are handed out.
func (e *Engine) running() bool { return e.run != nil && e.run.ctx.Err() == nil }

// Run implements [outbox.Engine].
func (e *Engine) Run(ctx context.Context, h outbox.Handler) error {
	if !e.ran.CompareAndSwap(false, true) {
		return errors.New("the outbox runs already")
	}
	defer e.ran.Store(false)
	if err := e.interrupted(ctx, h); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	r := &run{ctx, h}
	e.queue.add(&op{keep: true, arrive: func() bool { e.run = r; return false }, apply: (*batch).start})
	select {
	case <-ctx.Done():
	case <-e.ended:
		return errClosed
	}
	stopped := make(chan struct{})
	e.queue.add(&op{
		arrive: func() bool { e.run, e.stopped = nil, stopped; return false },
		apply:  func(*batch) error { return nil },
	})
	select {
	case <-stopped:
	case <-e.ended:
	}
	return nil
}

// start has messages handed out from now on.
func (b *batch) start() error {
	for _, s := range []outbox.State{outbox.StateQueued, outbox.StateScheduled} {
		for tenant := range countedTenants(b.index.Cursor(nil), s) {
			b.touch(b.lane(tenant))
		}
	}
	return nil
}

// checkStopped ends Run when its calls have returned and their outcomes are
// recorded, or cannot be for now.
func (e *Engine) checkStopped() {
	if e.stopped == nil || e.out > 0 {
		return
	}
	unrecorded := 0
	for _, f := range e.flights {
		if f.landed {
			unrecorded++
		}
	}
	if unrecorded <= len(e.stuck) {
		close(e.stopped)
		e.stopped = nil
	}
}

// window asks how many messages may be out at once.
func (e *Engine) window(tenant string) int {
	n := 1
	if err := guard(func() error { n = e.run.handler.Window(tenant); return nil }); err != nil {
		e.log().Error("the handler of the outbox has failed", "tenant", tenant, "error", err)
	}
	return max(1, n)
}
