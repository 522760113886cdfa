package caddymodule

import (
	"log/slog"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// eventQueue emits Caddy events from a goroutine of its own: their handlers may run
// programs, and no message waits for that. A nil queue drops them.
type eventQueue struct {
	emitter func(name string, data map[string]any)
	logger  *slog.Logger
	ended   chan struct{} // closed when run has ended

	mu      sync.Mutex
	waiting chan event
	closed  bool // nothing comes in any more
}

type event struct {
	name string
	data map[string]any
}

const (
	// maxEvents is how many events may wait. What comes then is dropped, and counted.
	maxEvents = 256
	// eventsGrace is how long the end of a configuration waits for the handlers of its
	// events.
	eventsGrace = 2 * time.Second
)

func newEventQueue(ctx caddy.Context, logger *slog.Logger) (*eventQueue, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	events := app.(*caddyevents.App)
	return &eventQueue{
		emitter: func(name string, data map[string]any) { events.Emit(ctx, name, data) },
		logger:  logger, waiting: make(chan event, maxEvents), ended: make(chan struct{}),
	}, nil
}

// emit emits an event soon.
func (q *eventQueue) emit(name string, data map[string]any) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		select {
		case q.waiting <- event{name, data}:
			return
		default:
		}
	}
	eventsDropped.Inc()
	q.logger.Warn("an event was dropped: its handlers are too slow, or have ended", "event", name)
}

// run emits events until the queue is closed.
func (q *eventQueue) run() {
	defer close(q.ended)
	for e := range q.waiting {
		q.emitter(e.name, e.data)
	}
}

// close takes no more events, and waits for a while until those that are there are
// emitted. The rest is counted.
func (q *eventQueue) close() {
	q.mu.Lock()
	again := q.closed
	q.closed = true
	if !again {
		close(q.waiting)
	}
	q.mu.Unlock()
	if again {
		return
	}
	select {
	case <-q.ended:
		return
	case <-time.After(eventsGrace):
	}
	left := 0
	for range q.waiting { // run gets none of them
		left++
	}
	if left > 0 {
		eventsDropped.Add(float64(left))
		q.logger.Warn("events were dropped: their handlers are too slow", "events", left)
	}
}
