// Package outboxtest is the suite that every engine of the outbox passes. It holds an
// engine to the sentences of [outbox.Engine] and [outbox.Handler].
package outboxtest

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Harness opens engines on a store of its own, one after the other.
type Harness struct {
	// Open opens an engine on the store, as a process does when it starts. The store is
	// empty at first. The engine opened before was closed, or crashed.
	Open func() outbox.Engine
	// Crash ends an engine as the death of its process would. From then on nothing of
	// it reaches the store: neither what it has begun nor the outcomes of messages that
	// are still tried. Calls that are under way return, with whatever error; what
	// Accept returns nil for is stored. Run returns once its ctx has ended.
	Crash func(outbox.Engine)
	// Patience is the longest that something may take that an engine does at once, or
	// when it is due, or after a crash: 10 s. No test of a good engine takes so long.
	Patience time.Duration
}

// Run runs the suite. Each test has a harness, and so a store, of its own. Times are
// real and short.
func Run(t *testing.T, harness func(t *testing.T) Harness) {
	for _, tt := range []struct {
		name string
		run  func(*desk)
	}{
		{"accept outlives the process", acceptOutlives},
		{"accept hands out at once", acceptHandsOut},
		{"engine and caller share no memory", sharesNothing},
		{"content is kept to the octet", contentExact},
		{"first due, first tried", orderByDue},
		{"not before it is due", notBeforeDue},
		{"window is kept", windowKept},
		{"lanes are independent", lanesIndependent},
		{"verdicts are recorded", verdicts},
		{"retry at its time", retryAt},
		{"panic", panicInDeliver},
		{"resting lane is probed", restingLane},
		{"probe that fails", probeFails},
		{"parked lane", parkedLane},
		{"paused lane", pausedLane},
		{"messages expire in any lane", expiry},
		{"messages are forgotten", forget},
		{"digest is known", digestKnown},
		{"digest is free again", digestFree},
		{"digest in parallel", digestParallel},
		{"change", change},
		{"drop", drop},
		{"no such message", notFound},
		{"list", list},
		{"stats", stats},
		{"run ends", runEnds},
		{"interrupted", interrupted},
		{"interrupted and held", interruptedHeld},
		{"everything at once", everything},
		{"kill loop", killLoop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := harness(t)
			if h.Patience <= 0 {
				h.Patience = 10 * time.Second
			}
			d := &desk{T: t, h: h}
			d.open()
			defer d.end()
			tt.run(d)
		})
	}
}

// desk is one test: an engine and what it hands out.
type desk struct {
	*testing.T
	h Harness
	e outbox.Engine

	stop func() // ends Run; nil while it does not run
	done chan error
}

func (d *desk) open() {
	d.Helper()
	if d.e = d.h.Open(); d.e == nil {
		d.Fatal("no engine")
	}
}

// run has the engine hand out messages.
func (d *desk) run(h outbox.Handler) {
	ctx, cancel := context.WithCancel(context.Background())
	e, done := d.e, make(chan error, 1)
	d.stop, d.done = cancel, done
	go func() { done <- e.Run(ctx, h) }()
}

// halt ends Run as a process does that ends well.
func (d *desk) halt() {
	d.Helper()
	if d.stop == nil {
		return
	}
	d.stop()
	d.stop = nil
	select {
	case err := <-d.done:
		if err != nil {
			d.Errorf("run: %v", err)
		}
	case <-time.After(d.h.Patience):
		d.Fatal("Run did not return after ctx had ended")
	}
}

// crash ends the process, and release the calls of the handler that are under way.
// Then it opens the next engine.
func (d *desk) crash(release func()) {
	d.Helper()
	d.h.Crash(d.e)
	if release != nil {
		release()
	}
	if d.stop != nil {
		d.stop()
		d.stop = nil
		select {
		case <-d.done: //nolint:errcheck // whatever it is
		case <-time.After(d.h.Patience):
			d.Fatal("Run did not return after the crash")
		}
	}
	d.open()
}

// reopen ends the process well and starts the next one.
func (d *desk) reopen() {
	d.Helper()
	d.halt()
	if err := d.e.Close(); err != nil {
		d.Fatalf("close: %v", err)
	}
	d.open()
}

func (d *desk) end() {
	d.halt()
	if err := d.e.Close(); err != nil {
		d.Errorf("close: %v", err)
	}
}

// until waits until f returns true.
func (d *desk) until(what string, f func() bool) {
	d.Helper()
	for end := time.Now().Add(d.h.Patience); ; time.Sleep(2 * time.Millisecond) {
		if f() {
			return
		}
		if time.Now().After(end) {
			d.Fatalf("in vain waited for: %s", what)
		}
	}
}

// quiet is how long a test looks whether something happens that must not.
const quiet = 150 * time.Millisecond

// never watches for a while that f stays false.
func (d *desk) never(what string, f func() bool) {
	d.Helper()
	for end := time.Now().Add(quiet); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			d.Fatalf("must not happen: %s", what)
		}
	}
}
