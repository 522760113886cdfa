package tokens

import (
	"context"
	"time"
)

// end waits for the work under way, and goes on showing others that it is.
func (d *duty) end() {
	landed := make(chan struct{})
	go func() {
		defer close(landed)
		d.wg.Wait()
		for _, s := range *d.sources.Load() {
			s.detach(d.plan)
		}
		d.leave()
	}()
	tick := time.NewTicker(intentBeat)
	defer tick.Stop()
	for {
		select {
		case <-landed:
			return
		case <-tick.C:
			if d.store != nil {
				d.store.intents.beat()
			}
		}
	}
}

// leave waits for renewals that somebody else has begun, and makes a last try to
// store what is in memory only.
func (d *duty) leave() {
	slots := make(chan struct{}, recoverHands)
	for _, s := range *d.sources.Load() {
		if s.idle() {
			continue
		}
		slots <- struct{}{}
		d.wg.Go(func() {
			defer survive(d.logger(), "storing a token at the end")
			defer func() { <-slots }()
			s.leave()
		})
	}
	d.wg.Wait()
	if d.store != nil {
		d.store.intents.leave()
	}
}

// part does the same for a source that is no longer to be looked after.
func (d *duty) part(s *Source) {
	if s.idle() {
		return
	}
	d.wg.Go(func() {
		defer survive(d.logger(), "storing the token of an account that was removed")
		s.leave()
	})
}

// idle reports whether nothing of the account is under way or left to store.
func (s *Source) idle() bool {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flight == nil && !c.unsaved
}

// leave is that of one source. Where another refresher looks after the account
// by now, that one goes on trying.
func (s *Source) leave() {
	ctx := context.Background()
	f, err := s.claim(ctx)
	if err != nil {
		return
	}
	defer s.land(f, errAsk)
	c := s.cell
	c.mu.Lock()
	others := c.views != nil
	c.mu.Unlock()
	if others || c.onlyCopy() == nil {
		return
	}
	if _, saved, err := s.secure(ctx, renewal{}); !saved && c.onlyCopy() != nil {
		s.log().Error("a new token could not be stored and is in memory only, and no longer looked after; with the end of this process a person may have to sign in again; check the storage",
			"error", err)
	}
}
