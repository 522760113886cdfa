package tokens

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
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

// values tries storing, reading, listing and deleting. Without storing there is
// nothing else to try.
func (t *selfTest) values(ctx context.Context) {
	// The time comes first: it tells leftovers. The rest makes it as long as a
	// record of some thousand octets.
	value := func(n int) []byte {
		head := time.Now().UTC().Format(time.RFC3339Nano) + fmt.Sprintf(" %d ", n)
		return append([]byte(head), bytes.Repeat([]byte{0x00, 0xff, '\n', 0x80}, 1000)...)
	}
	first := value(0)
	earliest := time.Now()
	err := t.store(ctx, first)
	latest := time.Now()
	defer func() {
		_ = t.remove(context.WithoutCancel(ctx), t.key)
		t.took = 0
	}()
	if err != nil {
		t.judge("store", fmt.Sprintf("nothing can be stored (%v): sign-ins fail, and what is refreshed is kept in memory only and lost with the process; look at the storage's access rights, space and address", err))
		return
	}
	t.judge("store", "")

	switch got, err := t.load(ctx, t.key); {
	case err != nil:
		t.judge("read back", fmt.Sprintf("what was just stored cannot be read (%v): no account can be used with this storage", err))
	case !bytes.Equal(got, first):
		t.judge("read back", "what is read is not what was stored: this storage is no place for tokens")
	default:
		t.judge("read back", "")
	}
	t.clock(ctx, earliest, latest)
	t.overwrite(ctx, value)
	t.missing(ctx)
	t.listing(ctx)
	t.deletion(ctx)
	t.speed()
}

// clock compares the clocks, as far as the storage tells its own.
func (t *selfTest) clock(ctx context.Context, earliest, latest time.Time) {
	const name = "clock"
	if t.Modified == nil {
		t.add(name, ProbeUntested, "this storage does not tell its clock; keep the machines' clocks set by NTP")
		return
	}
	told := make(chan time.Time, 1)
	err := t.do(ctx, func(ctx context.Context) error {
		m, err := t.Modified(ctx, t.key)
		told <- m
		return err
	})
	if err != nil {
		t.add(name, ProbeUntested, fmt.Sprintf("this storage does not tell its clock (%v); keep the machines' clocks set by NTP", err))
		return
	}
	m := <-told
	var off time.Duration
	switch {
	case m.IsZero():
		t.add(name, ProbeUntested, "this storage does not tell its clock; keep the machines' clocks set by NTP")
		return
	case m.Before(earliest):
		off = m.Sub(earliest)
	case m.After(latest):
		off = m.Sub(latest)
	}
	if off.Abs() <= clockTolerance {
		t.judge(name, "")
		return
	}
	t.judge(name, fmt.Sprintf("the storage's clock and this machine's are %v apart: locks may be taken for stale, or last too long, and tokens seem to end at the wrong time; set both by NTP", off.Abs().Round(time.Second)))
}

// overwrites is how often a value is replaced and read again.
const overwrites = 5

func (t *selfTest) overwrite(ctx context.Context, value func(int) []byte) {
	const name = "overwrite"
	for n := 1; n <= overwrites; n++ {
		want := value(n)
		if err := t.store(ctx, want); err != nil {
			t.judge(name, fmt.Sprintf("what is there cannot be replaced (%v): refreshed tokens are kept in memory only and lost with the process", err))
			return
		}
		got, err := t.load(ctx, t.key)
		if err != nil {
			t.judge(name, fmt.Sprintf("what was just replaced cannot be read (%v)", err))
			return
		}
		if !bytes.Equal(got, want) {
			t.judge(name, "reads may answer with what was there before the last write: another instance, or this one after a restart, may present a refresh token that has been used, which some providers answer by ending the sign-in; run one instance only, or make the storage's reads consistent")
			return
		}
	}
	t.judge(name, "")
}

// missing tries keys that were never there.
func (t *selfTest) missing(ctx context.Context) {
	absent := prefixSelfTest + "/" + randomName()
	finding := ""
	if _, err := t.load(ctx, absent); err == nil {
		finding = "reading a key that was never stored succeeds: an account without a sign-in is reported as one whose token cannot be read"
	} else if !errors.Is(err, fs.ErrNotExist) {
		finding = fmt.Sprintf("a key that was never stored reads as trouble (%v): an account that nobody has signed in yet is reported as one whose storage is down", err)
	}
	t.judge("read a missing key", finding)

	finding = ""
	switch keys, err := t.list(ctx, absent); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		finding = fmt.Sprintf("listing a folder that was never there fails (%v): old keys are never reported as free to be dropped", err)
	case len(keys) > 0:
		finding = "listing a folder that was never there finds something: keys may be counted that are not there"
	}
	t.judge("list a missing folder", finding)
}

func (t *selfTest) listing(ctx context.Context) {
	keys, err := t.list(ctx, prefixSelfTest)
	found := false
	for _, k := range keys {
		if k == t.key {
			found = true
		} else {
			t.sweep(ctx, k)
		}
	}
	switch {
	case found:
		t.judge("list", "")
	case err != nil:
		t.judge("list", fmt.Sprintf("listing fails (%v): records under an old key are not found, so it is not known when that key can be dropped", err))
	default:
		t.judge("list", "listing leaves out what was just stored: records under an old key may be missed; wait a day and look again before you drop one")
	}
}

// sweep deletes what a self-test that was killed has left.
func (t *selfTest) sweep(ctx context.Context, key string) {
	took := t.took
	defer func() { t.took = took }()
	if name, ok := strings.CutPrefix(key, prefixSelfTest+"/"); !ok || len(name) != 32 {
		return
	}
	value, err := t.load(ctx, key)
	if err != nil {
		return
	}
	head, _, _ := strings.Cut(string(value), " ")
	if at, err := time.Parse(time.RFC3339Nano, head); err == nil && time.Since(at) > leftover {
		_ = t.remove(ctx, key)
	}
}

func (t *selfTest) deletion(ctx context.Context) {
	if err := t.remove(ctx, t.key); err != nil {
		t.judge("delete", fmt.Sprintf("nothing can be deleted (%v): a disconnected account's token stays, sealed, in the storage", err))
		return
	}
	if _, err := t.load(ctx, t.key); err == nil {
		t.judge("delete", "what was deleted can still be read: a disconnected account may come back to life at another instance")
		return
	}
	if err := t.remove(ctx, t.key); err != nil {
		t.judge("delete", fmt.Sprintf("deleting what is gone already fails (%v): disconnecting an account that another instance has disconnected reports an error; it does no harm", err))
		return
	}
	t.judge("delete", "")
}

// speed judges how long the operations took.
func (t *selfTest) speed() {
	var slowest StorageProbe
	for _, p := range t.report.Probes {
		if p.Took > slowest.Took {
			slowest = p
		}
	}
	t.took = slowest.Took
	if slowest.Took < slowOperation {
		t.judge("speed", "")
		return
	}
	t.judge("speed", fmt.Sprintf("the storage is slow (%v, at %q): each refresh makes some six such operations, and a process that ends meanwhile may lose a token", slowest.Took.Round(time.Millisecond), slowest.Name))
}
