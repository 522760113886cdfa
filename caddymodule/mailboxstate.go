package caddymodule

import (
	"sync"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// mailboxState is what a mailbox has sent of late, and how its server took it. It is
// found again whatever its limits are: those of the newest configuration that has
// started are in force.
type mailboxState struct {
	limiter mailer.Limiter

	mu     sync.Mutex
	claims claims[holdings, limits]
}

// Destruct does nothing: there is memory only.
func (*mailboxState) Destruct() error { return nil }

// heldMailbox is a mailbox and the limits that this configuration has for it. They are
// in force when it has begun.
type heldMailbox struct {
	state  *mailboxState
	limits limits
	begun  bool
}

// limiter returns the limiter of a mailbox. Unless it is new, the limits wait for
// [holdings.begin].
func (h *holdings) limiter(key mailboxHash, l limits) (*mailer.Limiter, error) {
	m, err := take(&h.mailboxes, mailboxes, key, func() *mailboxState {
		return &mailboxState{limiter: mailer.Limiter{
			Rate: l.rate, Per: l.window, RecipientsPerDay: l.recipientsPerDay, Connections: l.connections,
		}}
	}, func(s *mailboxState) *heldMailbox { return &heldMailbox{state: s, limits: l} })
	if err != nil {
		return nil, err
	}
	if m.limits != l { // changed since
		m.limits, m.begun = l, false
	}
	return &m.state.limiter, nil
}

// begin puts the limits in force that are not yet, of a configuration that starts or
// has changed.
func (h *holdings) begin() {
	for _, m := range h.mailboxes {
		if !m.begun {
			m.begun = true
			m.state.hold(h, m.limits)
		}
	}
}

func (s *mailboxState) hold(by *holdings, l limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims.add(by, l)
	s.setLocked()
}

// withdraw has the limits of a configuration that ends count no more.
func (s *mailboxState) withdraw(by *holdings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.claims.newest()
	s.claims.withdraw(by)
	if before != s.claims.newest() {
		s.setLocked()
	}
}

func (s *mailboxState) setLocked() {
	c := s.claims.newest()
	if c == nil {
		return
	}
	l := c.want
	s.limiter.Set(l.rate, l.window, l.recipientsPerDay, l.connections)
}
