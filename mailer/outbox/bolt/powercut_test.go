//go:build powercut && linux

package bolt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// These tests need root, loop devices and ext4's tools, and fail without them.
//
//	go test -tags powercut -run 'PowerCut|RealDisk' -count=1 -timeout 30m ./mailer/outbox/bolt
const (
	// powerCuts is how many cuts the outbox has to live through.
	powerCuts = 100
	// looseCuts is how many are made without flushing files and their folder, to see
	// that a cut is one. Left out alone, the flush of the folder is not missed: ext4
	// flushes the name of a new file with the file.
	looseCuts = 20
)

// writerFolder tells the test program that it is the process that accepts, and where;
// writerLoose that it is not to flush large contents.
const (
	writerFolder = "OAUTH_MAIL_TEST_ACCEPT_IN"
	writerLoose  = "OAUTH_MAIL_TEST_ACCEPT_LOOSELY"
)

// TestPowerCut: what was acknowledged is there after a power cut: messages that were
// accepted, with their contents, and those that were canceled.
func TestPowerCut(t *testing.T) {
	var sum cutResult
	for n := range powerCuts {
		sum.add(cutPower(t, n, false))
	}
	t.Logf("%d cuts: %s", powerCuts, sum)
	if sum.lost != 0 {
		t.Errorf("%d acknowledged messages were lost", sum.lost)
	}
	if sum.heldBack < powerCuts*9/10 {
		t.Errorf("only %d of %d cuts held back what was not flushed", sum.heldBack, powerCuts)
	}
	if sum.large < powerCuts {
		t.Errorf("only %d messages had files", sum.large)
	}
}

// TestPowerCutLoose: the same, but for the flushes of large contents.
func TestPowerCutLoose(t *testing.T) {
	var sum cutResult
	for n := range looseCuts {
		sum.add(cutPower(t, n, true))
	}
	t.Logf("%d cuts: %s", looseCuts, sum)
	if sum.lost == 0 {
		t.Error("nothing was lost: these cuts are none")
	}
}

// cutResult is what became of acknowledged messages.
type cutResult struct {
	acknowledged, large, lost, cuts, heldBack int
}

func (r *cutResult) add(o cutResult) {
	r.acknowledged += o.acknowledged
	r.large += o.large
	r.lost += o.lost
	r.heldBack += o.heldBack
	if o.lost > 0 {
		r.cuts++
	}
}

func (r cutResult) String() string {
	return fmt.Sprintf("%d changes acknowledged, %d of them large, %d lost, in %d cuts; %d cuts held back what was not flushed", r.acknowledged, r.large, r.lost, r.cuts, r.heldBack)
}

// cutPower lets a process accept messages on a new file system, stops it at some
// moment, and looks at what has reached the disk by then.
func cutPower(t *testing.T, n int, loose bool) (result cutResult) {
	d := newDisk(t)
	w := startWriter(t, d.mounted, loose)
	// Half of the cuts come within a commit, most often; the others when 40 ms have
	// passed since the last one, with 5 s to go until ext4 writes by itself.
	w.waitFor(1 + rand.IntN(60))
	if n%2 == 0 {
		time.Sleep(rand.N(40 * time.Millisecond))
	} else {
		w.hold()
		time.Sleep(40 * time.Millisecond)
	}
	acknowledged := w.freeze()
	if err := os.WriteFile(filepath.Join(d.mounted, "witness"), []byte("this was never flushed"), 0o600); err != nil {
		t.Fatal(err)
	}
	after := d.copy()
	w.kill()
	d.close()

	if _, err := os.Stat(filepath.Join(after.mounted, "witness")); err != nil {
		result.heldBack++
	}
	result.acknowledged = len(acknowledged)
	for _, line := range acknowledged {
		if strings.HasPrefix(line, "large ") {
			result.large++
		}
	}
	found := filepath.Join(t.TempDir(), "found")
	copyFolder(t, filepath.Join(after.mounted, "outbox"), found)
	for _, lost := range verify(t, found, acknowledged) {
		result.lost++
		if !loose {
			t.Logf("cut %d: lost %s", n, lost)
		}
	}
	after.close()
	return result
}

// octetsOf makes the content of a message of its id.
func octetsOf(id string, large bool) string {
	n := 40
	if large {
		n = 3000
	}
	return strings.Repeat(fmt.Sprintf("%x\r\n", sha256.Sum256([]byte(id))), n)
}

// verify returns which of the acknowledged changes are not there.
func verify(t *testing.T, folder string, acknowledged []string) (lost []string) {
	t.Helper()
	e, err := Open(folder, Options{Sealer: sealer()})
	if err != nil {
		return append(lost, err.Error())
	}
	for _, line := range acknowledged {
		kind, id, _ := strings.Cut(line, " ")
		switch kind {
		case "open":
			continue
		case "canceled":
			if m, err := e.Get(context.Background(), id); err != nil || m.State != outbox.StateCanceled {
				lost = append(lost, line)
			}
			continue
		}
		c, err := e.Content(context.Background(), id)
		if err != nil {
			lost = append(lost, fmt.Sprint(line, ": ", err))
			continue
		}
		if got, err := readAll(c); err != nil || got != octetsOf(id, kind == "large") {
			lost = append(lost, fmt.Sprint(line, ": ", len(got), " octets, ", err))
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if len(lost) == 0 {
		check(t, folder)
	}
	return lost
}

// TestPowerCutWriter is the process that accepts. It says what is acknowledged on its
// output, and goes on when it reads a line. Deliveries go on all the time.
func TestPowerCutWriter(t *testing.T) {
	folder := os.Getenv(writerFolder)
	if folder == "" {
		t.Skip("this is a process of TestPowerCut")
	}
	must := func(err error) {
		if err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
	}
	e, err := open(filepath.Join(folder, "outbox"), Options{Sealer: sealer()}, func(e *Engine) {
		if os.Getenv(writerLoose) != "" {
			e.syncFile = func(*os.File) error { return nil }
			e.syncFolder = func(string) error { return nil }
		}
	})
	must(err)
	go func() {
		must(e.Run(context.Background(), handler{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			return outbox.Outcome{Verdict: outbox.Dead} // contents stay
		}}))
	}()
	in := bufio.NewReader(os.Stdin)
	acknowledge := func(what ...any) {
		fmt.Println(what...)
		_, err := in.ReadString('\n')
		must(err)
	}
	acknowledge("open")
	for n := 0; ; n++ {
		id := mailer.NewID()
		kind := []string{"small", "large"}[n%2]
		octets := octetsOf(id, kind == "large")
		m, c := letter("lab", octets)
		m.ID = id
		if n%3 == 0 {
			m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour)
		}
		must(e.Accept(t.Context(), m, c))
		acknowledge(kind, id)
		if n%6 == 0 {
			must(e.Change(t.Context(), id, func(m *outbox.Message) error { m.State = outbox.StateCanceled; return nil }))
			acknowledge("canceled", id)
		}
	}
}

// TestRealDisk: a disk that is full, or that nothing can be written to, loses nothing
// that was accepted, and nothing is sent twice.
func TestRealDisk(t *testing.T) {
	for name, trouble := range map[string]struct {
		begin, end func(t *testing.T, d *disk)
		full       bool
	}{
		"full": {fill, func(t *testing.T, d *disk) {
			if err := os.Remove(filepath.Join(d.mounted, "filler")); err != nil {
				t.Fatal(err)
			}
		}, true},
		"read-only": {
			breakDisk,
			mendDisk,
			false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			b := &bench{TB: t, folder: filepath.Join(d.mounted, "outbox")}
			b.open(Options{})
			t.Cleanup(b.close)
			var r recorder
			gate := make(chan struct{})
			b.run(handler{window: 2, deliver: func(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
				<-gate
				if _, err := readAll(c); err != nil {
					t.Error(err)
				}
				return r.deliver(ctx, m, c)
			}})
			var all []*outbox.Message
			for i := range 30 {
				all = append(all, b.accept([]string{"a", "b"}[i%2], strings.Repeat(small, 1+i%2*60)))
			}
			trouble.begin(t, d)
			refused := 0
			for n := 0; refused < 5; n++ {
				m, c := letter("a", strings.Repeat(small, 60))
				switch err := b.e.Accept(t.Context(), m, c); {
				case err == nil && n < 1000: // into what is free within the file
					all = append(all, m)
				case errors.Is(err, outbox.ErrFull) == trouble.full && err != nil:
					refused++
				default:
					t.Fatal(err)
				}
			}
			close(gate)
			if trouble.full { // deliveries go on
				for _, m := range all {
					b.untilState(m.ID, outbox.StateSent)
				}
			} else {
				b.until("what is out is sent", func() bool { return r.count() >= 2 })
			}
			trouble.end(t, d)
			for _, m := range all {
				b.until("sent", func() bool {
					m, err := b.e.Get(t.Context(), m.ID)
					return err == nil && m.State == outbox.StateSent
				})
				if n := r.tries(m.ID); n != 1 {
					t.Errorf("sent %d times", n)
				}
			}
			b.until("accepts go on", func() bool {
				m, c := letter("a", small)
				return b.e.Accept(t.Context(), m, c) == nil
			})
			t.Logf("%d messages sent once", len(all))
		})
	}
}

// writer is a process that writes.
type writer struct {
	t      *testing.T
	cmd    *exec.Cmd
	goOn   io.WriteCloser
	mu     sync.Mutex
	moved  *sync.Cond
	lines  []string
	held   bool
	ended  bool
	reader chan struct{} // closed when its output has ended
}

func startWriter(t *testing.T, folder string, loose bool) *writer {
	t.Helper()
	w := &writer{t: t, cmd: exec.Command(os.Args[0], "-test.run", "^TestPowerCutWriter$"), reader: make(chan struct{})}
	w.moved = sync.NewCond(&w.mu)
	w.cmd.Env = append(os.Environ(), writerFolder+"="+folder)
	if loose {
		w.cmd.Env = append(w.cmd.Env, writerLoose+"=1")
	}
	in, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.goOn = in
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kill)
	go func() {
		defer close(w.reader)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			w.mu.Lock()
			w.lines = append(w.lines, lines.Text())
			if !w.held {
				_, _ = io.WriteString(in, "\n")
			}
			w.moved.Broadcast()
			w.mu.Unlock()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended = true
		w.moved.Broadcast()
	}()
	return w
}

// waitFor waits for a number of acknowledgements.
func (w *writer) waitFor(n int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.lines) < n && !w.ended {
		w.moved.Wait()
	}
	if w.ended {
		w.t.Fatalf("the writer has ended: %q", w.lines)
	}
}

// hold lets it do nothing after its next acknowledgement, and waits for that.
func (w *writer) hold() {
	w.mu.Lock()
	w.held = true
	n := len(w.lines)
	w.mu.Unlock()
	w.waitFor(n + 1)
}

// freeze stops the process, in whatever it does, and returns what it has
// acknowledged.
func (w *writer) freeze() []string {
	w.t.Helper()
	if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !w.stopped(); {
		if time.Now().After(deadline) {
			w.t.Fatal("the writer does not stop")
		}
		time.Sleep(time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = true
	// A line that is still in the pipe counts as not acknowledged: nobody saw it.
	return append([]string(nil), w.lines...)
}

// stopped reports whether all threads of the process are stopped.
func (w *writer) stopped() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", w.cmd.Process.Pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			return false
		}
		if _, rest, ok := bytes.Cut(data, []byte(") ")); !ok || rest[0] != 'T' {
			return false
		}
	}
	return true
}

func (w *writer) kill() {
	_ = w.cmd.Process.Kill()
	<-w.reader
	_ = w.cmd.Wait()
}

// disk is a file that holds an ext4 file system, mounted.
type disk struct {
	t       *testing.T
	image   string
	device  string
	mounted string
	close   func()
}

// command runs a tool that the test cannot do without.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

const diskSize = 64 << 20

func newDisk(t *testing.T) *disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, diskSize); err != nil {
		t.Fatal(err)
	}
	// All of it is written now: nothing is left for a thread to do in between.
	command(t, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	return mountDisk(t, image)
}

func mountDisk(t *testing.T, image string) *disk {
	t.Helper()
	d := &disk{t: t, image: image, mounted: image + ".mounted"}
	if err := os.Mkdir(d.mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	d.device = command(t, "losetup", "--find", "--show", image)
	d.close = sync.OnceFunc(func() {
		_ = exec.Command("umount", d.mounted).Run()
		command(t, "losetup", "--detach", d.device)
		_ = os.Remove(image)
	})
	t.Cleanup(d.close)
	command(t, "mount", "-t", "ext4", "-o", "errors=remount-ro", d.device, d.mounted)
	return d
}

// copy returns what a power cut would leave, at one moment, with its journal
// replayed. What waits in the memory of the mounted file system is not there:
// nothing is flushed.
func (d *disk) copy() *disk {
	d.t.Helper()
	image := d.image + ".after"
	for range 20 {
		before := d.writes()
		command(d.t, "cp", "--sparse=always", d.image, image)
		if d.writes() == before { // else the copy is of no single moment
			after := mountDisk(d.t, image)
			command(d.t, "mount", "-o", "remount,ro", after.mounted)
			return after
		}
	}
	d.t.Fatal("the disk does not come to rest")
	return nil
}

// writes returns how many writes the disk has seen; it waits for those under way.
func (d *disk) writes() string {
	d.t.Helper()
	for {
		data, err := os.ReadFile("/sys/block/" + filepath.Base(d.device) + "/stat")
		if err != nil {
			d.t.Fatal(err)
		}
		fields := strings.Fields(string(data))
		if len(fields) < 9 {
			d.t.Fatalf("odd statistics: %s", data)
		}
		if fields[8] == "0" {
			return fields[4] + " " + fields[6]
		}
		time.Sleep(time.Millisecond)
	}
}

// fill leaves no room on a disk.
func fill(t *testing.T, d *disk) {
	f, err := os.Create(filepath.Join(d.mounted, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// breakDisk makes a disk one that can only be read, as Linux does with one that has
// errors, whoever has files of it open.
func breakDisk(t *testing.T, d *disk) {
	t.Helper()
	if err := os.WriteFile("/sys/fs/ext4/"+filepath.Base(d.device)+"/trigger_fs_error", []byte("for a test"), 0o200); err != nil {
		t.Fatal(err)
	}
}

// mendDisk makes it a good one again. The engine has let go of it by itself.
func mendDisk(t *testing.T, d *disk) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); exec.Command("umount", d.mounted).Run() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the disk is in use all the time")
		}
	}
	_ = exec.Command("e2fsck", "-fy", d.device).Run() // its status tells what was mended
	command(t, "mount", "-t", "ext4", d.device, d.mounted)
}
