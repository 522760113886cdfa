package tokens

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
)

// work counts what is under way and must not be cut short: between a provider's
// answer and the storage a token exists in this process only. Its zero value is
// ready.
type work struct {
	mu sync.Mutex
	n  int
	// idle is closed when n becomes zero; nil while nobody waits.
	idle chan struct{}
}

// underWay is the process's work, of all configurations.
var underWay work

// Wait waits until no renewal, no disconnecting and no sign-in that redeems its
// code is under way in this process, or the context ends, whose error it
// returns then. It stops nothing: whoever ends the process ends the [Refresher]s
// and the traffic first.
func Wait(ctx context.Context) error { return underWay.wait(ctx) }

func (w *work) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
}

func (w *work) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n--
	if w.n == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

func (w *work) wait(ctx context.Context) error {
	w.mu.Lock()
	if w.n == 0 {
		w.mu.Unlock()
		return nil
	}
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	idle := w.idle
	w.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// survive, deferred first of all in a goroutine, keeps its panic from ending
// the process.
func survive(l *slog.Logger, what string) {
	if p := recover(); p != nil {
		l.Error("panic in "+what, "panic", p, "stack", string(debug.Stack()))
	}
}
