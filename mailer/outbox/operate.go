package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// ErrState: the message's state does not allow that.
var ErrState = errors.New("the message's state does not allow that")

// in reports why an operation on messages in some states is not for this one.
func (m *Message) in(states ...State) error {
	if slices.Contains(states, m.State) {
		return nil
	}
	return fmt.Errorf("%w: it is %s", ErrState, m.State)
}

// RetryNow makes a message due that is queued, held or failed. One that is held or
// failed lives once more as long as its tenant's messages do. One that failed goes to
// all who have not got it. The error may be ErrNotFound, ErrSending or ErrState.
func (o *Outbox) RetryNow(ctx context.Context, id string) error {
	return o.engine.Change(ctx, id, func(m *Message) error {
		if err := m.in(StateQueued, StateHeld, StateFailed); err != nil {
			return err
		}
		now := time.Now().UTC()
		if m.State != StateQueued {
			p, _ := o.settings.Load().policy(m.Tenant)
			m.Expires = now.Add(p.Lifetime)
		}
		if m.State == StateFailed {
			m.reopen()
		}
		m.Doubts = 0
		m.State, m.Due = StateQueued, now
		return nil
	})
}

// reopen makes a message that failed one that may be sent.
func (m *Message) reopen() {
	m.Finished, m.Forget, m.Attempts = time.Time{}, time.Time{}, 0
	for i := range m.Recipients {
		if r := &m.Recipients[i]; r.Kind != mailer.KindNone {
			r.Done = false
		}
	}
}

// Cancel gives up a message that is scheduled, queued or held, and notes who wanted
// that. The error may be ErrNotFound, ErrSending or ErrState.
func (o *Outbox) Cancel(ctx context.Context, id, by string) error {
	err := o.engine.Change(ctx, id, func(m *Message) error {
		if err := m.in(StateScheduled, StateQueued, StateHeld); err != nil {
			return err
		}
		now := time.Now().UTC()
		m.State, m.Due, m.By = StateCanceled, time.Time{}, by
		m.Finished, m.Forget = now, now.Add(o.settings.Load().KeepSent)
		return nil
	})
	if err == nil {
		o.waiters.tell(id, time.Time{}, func() answer { return answer{err: canceled()} })
	}
	return err
}

// Reschedule sets the time before which a message must not go that is scheduled or
// queued. A time that has passed makes it due. The error may be ErrNotFound,
// ErrSending or ErrState.
func (o *Outbox) Reschedule(ctx context.Context, id string, at time.Time) error {
	return o.engine.Change(ctx, id, func(m *Message) error {
		if err := m.in(StateScheduled, StateQueued); err != nil {
			return err
		}
		p, _ := o.settings.Load().policy(m.Tenant)
		now := time.Now()
		m.State, m.Due = StateScheduled, at.UTC()
		if !at.After(now) {
			m.State, m.Due = StateQueued, now.UTC()
		}
		m.Expires = m.Due.Add(p.Lifetime)
		return nil
	})
}

// Drop forgets a message and its content. The error may be ErrNotFound or ErrSending.
func (o *Outbox) Drop(ctx context.Context, id string) error {
	err := o.engine.Drop(ctx, id)
	if err == nil {
		o.waiters.tell(id, time.Time{}, func() answer { return answer{err: canceled()} })
	}
	return err
}

// Pause sends no more messages of a tenant, until Resume, and notes who wanted that.
func (o *Outbox) Pause(ctx context.Context, tenant, by string) error {
	return o.setLane(ctx, tenant, Lane{State: LanePaused, Since: time.Now().UTC(), By: by})
}

// Resume sends the messages of a tenant again, whoever or whatever stopped its lane, as
// Hasten does.
func (o *Outbox) Resume(ctx context.Context, tenant string) error {
	return o.openLane(ctx, tenant)
}

// Unpark sends the messages of a tenant again whose lane is parked or resting, as after
// a change of its settings or a new sign-in. What an operator paused stays paused.
func (o *Outbox) Unpark(ctx context.Context, tenant string) error {
	all, err := o.engine.Lanes(ctx)
	if err != nil {
		return err
	}
	switch all[tenant].State {
	case LaneParked, LaneResting:
		return o.openLane(ctx, tenant)
	default:
		return nil
	}
}

func (o *Outbox) openLane(ctx context.Context, tenant string) error {
	if err := o.setLane(ctx, tenant, Lane{}); err != nil {
		return err
	}
	return o.Hasten(ctx, tenant)
}

// hastenPage is how many messages Hasten reads at once.
const hastenPage = 500

// Hasten makes the messages of a tenant due whose last try failed for a reason that had
// nothing to do with them, such as a server that could not be reached. It reads all that
// are queued, a page at a time, so it may take seconds with very many; what it has done
// when ctx ends stays.
func (o *Outbox) Hasten(ctx context.Context, tenant string) error {
	f := Filter{Tenant: tenant, State: StateQueued, Limit: hastenPage}
	for {
		page, err := o.engine.List(ctx, f)
		if err != nil {
			return err
		}
		for _, m := range page.Messages {
			if !m.kept(time.Now()) {
				continue
			}
			err := o.engine.Change(ctx, m.ID, func(m *Message) error {
				now := time.Now()
				if !m.kept(now) {
					return ErrState
				}
				m.Due = now.UTC()
				return nil
			})
			switch {
			case err == nil, errors.Is(err, ErrState), errors.Is(err, ErrSending), errors.Is(err, ErrNotFound):
			default:
				return err
			}
		}
		if f.Before = page.Next; f.Before == "" {
			return nil
		}
	}
}

// kept reports whether a message waits for its next try only since its lane's way was
// closed.
func (m *Message) kept(now time.Time) bool {
	if m.State != StateQueued || !m.Due.After(now) || m.Failure == nil {
		return false
	}
	e := m.Failure.Err()
	return e.CannotSend() || e.Stage == mailer.StageLimit
}

func (o *Outbox) setLane(ctx context.Context, tenant string, l Lane) error {
	if err := o.engine.SetLane(ctx, tenant, l); err != nil {
		return err
	}
	before := o.lanes.set(tenant, time.Now(), l)
	o.changed(o.settings.Load(), tenant, before, l)
	return nil
}
