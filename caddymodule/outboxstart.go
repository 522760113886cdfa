package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// startOutbox opens the outbox, unless it is open, and notes the configuration's
// settings.
func (a *App) startOutbox() error {
	if a.engine == nil {
		return nil
	}
	_, err := a.box.open(a)
	if err != nil {
		return fmt.Errorf("outbox %s: %w", a.engineName, err)
	}
	if err := a.box.hold(a); err != nil {
		return fmt.Errorf("outbox %s: %w", a.engineName, err)
	}
	a.warnOwnOutbox()
	return nil
}

// settings are what a configuration says of the outbox. Its hooks and its logger are
// those of the configuration in force: a try may outlive its own.
func (s *outboxState) settings(by *App) outbox.Settings {
	current := by.registry.load()
	return outbox.Settings{
		Deliver: by.mailer.Deliver,
		Policy: func(name string) (outbox.Policy, bool) {
			t := by.registry.load().tenants[name]
			if t == nil {
				return outbox.Policy{}, false
			}
			return t.policy, true
		},
		KeepSent:   current.keepSent,
		KeepFailed: current.keepFailed,
		Hooks:      s.hooks(),
		Logger:     slog.New(&s.relay),
	}
}

// errNotLoaded refuses messages that came in by a configuration which other apps of it
// keep from being loaded: the one in force might treat them in another way.
var errNotLoaded = errors.New("the server is loading a configuration, or could not; send the message again in a moment")

// outboxDoor is the way of a configuration's messages into the outbox.
type outboxDoor struct{ app *App }

// Send sends a message through the outbox. The outbox stays open that long,
// whatever is loaded meanwhile.
func (d outboxDoor) Send(ctx context.Context, s mailer.Submission) (mailer.Receipt, error) {
	if !d.app.loading.wait(ctx) {
		e := &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: outbox.CodeUnavailable, Err: errNotLoaded}
		about := mailedOf(s)
		d.app.logger.Info("message not accepted", about.failure(e)...)
		return mailer.Receipt{}, e
	}
	state, box, err := d.app.referOpen()
	if err != nil {
		e := &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: outbox.CodeUnavailable, Err: err}
		about := mailedOf(s)
		d.app.box.notAccepted(d.app, &about, e)
		return mailer.Receipt{}, e
	}
	defer state.unrefer()
	about := mailedOf(s) // not s, which would keep the content while its sender waits
	r, err := box.Send(ctx, s)
	d.app.box.notAccepted(d.app, &about, err)
	return r, err
}
