package caddymodule

import (
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// mailboxState is what a mailbox has sent of late, and how its server took it. It is
// found again whatever its limits are: those of the newest configuration that has
// started are in force.
type mailboxState struct {
	limiter mailer.Limiter

	mu sync.Mutex
	// words are those of the configurations that have started, the newest last.
	words []limitsWord
}

// limitsWord is what a configuration holds a mailbox to.
type limitsWord struct {
	by     *holdings
	limits limits
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
	s.words = append(s.words, limitsWord{by, l})
	s.setLocked()
}

// withdraw takes a configuration's word back. If it is the newest, since another
// part of it could not start, the one before is in force again.
func (s *mailboxState) withdraw(by *holdings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.words)
	if n == 0 {
		return
	}
	newest := s.words[n-1].by
	s.words = slices.DeleteFunc(s.words, func(w limitsWord) bool { return w.by == by })
	if newest == by && len(s.words) > 0 {
		s.setLocked()
	}
}

func (s *mailboxState) setLocked() {
	l := s.words[len(s.words)-1].limits
	s.limiter.Set(l.rate, l.window, l.recipientsPerDay, l.connections)
}
