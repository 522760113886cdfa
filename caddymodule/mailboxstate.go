package caddymodule

import (
	"sync"

	"github.com/caddyserver/caddy/v2"

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

// heldMailbox is a mailbox and the limits that this configuration has for it.
type heldMailbox struct {
	state  *mailboxState
	limits limits
}

// limiter returns the limiter of a mailbox. Unless it is new, the limits wait for
// [holdings.begin].
func (h *holdings) limiter(key mailboxKey, l limits) (*mailer.Limiter, error) {
	if m, ok := h.mailboxes[key]; ok {
		return &m.state.limiter, nil
	}
	v, _, err := mailboxes.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &mailboxState{limiter: mailer.Limiter{
			Rate: l.rate, Per: l.window, RecipientsPerDay: l.recipientsPerDay, Connections: l.connections,
		}}, nil
	})
	if err != nil {
		return nil, err
	}
	if h.mailboxes == nil {
		h.mailboxes = make(map[mailboxKey]heldMailbox)
	}
	state := v.(*mailboxState)
	h.mailboxes[key] = heldMailbox{state, l}
	return &state.limiter, nil
}

// begin puts the limits of a configuration in force that starts.
func (h *holdings) begin() {
	for _, m := range h.mailboxes {
		m.state.hold(h, m.limits)
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
