package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

func init() {
	caddy.RegisterModule(new(OutboxOff))
}

// outboxNamespace is that of the modules that are engines of the outbox.
const outboxNamespace = "oauth_mail.outbox"

// outboxEngine is what a module of the namespace provides. Engines outside this
// package satisfy it without importing it.
type outboxEngine interface {
	// OutboxKey says what makes the engine what it is: a path, the hash of a DSN.
	// Configurations with the same one share the engine.
	OutboxKey() string
	// OpenOutbox opens it. It is not called while a configuration is only checked. The
	// context is for the opening alone, and ends after some minutes.
	OpenOutbox(ctx context.Context, sealer outbox.Sealer, logger *slog.Logger) (outbox.Engine, error)
	// Shared reports whether several instances may use it.
	Shared() bool
}

// outboxHolder is what an engine's module may tell besides.
type outboxHolder interface {
	// OutboxExists reports whether the engine was opened before, and so may hold
	// messages that an encryption key has sealed.
	OutboxExists() bool
}

// OutboxOff switches the outbox off: messages are sent while their senders wait,
// or refused.
type OutboxOff struct{}

// CaddyModule returns the Caddy module information.
func (*OutboxOff) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  outboxNamespace + ".off",
		New: func() caddy.Module { return new(OutboxOff) },
	}
}

// UnmarshalCaddyfile takes nothing. Syntax:
//
//	outbox off
func (*OutboxOff) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // off
	if d.NextArg() {
		return d.ArgErr()
	}
	return parseBlock(d, nil)
}

// loadOutbox finds the engine of the outbox, without opening it.
func (a *App) loadOutbox(ctx caddy.Context) error {
	if len(a.OutboxRaw) == 0 {
		a.OutboxRaw = caddyconfig.JSONModuleObject(struct{}{}, "engine", defaultEngine, nil)
	}
	module, err := ctx.LoadModule(a, "OutboxRaw")
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	if _, off := module.(*OutboxOff); off {
		return nil
	}
	engine, ok := module.(outboxEngine)
	if !ok {
		return errors.New("outbox: the module " + string(module.(caddy.Module).CaddyModule().ID) + " is no engine")
	}
	a.engine, a.engineName = engine, module.(caddy.Module).CaddyModule().ID.Name()
	a.box, err = a.holdings.takeOutbox(engine.OutboxKey())
	return err
}

// openPatience bounds the opening of an engine: a database that takes a connection and
// then says nothing must not keep a configuration from being refused, and with it all
// later ones.
const openPatience = 2 * time.Minute

// openEngine opens an engine.
func openEngine(e outboxEngine, sealer outbox.Sealer, logger *slog.Logger) (outbox.Engine, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openPatience)
	defer cancel()
	engine, err := e.OpenOutbox(ctx, sealer, logger)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("it could not be opened within %v: %w", openPatience, err)
	}
	return engine, err
}

// warnOwnOutbox tells of instances that have one storage but not one outbox.
func (a *App) warnOwnOutbox() {
	if _, local := a.storage.(*certmagic.FileStorage); local || a.engine == nil || a.engine.Shared() {
		return
	}
	a.logger.Warn("the storage can be shared by several instances, and this outbox cannot: if there are several, each has an outbox of its own, which only that instance delivers, and knows neither the Idempotency-Keys nor the limits of the others; use an engine on a database, or divide `rate` and `connections` by the number of instances",
		"engine", a.engineName)
}

// Interface guards
var (
	_ caddy.Module          = (*OutboxOff)(nil)
	_ caddyfile.Unmarshaler = (*OutboxOff)(nil)
)
