package tokens

import "time"

// announceAhead is for how many refreshes one write announces them at most, and
// announceUnpaced where no rate is kept.
const (
	announceAhead   = 64
	announceUnpaced = 256
	// announceLead is up to how many of those that are noted are left when the next
	// are: each hand makes two of them meanwhile, which takes longer than a write.
	announceLead = 2 * paceParallel
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
	noted := n.holds(list[0])
	// Halfway through the last ones the next are noted, if there are so many.
	if noted && n.knows(l.asks.peek(min(ahead, ahead/2+1, announceLead))) {
		return
	}
	for _, next := range l.asks.peek(ahead) {
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

// cuttable reports whether a refresh that is cut short may cost the grant.
func (s *Source) cuttable() bool {
	return s.client.provider.Rotation != RotationNone && !s.unattended()
}

// announceTries are the waits between tries to note a refresh. After them it is
// put off while the old token lasts, and then made without.
var announceTries = []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond}

// announce notes durably that a refresh token is about to be presented.
func (s *Source) announce(t *Token) (err error) {
	for _, wait := range announceTries {
		time.Sleep(wait)
		if err = s.store.intents.present(s.intent(t)); err == nil {
			return nil
		}
	}
	s.log().Warn("a refresh could not be noted beforehand; it is put off while the old token lasts, but if two instances make it then, or one ends in it, a person may have to sign in again; check the storage",
		"error", err)
	return err
}

func (s *Source) intent(t *Token) intent {
	return intent{Account: s.account, Generation: t.Generation, At: s.now().UTC()}
}
