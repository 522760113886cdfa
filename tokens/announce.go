package tokens

import (
	"slices"
)

// announceAhead is for how many refreshes one write announces them at most, and
// announceUnpaced where no rate is kept.
const (
	announceAhead   = 64
	announceUnpaced = 256
)

// announce notes a refresh, and with it those of about the next second. It waits
// for the write only where there was none ahead of time.
func (d *duty) announce(l *lane, s *Source) {
	n := s.store.intents
	list := s.announced(nil)
	if len(list) == 0 {
		return
	}
	ahead := announceUnpaced
	if rate := l.pacer.perSecond(); rate > 0 {
		ahead = int(min(rate, announceAhead))
	}
	queue := l.asks.peek(ahead)
	noted := n.holds(list[0])
	if noted {
		// Halfway through the last ones the next are noted, if there are so many.
		half := slices.IndexFunc(queue, func(next *Source) bool { return !n.knows(next.account) })
		if half < 0 || half > ahead/2 {
			return
		}
	}
	for _, next := range queue {
		if next.store == s.store {
			list = next.announced(list)
		}
	}
	if noted {
		n.begin(list...)
		return
	}
	_ = n.note(list...) // the refresh itself tries again
}

// announced adds the refresh that is next to a list, if it is to be announced.
func (s *Source) announced(list []intent) []intent {
	s.cell.mu.Lock()
	t := s.cell.newest
	s.cell.mu.Unlock()
	if t == nil || !s.cuttable() {
		return list
	}
	return append(list, s.intent(t))
}
