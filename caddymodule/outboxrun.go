package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// outboxRun is a loop that hands out messages.
type outboxRun struct {
	stop  context.CancelFunc
	ended chan struct{}
}

func beginRun(box *outbox.Outbox, logger *slog.Logger) *outboxRun {
	ctx, stop := context.WithCancel(context.Background())
	run := &outboxRun{stop, make(chan struct{})}
	go func() {
		defer close(run.ended)
		runOutbox(ctx, box, logger)
	}()
	return run
}

// runAgain is when the loop of an outbox begins anew that has ended by itself.
const runAgain = 10 * time.Second

// runOutbox hands out messages until ctx ends.
func runOutbox(ctx context.Context, box *outbox.Outbox, logger *slog.Logger) {
	for ctx.Err() == nil {
		err := runGuarded(ctx, box, logger)
		if ctx.Err() != nil {
			return
		}
		logger.Error("the outbox hands out no messages; it is tried again in a moment", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(runAgain):
		}
	}
}

// runGuarded runs an outbox: a panic in it must not end the web server.
func runGuarded(ctx context.Context, box *outbox.Outbox, logger *slog.Logger) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			logger.Error("panic in the outbox", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return box.Run(ctx)
}
