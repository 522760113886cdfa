package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

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
