package caddymodule

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// startOutbox opens the outbox, unless it is open, and puts the configuration's
// settings in force.
func (a *App) startOutbox() error {
	if a.engine == nil {
		return nil
	}
	if _, err := a.holdings.outbox.open(a); err != nil {
		return fmt.Errorf("outbox %s: %w", a.engineName, err)
	}
	a.holdings.outbox.hold(a)
	a.warnOwnOutbox()
	return nil
}

// outboxSettings are what the configuration says of the outbox.
func (a *App) outboxSettings() outbox.Settings {
	s := a.registry.load()
	return outbox.Settings{
		Deliver: a.mailer.Deliver,
		Policy: func(name string) (outbox.Policy, bool) {
			t := a.registry.load().tenants[name]
			if t == nil {
				return outbox.Policy{}, false
			}
			return t.policy, true
		},
		KeepSent:   s.keepSent,
		KeepFailed: s.keepFailed,
		Hooks:      a.outboxHooks(),
		Logger:     a.logger,
	}
}

// watchLanes lets messages flow again that waited for something that has come to
// pass.
func (a *App) watchLanes(ctx context.Context) {
	a.openLanes(ctx, configured)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.openLanes(ctx, hasToken)
		}
	}
}

// openLanes opens the lanes whose reason is gone.
func (a *App) openLanes(ctx context.Context, gone func(context.Context, *tenant, outbox.Lane) bool) {
	box, release, err := a.useOutbox()
	if err != nil {
		return // Start has told
	}
	defer release()
	lanes, err := box.Engine().Lanes(ctx)
	if err != nil {
		a.logger.Warn("reading the states of the outbox", "error", err)
		return
	}
	s := a.registry.load()
	for name, lane := range lanes {
		t := s.tenants[name]
		if t == nil || lane.Failure == nil || ctx.Err() != nil || !gone(ctx, t, lane) {
			continue
		}
		if err := box.Unpark(ctx, name); err != nil {
			a.logger.Warn("messages of a tenant that waited still wait", "tenant", name, "error", err)
		}
	}
}

// configured reports whether a new configuration may have ended what a tenant waits
// for: a setting was wrong, or its password was.
func configured(_ context.Context, t *tenant, l outbox.Lane) bool {
	return l.State == outbox.LaneParked &&
		(l.Failure.Kind == mailer.KindConfig || l.Failure.Kind == mailer.KindUnauthorized && t.source == nil)
}

// hasToken reports whether a tenant waits for a token that is there by now, by
// whatever way it came: a refresh, or a sign-in at another instance.
func hasToken(ctx context.Context, t *tenant, l outbox.Lane) bool {
	if t.source == nil || l.State != outbox.LaneParked && l.State != outbox.LaneResting {
		return false
	}
	st := t.source.Status(ctx)
	switch {
	case st.State != tokens.StateAuthorized:
		return false
	case l.Failure.Stage == mailer.StageToken:
		return st.IssuedAt.After(l.Since) || st.AuthorizedAt.After(l.Since)
	case l.Failure.Stage == mailer.StageAuth:
		return st.AuthorizedAt.After(l.Since)
	}
	return false
}

// unparkAccount lets the messages flow that waited for an account.
func (a *App) unparkAccount(s *snapshot, account tokens.Account) {
	if a.engine == nil {
		return
	}
	go a.guarded(func() {
		box, release, err := a.useOutbox()
		if err != nil {
			return // Start has told
		}
		defer release()
		for _, t := range s.users[account] {
			if err := box.Unpark(context.Background(), t.name); err != nil {
				a.logger.Warn("messages of a tenant that waited still wait", "tenant", t.name, "error", err)
			}
		}
	})
}

// outboxDoor is the way of a configuration's messages into the outbox.
type outboxDoor struct{ app *App }

// The codes of messages that do not come into the outbox.
const (
	codeOutboxFull        = "outbox_full"
	codeOutboxUnavailable = "outbox_unavailable"
	codeConcurrent        = "concurrent_idempotent_requests"
	codeOtherRequest      = "invalid_idempotent_request"
)

// Send sends a message through the outbox. The outbox stays open that long,
// whatever is loaded meanwhile.
func (d outboxDoor) Send(ctx context.Context, s mailer.Submission) (mailer.Receipt, error) {
	box, release, err := d.app.useOutbox()
	if err != nil {
		e := &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: codeOutboxUnavailable, Err: err}
		d.app.logNotAccepted(s, e)
		return mailer.Receipt{}, e
	}
	defer release()
	r, err := box.Send(ctx, s)
	d.app.logNotAccepted(s, err)
	return r, err
}
