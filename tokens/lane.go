package tokens

import (
	"context"
	"errors"
	"time"
)

// lane is the work for the accounts of one provider.
type lane struct {
	pacer *pacer
	// client is the one whose settings are in force.
	client *Client
	// looks are at the storage, and asks are refreshes. Watching has hands of its
	// own: it would hold them up with a slow storage.
	looks, asks, watches crew
}

const (
	lookHands  = 4
	watchHands = 1
)

// look looks at the storage. Where that is not enough, the provider is to be
// asked.
func (d *duty) look(l *lane, s *Source) {
	ask := false
	defer func() {
		if !ask {
			d.replan(s)
		}
	}()
	defer survive(d.logger(), "the refresher")
	_, _, ahead := s.turn(d.now(), d.upkeep.Load())
	err := s.renew(context.WithoutCancel(d.ctx), renewal{look: true, ahead: ahead})
	switch e, _ := errors.AsType[*Error](err); {
	case err == nil:
		s.known = true
	case e == errAsk:
		s.known = true
		now := d.now()
		if at, _, _ := s.turn(now, d.upkeep.Load()); at <= now.UnixNano() {
			ask = true
			l.asks.add(d, s)
		}
	case e != nil && e.Kind == KindNeedsPerson:
		if !s.known && d.Unauthorized != nil {
			d.Unauthorized(s.account)
		}
		s.known = true
		s.remind(e)
	}
}

// ask renews a token, in its turn. Failures are logged where they happen and
// kept with the token.
func (d *duty) ask(l *lane, s *Source) {
	defer d.replan(s)
	defer survive(d.logger(), "the refresher")
	defer s.store.intents.withdraw(s.account)
	if now := d.now(); !d.due(s, now) {
		return
	}
	p, err := l.pacer.background(d.ctx)
	if err != nil {
		return // the work ends
	}
	p.onLend = func() { l.asks.more(d) }
	defer func() {
		if p.release() {
			l.asks.fewer()
		}
	}()
	now := d.now()
	if !d.due(s, now) {
		return // somebody could not wait
	}
	d.announce(l, s)
	_, _, ahead := s.turn(now, d.upkeep.Load())
	_ = s.renew(context.WithoutCancel(d.ctx), renewal{ahead: ahead, permit: p})
}

func (d *duty) due(s *Source, now time.Time) bool {
	at, _, _ := s.turn(now, d.upkeep.Load())
	return at <= now.UnixNano()
}

// watch looks for what another instance has done to an account that needs no
// renewal.
func (d *duty) watch(s *Source) {
	defer d.replan(s)
	defer survive(d.logger(), "watching the storage")
	_ = s.notice(d.ctx) // a storage in trouble shows when tokens are due
}
