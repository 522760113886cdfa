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
	// lockPause bounds the pause while the storage's lock can't be had: it costs
	// the provider nothing to try.
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
}

// renew renews the token, or joins the renewal under way. The work goes on when
// the caller leaves: cutting it short between the provider's answer and the
// storage would lose the refresh token.
func (s *Source) renew(ctx context.Context, want renewal) error {
	c := s.cell
	issued := -1 // when the call came
	for {
		c.mu.Lock()
		if issued < 0 {
			issued = c.issued
		} else if c.issued > issued {
			c.mu.Unlock()
			return nil // another's renewal did what was wanted
		}
		f := c.flight
		own := f == nil
		if own {
			if !want.force && s.pausedLocked(s.opts.Now()) {
				err := c.failure
				c.mu.Unlock()
				return err
			}
			f = &flight{done: make(chan struct{}), forced: want.force, epoch: c.epoch}
			c.flight = f
			underWay.begin()
			go s.fly(context.WithoutCancel(ctx), f, want)
		}
		c.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
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

// fly does the work of a flight and lands it.
func (s *Source) fly(ctx context.Context, f *flight, want renewal) {
	defer survive(s.opts.Logger, "a token renewal")
	defer underWay.end()
	err := s.fail("refresh", KindTransient, errors.New("the renewal crashed"))
	defer func() {
		c := s.cell
		c.mu.Lock()
		c.flight = nil
		if f.epoch == c.epoch {
			s.settleLocked(err)
		}
		c.mu.Unlock()
		if err != nil { // a nil *Error must not become a non-nil error
			f.err = err
		}
		close(f.done)
	}()
	err = s.obtain(ctx, want)
}

// settleLocked notes how a renewal went and how long that holds.
func (s *Source) settleLocked(err *Error) {
	c := s.cell
	if err == nil {
		c.settledLocked()
		return
	}
	var pause time.Duration
	switch {
	case err.Temporary():
		pause = min(failurePause<<min(c.failures, 10), failurePauseMax)
		if err.Kind == KindAmbiguous && c.failures == 0 {
			pause = ambiguousPause
		}
		c.failures++
		if !c.unlockable.IsZero() {
			pause = min(pause, lockPause)
		}
		pause = max(pause-rand.N(pause/4), err.RetryAfter) //nolint:gosec // jitter
	case err.Kind == KindConfig && !unreadable(err):
		pause = configPause
	default:
		pause = personPause
	}
	now := s.opts.Now()
	c.failure, c.failedAt, c.failedBy, c.notBefore = err, now, s.client, now.Add(pause)
}

// pausedLocked reports whether the last failure answers for further renewals.
func (s *Source) pausedLocked(now time.Time) bool {
	c := s.cell
	if c.failure == nil || !now.Before(c.notBefore) {
		return false
	}
	return c.failure.Kind != KindConfig || c.failedBy == s.client
}
