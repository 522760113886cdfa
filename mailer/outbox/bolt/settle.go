package bolt

import (
	"errors"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// unreadablePause is how long a message waits that cannot be read.
const unreadablePause = time.Hour

// settled is an outcome that is ready to be stored.
type settled struct {
	header     header
	sealed     []byte
	lane       *outbox.Lane
	sealedLane []byte
}

// settle makes the record that an outcome leads to.
func (e *Engine) settle(m *outbox.Message, out outbox.Outcome) (*settled, error) {
	now := time.Now().UTC()
	kept := keptInline // any: what is kept stays
	m.Due = time.Time{}
	switch out.Verdict {
	case outbox.Sent:
		m.State, kept = outbox.StateSent, keptNowhere
	case outbox.Dead:
		m.State = outbox.StateFailed
	case outbox.Hold:
		m.State = outbox.StateHeld
	default:
		m.State, m.Due = outbox.StateQueued, out.At
		if out.At.IsZero() {
			m.Due = now
		}
	}
	if m.State.Final() && m.Finished.IsZero() {
		m.Finished = now
	}
	if err := checkMessage(m); err != nil {
		return nil, err
	}
	sealed, err := e.seal(nil, m)
	if err != nil {
		return nil, err
	}
	s := &settled{header: newHeader(m, kept, 0), sealed: sealed, lane: out.Lane}
	if h := &s.header; h.waits() && !h.sweep.IsZero() && !h.sweep.After(now) && h.due.After(h.sweep) {
		h.sweep = h.due // it was handed out since it expired
	}
	if out.Lane != nil {
		lane := *out.Lane
		s.lane = &lane
		s.sealedLane, err = e.sealLane(m.Tenant, lane)
	}
	return s, err
}

// settle stores an outcome. A message that is not being sent has its outcome already.
func (b *batch) settle(id string, s *settled) error {
	old, _, err := b.get(id)
	if errors.Is(err, outbox.ErrNotFound) {
		return nil
	}
	if err != nil || old.state != outbox.StateSending {
		return err
	}
	now := s.header
	now.tenant, now.size = old.tenant, old.size
	if now.kept != keptNowhere {
		now.kept = old.kept
	}
	b.put(id, old, &now, s.sealed)
	b.touch(b.lane(old.tenant))
	return nil
}

// postpone lets a message wait that cannot be read.
func (b *batch) postpone(id string) error {
	old, sealed, err := b.get(id)
	if err != nil || old.state != outbox.StateSending {
		return err
	}
	now := *old
	now.state, now.due = outbox.StateQueued, b.now.Add(unreadablePause)
	b.put(id, old, &now, sealed)
	b.touch(b.lane(old.tenant))
	return nil
}
