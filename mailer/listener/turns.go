package listener

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// turns bounds how many passwords are checked at once, which costs time and memory
// on purpose. Suspects wait behind all others.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting [2][]chan struct{} // the second for suspects
}

// checks are the turns of all servers of the process: half of the processors stay
// free for what else there is to do.
var checks = newTurns(max(1, runtime.GOMAXPROCS(0)/2))

func newTurns(n int) *turns { return &turns{free: n} }

// errNoTurn says that a client has waited in vain.
var errNoTurn = errors.New("too many sign in at once")

// take waits for a turn, which has to be given back. The wait ends with ctx, and when
// stop is closed.
func (t *turns) take(ctx context.Context, stop <-chan struct{}, suspect bool) error {
	line := 0
	if suspect {
		line = 1
	}
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.waiting[line] = append(t.waiting[line], mine)
	t.mu.Unlock()
	why := errStopped
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
		why = ctx.Err()
	case <-stop:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiting[line], mine); i >= 0 {
		t.waiting[line] = slices.Delete(t.waiting[line], i, i+1)
		return fmt.Errorf("%w: %w", errNoTurn, why)
	}
	return nil // it came at the last moment
}

// give gives a turn back.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range t.waiting {
		if w := t.waiting[line]; len(w) > 0 {
			t.waiting[line] = w[1:]
			close(w[0])
			return
		}
	}
	t.free++
}
