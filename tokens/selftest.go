package tokens

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// prefixSelfTest holds what the self-test stores while it runs.
const prefixSelfTest = "oauth_mail/selftest"

const (
	// probeTimeout bounds one operation of the self-test, whether the storage
	// obeys its context or not.
	probeTimeout = 10 * time.Second
	// lockHeld is how long the self-test holds a lock that somebody else wants.
	// Locks that are kept alive in some way have to show that they are: file
	// storages' last 10 seconds, Redis's 5. And Consul's, after 15 seconds of
	// waiting, let in a second one.
	lockHeld = 17 * time.Second
	// slowOperation is from when on a storage counts as slow. A renewal makes
	// some six operations, and a person who signs in waits for as many.
	slowOperation = 500 * time.Millisecond
	// clockTolerance is how far apart clocks may be. A minute is what a token's
	// times allow for.
	clockTolerance = 10 * time.Second
	// testLocks is how many names the self-test's locks have. They are few since
	// a process that is killed may leave one behind.
	testLocks = 32
	// leftover is how old something is that another self-test has left.
	leftover = time.Hour
)

// SelfTest tries out what a storage really does: storages differ in what they
// promise, and some in what they keep of it. Nothing but its own keys is touched.
type SelfTest struct {
	Storage Storage
	// Second is another handle on the same storage, such as another process has.
	// Optional.
	Second Storage
	// Modified tells when a key was last written, by the storage's clock; zero
	// where it does not know. Optional.
	Modified func(ctx context.Context, key string) (time.Time, error)
}

// StorageReport is what a self-test has found.
type StorageReport struct {
	// Began is when the test began, Ended when it ended; zero while it runs.
	Began, Ended time.Time
	// Probes are the things that were tried, in order.
	Probes []StorageProbe
}

// StorageProbe is one thing that was tried.
type StorageProbe struct {
	Name   string
	Result ProbeResult
	// Took is how long the storage's slowest operation took.
	Took time.Duration
	// Finding is what the storage lacks and what follows from it, in words;
	// empty with [ProbeOK].
	Finding string
}

// ProbeResult is how a probe went.
type ProbeResult string

// The results.
const (
	ProbeOK       ProbeResult = "ok"
	ProbeLacking  ProbeResult = "lacking"
	ProbeUntested ProbeResult = "untested"
)

// Findings returns what the storage lacks; nothing where it is as it should be.
func (r *StorageReport) Findings() []string {
	var found []string
	for _, p := range r.Probes {
		if p.Result == ProbeLacking {
			found = append(found, p.Finding)
		}
	}
	return found
}

// Run makes the test. It takes some 20 seconds, nearly all of them spent
// holding a lock. Each operation is bounded in time; one that never returns
// leaves a goroutine behind. Progress, where it is not nil, gets a report after
// each probe, and the last one, too. A test that the context ends has no end in
// its report.
func (st *SelfTest) Run(ctx context.Context, progress func(*StorageReport)) *StorageReport {
	t := &selfTest{SelfTest: st, key: prefixSelfTest + "/" + randomName(), report: &StorageReport{Began: time.Now()}, progress: progress}
	t.values(ctx)
	t.locks(ctx)
	if ctx.Err() == nil {
		t.report.Ended = time.Now()
		t.show()
	}
	return t.report
}

// selfTest is a test under way.
type selfTest struct {
	*SelfTest
	key      string
	report   *StorageReport
	progress func(*StorageReport)
	took     time.Duration // the slowest operation of the probe under way
}

func randomName() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// add ends a probe.
func (t *selfTest) add(name string, result ProbeResult, finding string) {
	t.report.Probes = append(t.report.Probes, StorageProbe{Name: name, Result: result, Took: t.took, Finding: finding})
	t.took = 0
	t.show()
}

func (t *selfTest) show() {
	if t.progress == nil {
		return
	}
	shown := *t.report
	shown.Probes = slices.Clone(shown.Probes)
	t.progress(&shown)
}

// judge ends a probe: without a finding it went well.
func (t *selfTest) judge(name, finding string) {
	result := ProbeOK
	if finding != "" {
		result = ProbeLacking
	}
	t.add(name, result, finding)
}

// errHangs: an operation went on after its time.
var errHangs = errors.New("no answer in time")

// do makes one operation, no longer than probeTimeout.
func (t *selfTest) do(ctx context.Context, operation func(context.Context) error) error {
	began := time.Now()
	err := bounded(ctx, probeTimeout, operation)
	t.took = max(t.took, time.Since(began))
	return err
}

func bounded(ctx context.Context, limit time.Duration, operation func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v", p)
			}
		}()
		done <- operation(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// One that obeys its context says so itself.
	select {
	case err := <-done:
		return err
	case <-time.After(100 * time.Millisecond):
		return errHangs
	}
}

func (t *selfTest) store(ctx context.Context, value []byte) error {
	return t.do(ctx, func(ctx context.Context) error { return t.Storage.Store(ctx, t.key, value) })
}

func (t *selfTest) load(ctx context.Context, key string) (value []byte, err error) {
	type result struct{ value []byte }
	got := make(chan result, 1)
	err = t.do(ctx, func(ctx context.Context) error {
		v, err := t.Storage.Load(ctx, key)
		got <- result{v}
		return err
	})
	if err == nil {
		value = (<-got).value
	}
	return value, err
}

func (t *selfTest) list(ctx context.Context, prefix string) (keys []string, err error) {
	got := make(chan []string, 1)
	err = t.do(ctx, func(ctx context.Context) error {
		k, err := t.Storage.List(ctx, prefix, false)
		got <- k
		return err
	})
	if !errors.Is(err, errHangs) {
		select {
		case keys = <-got:
		default: // it panicked
		}
	}
	return keys, err
}

// remove deletes a key, where it is there.
func (t *selfTest) remove(ctx context.Context, key string) error {
	err := t.do(ctx, func(ctx context.Context) error { return t.Storage.Delete(ctx, key) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
