package caddymodule

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// relay is a log handler for what outlives configurations: it hands records to the
// handler of one that is in force. Its zero value drops them.
type relay struct {
	current atomic.Pointer[slog.Handler]
}

// to makes records go to a logger from now on.
func (r *relay) to(l *slog.Logger) {
	h := l.Handler()
	r.current.Store(&h)
}

func (r *relay) handler() slog.Handler {
	if h := r.current.Load(); h != nil {
		return *h
	}
	return slog.DiscardHandler
}

// Enabled reports whether the handler in force takes records of the level.
func (r *relay) Enabled(ctx context.Context, l slog.Level) bool { return r.handler().Enabled(ctx, l) }

// Handle hands a record on.
func (r *relay) Handle(ctx context.Context, record slog.Record) error {
	return r.handler().Handle(ctx, record)
}

// WithAttrs returns a handler that adds attributes to each record.
func (r *relay) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &relayed{r, func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) }}
}

// WithGroup returns a handler that puts attributes into a group.
func (r *relay) WithGroup(name string) slog.Handler {
	return &relayed{r, func(h slog.Handler) slog.Handler { return h.WithGroup(name) }}
}

// relayed is a relay with attributes or groups.
type relayed struct {
	*relay
	dress func(slog.Handler) slog.Handler
}

func (r *relayed) Handle(ctx context.Context, record slog.Record) error {
	return r.dress(r.handler()).Handle(ctx, record)
}

func (r *relayed) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &relayed{r.relay, func(h slog.Handler) slog.Handler { return r.dress(h).WithAttrs(attrs) }}
}

func (r *relayed) WithGroup(name string) slog.Handler {
	return &relayed{r.relay, func(h slog.Handler) slog.Handler { return r.dress(h).WithGroup(name) }}
}
