package caddymodule

import (
	"context"
	"log/slog"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// eventQueue emits Caddy events from a goroutine of its own: their handlers may run
// programs, and no message waits for that. A nil queue drops them.
type eventQueue struct {
	emitter func(name string, data map[string]any)
	logger  *slog.Logger
	waiting chan event
}

type event struct {
	name string
	data map[string]any
}

// maxEvents is how many events may wait. What comes then is dropped, and counted.
const maxEvents = 256

func newEventQueue(ctx caddy.Context, logger *slog.Logger) (*eventQueue, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	events := app.(*caddyevents.App)
	return &eventQueue{
		emitter: func(name string, data map[string]any) { events.Emit(ctx, name, data) },
		logger:  logger, waiting: make(chan event, maxEvents),
	}, nil
}

// emit emits an event soon.
func (q *eventQueue) emit(name string, data map[string]any) {
	if q == nil {
		return
	}
	select {
	case q.waiting <- event{name, data}:
	default:
		eventsDropped.Inc()
		q.logger.Debug("an event was dropped: its handlers are too slow", "event", name)
	}
}

// run emits events until ctx ends.
func (q *eventQueue) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-q.waiting:
			q.emitter(e.name, e.data)
		}
	}
}
