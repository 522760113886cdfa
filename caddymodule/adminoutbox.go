package caddymodule

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// useOutbox opens the outbox for a call of the administration.
func (a admin) useOutbox() (box *outbox.Outbox, release func(), err error) {
	if a.app.engine == nil {
		return nil, nil, &adminError{kind: adminNotFound, err: errors.New("this server keeps no outbox (`outbox off`): messages are sent while their senders wait")}
	}
	if box, release, err = a.app.useOutbox(); err != nil {
		return nil, nil, &adminError{kind: adminUpstream, err: fmt.Errorf("the outbox cannot be opened: %w", err)}
	}
	return box, release, nil
}

// outboxError makes an error of the administration of one of the outbox.
func outboxError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, outbox.ErrNotFound):
		return &adminError{kind: adminNotFound, err: err}
	case errors.Is(err, outbox.ErrSending):
		return &adminError{kind: adminConflict, err: fmt.Errorf("%w; ask again in a moment what has become of it", err)}
	case errors.Is(err, outbox.ErrState):
		return &adminError{kind: adminConflict, err: fmt.Errorf("%w; retry takes queued, held and failed ones, cancel scheduled, queued and held ones, and DELETE all of them", err)}
	}
	return &adminError{kind: adminUpstream, err: err}
}

// outbox returns the figures of the outbox, with a diagnosis of what keeps messages.
func (a admin) outbox(ctx context.Context, l diagnosis.Language) (outboxView, error) {
	if a.app.engine == nil {
		return outboxView{Engine: "off", Messages: map[outbox.State]int{}, Tenants: []laneView{}}, nil
	}
	box, release, err := a.useOutbox()
	if err != nil {
		return outboxView{}, err
	}
	defer release()
	stats, err := box.Engine().Stats(ctx)
	if err != nil {
		return outboxView{}, outboxError(err)
	}
	lanes, err := box.Engine().Lanes(ctx)
	if err != nil {
		return outboxView{}, outboxError(err)
	}
	v := viewOutbox(stats, lanes, a.app.registry.load(), l)
	v.Engine, v.Shared, v.Accepting = a.app.engineName, a.app.engine.Shared(), true
	if code := a.app.box.refusing.Load(); code != nil {
		v.Accepting, v.Refusing = false, *code
	}
	return v, nil
}

// lanes returns the states of tenants whose messages wait, if they can be read.
func (a admin) lanes(ctx context.Context) (lanes map[string]outbox.Lane, ok bool) {
	if a.app.engine == nil {
		return nil, false
	}
	box, release, err := a.useOutbox()
	if err != nil {
		return nil, false // GET /outbox tells
	}
	defer release()
	lanes, err = box.Engine().Lanes(ctx)
	return lanes, err == nil
}

// messages lists messages, the newest first.
func (a admin) messages(ctx context.Context, f outbox.Filter, l diagnosis.Language) (messagesView, error) {
	box, release, err := a.useOutbox()
	if err != nil {
		return messagesView{}, err
	}
	defer release()
	page, err := box.Engine().List(ctx, f)
	if err != nil {
		return messagesView{}, outboxError(err)
	}
	v := messagesView{Messages: make([]messageView, 0, len(page.Messages)), Next: page.Next}
	for _, m := range page.Messages {
		v.Messages = append(v.Messages, viewMessage(m, l))
	}
	return v, nil
}

// message shows one message.
func (a admin) message(ctx context.Context, id string, l diagnosis.Language) (messageView, error) {
	box, release, err := a.useOutbox()
	if err != nil {
		return messageView{}, err
	}
	defer release()
	m, err := box.Engine().Get(ctx, id)
	if err != nil {
		return messageView{}, outboxError(err)
	}
	return viewMessage(m, l), nil
}

// content returns a message as it is sent. Release must be called when it was
// written.
func (a admin) content(ctx context.Context, id, by string) (c mailer.Content, release func(), err error) {
	box, release, err := a.useOutbox()
	if err != nil {
		return nil, nil, err
	}
	m, err := box.Engine().Get(ctx, id)
	if err == nil {
		c, err = box.Engine().Content(ctx, id)
	}
	if err != nil {
		release()
		return nil, nil, outboxError(err)
	}
	a.app.logger.Info("a message in the outbox was read", "id", id, "tenant", m.Tenant, "by", by)
	return c, release, nil
}

// operation does something with a message, and notes who wanted that.
type operation func(o *outbox.Outbox, ctx context.Context, id, by string) error

// retry makes a message due.
func retry(o *outbox.Outbox, ctx context.Context, id, _ string) error { return o.RetryNow(ctx, id) }

// operate does something with a message, and shows it.
func (a admin) operate(ctx context.Context, name string, do operation, id, by string, l diagnosis.Language) (messageView, error) {
	box, release, err := a.useOutbox()
	if err != nil {
		return messageView{}, err
	}
	defer release()
	if err := do(box, ctx, id, by); err != nil {
		return messageView{}, outboxError(err)
	}
	a.app.logger.Info("an operator has changed a message in the outbox", "operation", name, "id", id, "by", by)
	m, err := box.Engine().Get(ctx, id)
	if err != nil {
		return messageView{}, outboxError(err)
	}
	if m.State == outbox.StateCanceled {
		a.app.count(m.Tenant, resultCanceled, false)
	}
	return viewMessage(m, l), nil
}

// drop forgets a message.
func (a admin) drop(ctx context.Context, id, by string) error {
	box, release, err := a.useOutbox()
	if err != nil {
		return err
	}
	defer release()
	if err := box.Drop(ctx, id); err != nil {
		return outboxError(err)
	}
	a.app.logger.Info("an operator has changed a message in the outbox", "operation", "drop", "id", id, "by", by)
	return nil
}

// pause lets the messages of a tenant wait, and resume lets them go, whatever has
// kept them.
func (a admin) pause(ctx context.Context, tenant, by string, l diagnosis.Language) (laneView, error) {
	return a.setLane(ctx, tenant, l, func(o *outbox.Outbox) error { return o.Pause(ctx, tenant, by) })
}

func (a admin) resume(ctx context.Context, tenant, by string, l diagnosis.Language) (laneView, error) {
	v, err := a.setLane(ctx, tenant, l, func(o *outbox.Outbox) error { return o.Resume(ctx, tenant) })
	if err == nil {
		a.app.logger.Info("an operator has resumed the messages of a tenant", "tenant", tenant, "by", by)
	}
	return v, err
}

func (a admin) setLane(ctx context.Context, tenant string, l diagnosis.Language, set func(*outbox.Outbox) error) (laneView, error) {
	box, release, err := a.useOutbox()
	if err != nil {
		return laneView{}, err
	}
	defer release()
	s := a.app.registry.load()
	stats, err := box.Engine().Stats(ctx)
	if err != nil {
		return laneView{}, outboxError(err)
	}
	if _, left := stats.Tenants[tenant]; s.tenants[tenant] == nil && !left {
		return laneView{}, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no tenant %q", tenant)}
	}
	if err := set(box); err != nil {
		return laneView{}, outboxError(err)
	}
	lanes, err := box.Engine().Lanes(ctx)
	if err != nil {
		return laneView{}, outboxError(err)
	}
	return viewLane(tenant, stats.Tenants[tenant], lanes[tenant], s, l), nil
}
