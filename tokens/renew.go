package tokens

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// failurePause is how long the first failure answers for further renewals;
	// each further failure doubles it, up to failurePauseMax.
	failurePause    = 5 * time.Second
	failurePauseMax = 15 * time.Minute
	// ambiguousPause follows a first answer that was lost: the provider may
	// honour the old refresh token for some seconds.
	ambiguousPause = time.Second
	// lockPause bounds the pause while the storage's lock can't be had, or a token
	// is not stored: it costs the provider nothing to try.
	lockPause = time.Minute
	// personPause is how often the storage is asked whether somebody has signed
	// in, perhaps at another instance. The provider is not.
	personPause = 5 * time.Second
	// configPause is how often a provider that refuses our settings is asked
	// again. A new configuration need not wait.
	configPause = 5 * time.Minute
)

// renewal is what a caller wants of a renewal.
type renewal struct {
	// onDemand is content with any token that can be handed out.
	onDemand bool
	// ahead renews a token that will be due in this time.
	ahead time.Duration
	// force renews even a fresh token.
	force bool
	// look only looks at the storage: the result is errAsk where that is not
	// enough.
	look bool
	// permit is the background's turn at the provider. Without one the renewal is
	// somebody's who waits for it.
	permit *permit
	// cut, with force, takes up a refresh that was cut short, where the stored
	// token is still the one that it began with. It waits for no turn.
	cut *intent
}

// errAsk is the result of a look that shows that more is to be done.
var errAsk = &Error{Op: "refresh", Kind: KindTransient, Err: errors.New("the provider must be asked")}

// renew renews the token, or joins the renewal under way. The work goes on when
// the caller leaves: cutting it short between the provider's answer and the
// storage would lose the refresh token.
func (s *Source) renew(ctx context.Context, want renewal) error {
	c := s.cell
	var issued uint32 // when the call came
	for again := false; ; again = true {
		c.mu.Lock()
		if !again {
			issued = c.issued
		} else if c.issued != issued {
			c.mu.Unlock()
			return nil // another's renewal did what was wanted
		}
		f := c.flight
		own := f == nil
		if own {
			if !want.force && s.pausedLocked(s.now()) {
				err := c.trouble.failure
				c.mu.Unlock()
				return err
			}
			f = &flight{done: make(chan struct{}), forced: want.force, epoch: c.epoch}
			c.flight = f
			underWay.begin()
		}
		c.mu.Unlock()
		switch {
		case !own:
		case ctx.Done() == nil: // the caller does not leave
			s.fly(ctx, f, want)
		default:
			go s.fly(context.WithoutCancel(ctx), f, want)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f.err == error(errAsk) && !want.look {
			continue // that was a look, and more is wanted
		}
		if own || f.forced || !want.force {
			return f.err
		}
	}
}

// claim keeps renewals away until the flight that it returns is landed. It is
// under way then.
func (s *Source) claim(ctx context.Context) (*flight, error) {
	c := s.cell
	for {
		c.mu.Lock()
		f := c.flight
		if f == nil {
			f = &flight{done: make(chan struct{})}
			c.flight = f
			underWay.begin()
			c.mu.Unlock()
			return f, nil
		}
		c.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// land ends a flight that claim began. The error is that of those who wait for
// it; errAsk has them try for themselves.
func (s *Source) land(f *flight, err error) {
	c := s.cell
	c.mu.Lock()
	c.flight = nil
	c.pokeLocked()
	c.mu.Unlock()
	f.err = err
	close(f.done)
	underWay.end()
}

// fly does the work of a flight and lands it.
func (s *Source) fly(ctx context.Context, f *flight, want renewal) {
	defer survive(s.log(), "a token renewal")
	defer underWay.end()
	err := s.fail("refresh", KindTransient, errors.New("the renewal crashed"))
	defer func() {
		c := s.cell
		c.mu.Lock()
		c.flight = nil
		blind := false
		if f.epoch == c.epoch && err != errAsk {
			blind = err != nil && err.Op == opLook && err.Kind != KindNeedsPerson && !c.failedSoLocked(err)
			s.settleLocked(err)
		}
		c.pokeLocked()
		c.mu.Unlock()
		if blind {
			s.log().Warn("a token can't be read, and is not refreshed until it can; check the storage and its key", "error", err)
		}
		if err != nil { // a nil *Error must not become a non-nil error
			f.err = err
		}
		close(f.done)
	}()
	err = s.obtain(ctx, want)
}

// failedSoLocked reports whether the last renewal failed in the same way.
func (c *Cell) failedSoLocked(err *Error) bool {
	b := c.trouble
	return b != nil && b.failure != nil && b.failure.Error() == err.Error()
}

// settleLocked notes how a renewal went and how long that holds.
func (s *Source) settleLocked(err *Error) {
	c := s.cell
	if err == nil {
		c.settledLocked()
		return
	}
	b := c.troubleLocked()
	now := s.now()
	var pause time.Duration
	switch {
	case err.Temporary():
		pause = min(failurePause<<min(b.failures, 10), failurePauseMax)
		if err.Kind == KindAmbiguous && b.failures == 0 {
			pause = ambiguousPause
		}
		b.failures++
		if !b.unlockable.IsZero() || err.Op == opNote || c.unsaved && (err.Op == opLook || err.Op == opKeep) {
			pause = min(pause, lockPause)
		}
		pause = max(pause-rand.N(pause/4), err.RetryAfter) //nolint:gosec // jitter
	case err.Kind == KindConfig && !unreadable(err) && s.client.circuit.refusal(now) == nil:
		pause = configPause
	default:
		pause = personPause // which asks the storage at most; the circuit keeps the provider
	}
	b.failure, b.failedAt, b.failedBy, b.notBefore = err, now, s.client, now.Add(pause)
}

// pausedLocked reports whether the last failure answers for further renewals.
func (s *Source) pausedLocked(now time.Time) bool {
	b := s.cell.trouble
	if b == nil || b.failure == nil || !now.Before(b.notBefore) {
		return false
	}
	return b.failure.Kind != KindConfig || b.failedBy == s.client
}
