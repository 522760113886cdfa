package river

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	rq "github.com/riverqueue/river"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Engine is an [outbox.Engine] for instances that share a database. It also is an
// [outbox.SharedLimits]. It may be used concurrently.
type Engine struct {
	Config
	timing

	name string // by which it tells its own calls from those of others
	pool *pgxpool.Pool
	jobs *rq.Client[pgx.Tx] // inserts only

	// shouts are the lanes of which others are to be told.
	shouts shouts

	mu    sync.Mutex
	run   *run // nil where Run is not under way
	lanes map[string]*lane
}

var (
	_ outbox.Engine       = (*Engine)(nil)
	_ outbox.SharedLimits = (*Engine)(nil)
)

// Open connects to the database and brings its tables to this version.
func Open(ctx context.Context, c Config) (*Engine, error) { return open(ctx, c, usualTiming()) }

func open(ctx context.Context, c Config, t timing) (*Engine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("outbox river: %w", err)
	}
	e := &Engine{Config: c, timing: t, name: uuid.NewString(), lanes: make(map[string]*lane)}
	e.pool, err = c.pool(ctx)
	if err != nil {
		return nil, fmt.Errorf("outbox river: %w", err)
	}
	if err := e.start(ctx); err != nil {
		e.pool.Close()
		return nil, fmt.Errorf("outbox river: %w", err)
	}
	e.shouts.start(e)
	return e, nil
}

func (e *Engine) start(ctx context.Context) error {
	if err := e.alarm(ctx); err != nil {
		return err
	}
	if err := e.migrate(ctx); err != nil {
		return err
	}
	var err error
	e.jobs, err = e.riverClient("", nil)
	return err
}

// alarm tells of a server that does not keep what it has confirmed.
func (e *Engine) alarm(ctx context.Context) error {
	for _, setting := range []string{"fsync", "full_page_writes"} {
		var value string
		if err := e.pool.QueryRow(ctx, `SELECT current_setting($1)`, setting).Scan(&value); err != nil {
			return err
		}
		if value != "on" {
			e.Logger.Error("the PostgreSQL server is set to lose data when it crashes: accepted messages are not safe; turn the setting on",
				"setting", setting, "value", value)
		}
	}
	return nil
}

// Close ends the use of the engine.
func (e *Engine) Close() error {
	e.shouts.stop()
	e.pool.Close()
	return nil
}

// tx runs f in a transaction.
func (e *Engine) tx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, e.pool, f)
}

// riverLogger lets through what somebody should look at.
func (e *Engine) riverLogger() *slog.Logger {
	return slog.New(warnings{e.Logger.Handler()})
}

// warnings is a handler of logs that drops what is below a warning.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}

func (w warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{w.Handler.WithAttrs(a)} }
func (w warnings) WithGroup(n string) slog.Handler      { return warnings{w.Handler.WithGroup(n)} }

// sleep waits, or returns early when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
