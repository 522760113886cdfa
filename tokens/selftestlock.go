package tokens

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// locks tries whether locks exclude: two goroutines of this process, and two
// handles, at the same time.
func (t *selfTest) locks(ctx context.Context) {
	second := make(chan lockTrial, 1)
	n := rand.IntN(testLocks) //nolint:gosec // no secret
	if t.Second != nil {
		go func() { second <- tryLocks(ctx, t.Storage, t.Second, n+testLocks) }()
	}
	trial := tryLocks(ctx, t.Storage, t.Storage, n)
	const follows = "now and then two instances refresh a token at once, which some providers answer by ending the sign-in"
	t.took = trial.took
	t.lock("lock, within this process", trial, "inside one process this storage's lock lets two in: harmless, since a process works on each account once at a time")
	if t.Second == nil {
		finding := "another process cannot be played with this storage"
		if trial.lets {
			finding += "; since its lock does not hold here, run one instance only, or accept that " + follows
			t.add("lock, between instances", ProbeLacking, finding)
			return
		}
		t.add("lock, between instances", ProbeUntested, finding)
		return
	}
	trial = <-second
	t.took = trial.took
	t.lock("lock, between instances", trial, "this storage does not lock: run one instance only, or accept that "+follows)
}

func (t *selfTest) lock(name string, trial lockTrial, finding string) {
	switch {
	case trial.err != nil:
		t.judge(name, fmt.Sprintf("no lock can be had (%v): each refresh fails until that has lasted ten minutes, and from then on goes without a lock; mend the storage, a lock file that cannot be read for one", trial.err))
	case trial.lets && trial.after > 0:
		t.judge(name, fmt.Sprintf("%s (the second one was let in after %v)", finding, trial.after.Round(time.Second)))
	case trial.lets:
		t.judge(name, finding)
	case trial.unlock != nil:
		t.judge(name, fmt.Sprintf("a lock that is given back cannot be had again (%v): after each refresh of an account the next one has to wait until the lock ends by itself", trial.unlock))
	default:
		t.judge(name, "")
	}
}

// lockTrial is how a lock was seen to behave.
type lockTrial struct {
	err    error         // the lock could not be had at all
	lets   bool          // it let in a second one
	after  time.Duration // how long that one had to wait
	unlock error         // given back it could not be had again
	took   time.Duration
}

// tryLocks takes a lock by one handle while the other one wants it.
func tryLocks(ctx context.Context, one, other Storage, n int) (trial lockTrial) {
	// Some storages keep a lock no longer than the context it was taken with.
	held, release := context.WithCancel(ctx)
	defer release()
	var name string
	// The test of another instance may hold the lock just now.
	for try := range 2 {
		name = fmt.Sprintf("oauth_mail_selftest_%02d", (n+try)%(2*testLocks))
		began := time.Now()
		trial.err = take(held, one, name, lockHeld+probeTimeout)
		trial.took = time.Since(began)
		if trial.err == nil || ctx.Err() != nil {
			break
		}
	}
	if trial.err != nil {
		return trial
	}
	began := time.Now()
	err := take(held, other, name, lockHeld)
	trial.after = time.Since(began)
	trial.lets = err == nil
	if trial.after < time.Second {
		trial.after = 0
	}
	if !trial.lets && time.Since(began) < lockHeld {
		// It refuses at once and does not wait. That excludes, too, while it lasts.
		select {
		case <-ctx.Done():
		case <-time.After(lockHeld - time.Since(began)):
		}
		trial.lets = take(held, other, name, time.Second) == nil
		trial.after = time.Since(began)
	}
	err = giveBack(ctx, one, name)
	if trial.lets {
		_ = giveBack(ctx, other, name) // the first may have ended both
		return trial
	}
	if err == nil {
		if err = take(held, other, name, probeTimeout); err == nil {
			_ = giveBack(ctx, other, name)
		}
	}
	trial.unlock = err
	return trial
}

// errNoLock: a lock was not had in time.
var errNoLock = errors.New("it is held by another all the time, or does not answer")

// take takes a lock within a time. One that comes later is given back. The
// context given is that of the lock; the time is only for the taking.
func take(ctx context.Context, s Storage, name string, limit time.Duration) error {
	taking, cancel := context.WithCancel(ctx)
	got := make(chan error)
	late := make(chan struct{})
	go func() {
		err := func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panic: %v", p)
				}
			}()
			return s.Lock(taking, name)
		}()
		select {
		case got <- err:
		case <-late:
			if err == nil {
				_ = giveBack(ctx, s, name)
			}
		}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-got:
		if err != nil {
			cancel()
			return err
		}
		context.AfterFunc(ctx, cancel)
		return nil
	case <-timer.C:
	}
	close(late)
	cancel()
	return errNoLock
}

// giveBack gives a lock back, also when the context has ended.
func giveBack(ctx context.Context, s Storage, name string) error {
	return bounded(context.WithoutCancel(ctx), probeTimeout, func(ctx context.Context) error { return s.Unlock(ctx, name) })
}
