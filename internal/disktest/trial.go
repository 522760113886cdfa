//go:build linux

package disktest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Trial lets a process write to a disk, cuts the power at some moment, and looks at what
// the disk has kept. [Trial.Keeps] and [Trial.Loses] have to be the whole of a test, since
// that process runs the test, too: it is the one that writes.
type Trial struct {
	// Write changes what is in a folder, without end. It acknowledges a change when that
	// is sure to survive. Loose asks it to leave out flushes.
	Write func(t *testing.T, folder string, loose bool, acknowledge func(change ...any))
	// Lost returns which of the acknowledged changes are not in a folder, which can only
	// be read.
	Lost func(t *testing.T, folder string, acknowledged []string) []string
	// Busy is how long a change takes, at most: half of the cuts come within that time
	// of the last acknowledgement.
	Busy time.Duration
}

// Environment variables that tell a test program that it is the process that writes, and
// where, and whether loosely.
const (
	writeTo      = "OAUTH_MAIL_TEST_WRITE_TO"
	writeLoosely = "OAUTH_MAIL_TEST_WRITE_LOOSELY"
)

// Keeps fails the test unless all that was acknowledged is there after each of n cuts.
func (tr Trial) Keeps(t *testing.T, n int) {
	t.Helper()
	sum := tr.cut(t, n, false)
	if sum.lost != 0 {
		t.Errorf("%d acknowledged changes were lost", sum.lost)
	}
	if sum.heldBack < n*9/10 {
		t.Errorf("only %d of %d cuts held back what was not flushed", sum.heldBack, n)
	}
}

// Loses fails the test unless n cuts lose something of what is written loosely: else they
// would be none.
func (tr Trial) Loses(t *testing.T, n int) {
	t.Helper()
	if sum := tr.cut(t, n, true); sum.lost == 0 {
		t.Error("nothing was lost: these cuts are none")
	}
}

// result is what became of acknowledged changes.
type result struct {
	acknowledged, lost int
	// losses is how many cuts lost something, and heldBack how many lost what was not
	// flushed.
	losses, heldBack int
}

func (tr Trial) cut(t *testing.T, n int, loose bool) (sum result) {
	t.Helper()
	if folder := os.Getenv(writeTo); folder != "" {
		tr.Write(t, folder, os.Getenv(writeLoosely) != "", acknowledger())
		t.Fatal("it has ended")
	}
	for i := range n {
		r := tr.cutOnce(t, i, loose)
		sum.acknowledged += r.acknowledged
		sum.lost += r.lost
		sum.losses += r.losses
		sum.heldBack += r.heldBack
	}
	t.Logf("%d cuts: %d changes acknowledged, %d lost, in %d cuts; %d cuts held back what was not flushed",
		n, sum.acknowledged, sum.lost, sum.losses, sum.heldBack)
	return sum
}

// acknowledger returns what says a change on the output, and returns when a line comes
// in.
func acknowledger() func(change ...any) {
	in := bufio.NewReader(os.Stdin)
	return func(change ...any) {
		fmt.Println(change...)
		if _, err := in.ReadString('\n'); err != nil {
			os.Exit(1) // the test has gone
		}
	}
}

// cutOnce lets a process write to a new file system, stops it at some moment, and looks
// at what has reached the disk by then.
func (tr Trial) cutOnce(t *testing.T, n int, loose bool) (r result) {
	t.Helper()
	d := New(t, filepath.Join(t.TempDir(), "mounted"))
	w := startWriter(t, d.Dir, loose)
	// Half of the cuts come within a change, most often; the others when 40 ms have
	// passed since the last one, with 5 s to go until ext4 writes by itself.
	w.waitFor(1 + rand.IntN(60))
	if n%2 == 0 {
		<-time.After(rand.N(tr.Busy))
	} else {
		w.hold()
		<-time.After(40 * time.Millisecond)
	}
	acknowledged := w.freeze()
	if err := os.WriteFile(filepath.Join(d.Dir, "witness"), []byte("this was never flushed"), 0o600); err != nil {
		t.Fatal(err)
	}
	after := d.afterPowerCut()
	w.kill()
	d.Close()

	if _, err := os.Stat(filepath.Join(after.Dir, "witness")); err != nil {
		r.heldBack = 1
	}
	r.acknowledged = len(acknowledged)
	lost := tr.Lost(t, after.Dir, acknowledged)
	r.lost = len(lost)
	if len(lost) > 0 {
		r.losses = 1
	}
	if !loose {
		for _, change := range lost {
			t.Logf("cut %d: lost %s", n, change)
		}
	}
	after.Close()
	return r
}
