package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestGroupCommit: what comes while the disk is busy is stored at once, together.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		const writers, each = 16, 10
		before := b.stored()
		b.plug.set(func() { b.plug.fail = func() error { time.Sleep(5 * time.Millisecond); return nil } })
		var group sync.WaitGroup
		for range writers {
			group.Go(func() {
				for range each {
					m, c := letter("lab", small)
					if err := b.e.Accept(t.Context(), m, c); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		// Any commit and the next take what all of them bring.
		if n := b.stored() - before; n > 2*each+1 {
			t.Errorf("%d commits for %d messages", n, writers*each)
		}
	})
}

// TestDiskFull: while there is no space nothing is accepted, what is out is not sent
// again, and its outcome is stored when there is space.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	var r recorder
	gate := make(chan struct{})
	b.run(handler{window: 2, deliver: func(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
		<-gate
		return r.deliver(ctx, m, c)
	}})
	first := b.accept("lab", small)
	big := b.accept("lab", strings.Repeat(small, 50))
	waiting := b.accept("lab", small)
	for _, m := range []*outbox.Message{first, big} { // Run may have begun after them
		b.untilState(m.ID, outbox.StateSending)
	}
	b.plug.set(func() { b.plug.err = fmt.Errorf("write: %w", syscall.ENOSPC) })
	for range 2 {
		m, c := letter("lab", small)
		if err := b.e.Accept(t.Context(), m, c); !errors.Is(err, outbox.ErrFull) {
			t.Fatalf("accept on a full disk: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(b.folder, reserveFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the reserve was not given up: %v", err)
	}
	close(gate)
	b.until("both are sent", func() bool { return r.count() == 2 })
	b.until("an outcome cannot be stored", func() bool {
		m, c := letter("other", small)
		return errors.Is(b.e.Accept(t.Context(), m, c), outbox.ErrFull)
	})
	for _, m := range []*outbox.Message{first, big} {
		if s := b.get(m.ID).State; s != outbox.StateSending {
			t.Errorf("state %s is on a disk that took nothing", s)
		}
	}
	b.plug.set(func() { b.plug.err = nil })
	for _, m := range []*outbox.Message{first, big, waiting} {
		b.untilState(m.ID, outbox.StateSent)
		if n := r.tries(m.ID); n != 1 {
			t.Errorf("sent %d times", n)
		}
	}
	b.until("accept works again", func() bool {
		m, c := letter("lab", small)
		return b.e.Accept(t.Context(), m, c) == nil
	})
	b.until("there is a reserve again", func() bool {
		info, err := os.Stat(filepath.Join(b.folder, reserveFile))
		return err == nil && info.Size() == reserveSize
	})
	b.until("the file is removed", func() bool {
		_, err := os.Stat(b.e.contentFile(big.ID))
		return errors.Is(err, fs.ErrNotExist)
	})
	b.close()
	check(t, b.folder)
	b.open(Options{})
}

// TestFullOfOutcomes: where only accepts find no space, outcomes are stored.
func TestFullOfOutcomes(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	gate := make(chan struct{})
	b.run(handler{deliver: func(context.Context, *outbox.Message, mailer.Content) outbox.Outcome {
		<-gate
		return outbox.Outcome{Verdict: outbox.Sent}
	}})
	first := b.accept("lab", small)
	b.plug.set(func() {
		b.plug.fail = func() error { // there is room once the reserve is gone
			if _, err := os.Stat(filepath.Join(b.folder, reserveFile)); err == nil {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	m, c := letter("lab", small)
	if err := b.e.Accept(t.Context(), m, c); !errors.Is(err, outbox.ErrFull) {
		t.Fatalf("accept on a full disk: %v", err)
	}
	close(gate)
	b.untilState(first.ID, outbox.StateSent)
	if _, err := b.e.Get(t.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
		t.Errorf("the message that was refused: %v", err)
	}
}

// TestFailedFlush: after a commit that failed in whatever way, the file is opened
// again. What was refused is not there, what was not handed out is, and nothing is
// sent twice.
func TestFailedFlush(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(p *plug, err error){
		"before": func(p *plug, err error) { p.err = err },
		"after":  func(p *plug, err error) { p.late = err }, // it is on the disk all the same
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			var r recorder
			gate := make(chan struct{})
			b.run(handler{window: 1, deliver: func(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
				o := r.deliver(ctx, m, c)
				<-gate
				return o
			}})
			first := b.accept("lab", small)
			second := b.accept("lab", small)
			b.until("a try", func() bool { return r.count() == 1 })
			before := b.e.db
			b.plug.set(func() { fail(b.plug, errIO) })
			m, c := letter("other", small) // would be handed out at once
			if err := b.e.Accept(t.Context(), m, c); !errors.Is(err, errIO) || errors.Is(err, outbox.ErrFull) {
				t.Errorf("accept: %v", err)
			}
			big, lc := letter("other", large)
			if err := b.e.Accept(t.Context(), big, lc); !errors.Is(err, errIO) {
				t.Errorf("accept: %v", err)
			}
			close(gate) // the outcome of the first and the mark of the second fail too
			b.until("the second flush fails", func() bool { return r.count() == 1 && b.e.queueEmpty() })
			b.plug.set(func() { b.plug.err, b.plug.late = nil, nil })
			b.untilState(first.ID, outbox.StateSent)
			b.untilState(second.ID, outbox.StateSent)
			for _, m := range []*outbox.Message{m, big} {
				if _, err := b.e.Get(t.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
					t.Errorf("a message that was refused: %v", err)
				}
				if n := r.tries(m.ID); n != 0 {
					t.Errorf("it was sent %d times", n)
				}
			}
			for _, m := range []*outbox.Message{first, second} {
				if n := r.tries(m.ID); n != 1 {
					t.Errorf("sent %d times", n)
				}
			}
			b.e.mu.RLock()
			if b.e.db == before {
				t.Error("the database was not opened again")
			}
			b.e.mu.RUnlock()
			b.close()
			check(t, b.folder)
			if left, _ := os.ReadDir(filepath.Join(b.folder, contentsFolder)); len(left) > 0 {
				t.Errorf("%d files are left", len(left))
			}
			b.open(Options{})
		})
	}
}

func (e *Engine) queueEmpty() bool {
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	return len(e.queue.waiting) == 0
}

// TestCrashAnyMoment: whatever the moment, a copy of the folder holds all that was
// acknowledged by then, and is sound.
func TestCrashAnyMoment(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{MaxBytes: 8 << 20}) // the journals take turns
	var mu sync.Mutex
	acknowledged := map[string]string{}
	var copies []string
	var known []map[string]string
	n := 0
	b.plug.set(func() {
		b.plug.fail = func() error {
			if n++; n%7 != 0 || len(copies) == 20 {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			have := map[string]string{}
			for id, octets := range acknowledged {
				have[id] = octets
			}
			to := filepath.Join(t.TempDir(), "copy")
			copyFolder(t, b.folder, to)
			copies, known = append(copies, to), append(known, have)
			return nil
		}
	})
	b.run(handler{window: 4, deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		if m.Attempts++; m.Attempts < 2 {
			return outbox.Outcome{Verdict: outbox.Retry}
		}
		return outbox.Outcome{Verdict: outbox.Dead} // its content stays
	}})
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for j := range 30 {
				octets := fmt.Sprint(i, j, small)
				if j%5 == 0 {
					octets = strings.Repeat(octets, 60)
				}
				m, c := letter([]string{"a", "b"}[i%2], octets)
				if err := b.e.Accept(t.Context(), m, c); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[m.ID] = octets
				mu.Unlock()
			}
		})
	}
	group.Wait()
	b.stop()
	if len(copies) < 5 {
		t.Fatalf("only %d copies", len(copies))
	}
	for i, folder := range copies {
		check(t, folder)
		e, err := Open(folder, Options{Sealer: sealer()})
		if err != nil {
			t.Fatal(err)
		}
		for id, octets := range known[i] {
			c, err := e.Content(t.Context(), id)
			if err != nil {
				t.Fatalf("lost: %v", err)
			}
			if got, err := readAll(c); err != nil || got != octets {
				t.Errorf("content: %d octets of %d, %v", len(got), len(octets), err)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSealed: nothing that a message says lies in the clear.
func TestSealed(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	m, c := letter("lab", strings.Repeat("Subject: payroll\r\n", 10))
	m.Failure = &outbox.Failure{Cause: "payroll"}
	large, lc := letter("lab", strings.Repeat("Subject: payroll\r\n", 20000))
	for m, c := range map[*outbox.Message]mailer.Content{m: c, large: lc} {
		if err := b.e.Accept(t.Context(), m, c); err != nil {
			t.Fatal(err)
		}
	}
	lane := outbox.Lane{State: outbox.LaneParked, Failure: &outbox.Failure{Cause: "payroll"}}
	if err := b.e.SetLane(t.Context(), "lab", lane); err != nil {
		t.Fatal(err)
	}
	read := 0
	err := filepath.WalkDir(b.folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			if runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
				t.Errorf("%s has the mode %v", path, info.Mode())
			}
			return nil
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		octets, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		read += len(octets)
		for _, secret := range []string{"payroll", "noreply", "someone", "example.org", `"crm"`} {
			if bytes.Contains(octets, []byte(secret)) {
				t.Errorf("%q lies in %s", secret, filepath.Base(path))
			}
		}
		return nil
	})
	if err != nil || read < 180000 {
		t.Errorf("%d octets read, %v", read, err)
	}
}

// TestRunOnBadDisk: Run begins as soon as the disk can be written to, and a message
// that was being sent when its process ended is asked about then.
func TestRunOnBadDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	gate := make(chan struct{})
	b.run(handler{deliver: func(context.Context, *outbox.Message, mailer.Content) outbox.Outcome {
		<-gate
		return outbox.Outcome{Verdict: outbox.Sent}
	}})
	m := b.accept("lab", small)
	b.untilState(m.ID, outbox.StateSending)
	left := filepath.Join(t.TempDir(), "left")
	b.plug.set(func() { copyFolder(t, b.folder, left) })
	close(gate)
	b.close()
	b.folder = left
	b.open(Options{})
	b.plug.set(func() { b.plug.err = errIO })
	asked := make(chan string, 8)
	b.run(handler{broken: func(m *outbox.Message) outbox.Outcome {
		asked <- m.ID
		return outbox.Outcome{Verdict: outbox.Hold}
	}})
	if id := <-asked; id != m.ID {
		t.Errorf("asked about %s", id)
	}
	waiting, c := letter("lab", small)
	if err := b.e.Accept(t.Context(), waiting, c); err == nil {
		t.Error("accepted on a bad disk")
	}
	b.plug.set(func() { b.plug.err = nil })
	b.untilState(m.ID, outbox.StateHeld)
	b.until("messages are sent", func() bool {
		m, c := letter("lab", small)
		return b.e.Accept(t.Context(), m, c) == nil
	})
	b.untilState(b.accept("lab", small).ID, outbox.StateSent)
	if len(asked) > 0 {
		t.Error("asked twice")
	}
}

// doneHook is a context that counts who asks whether it is over.
type doneHook struct {
	context.Context
	asked func()
}

func (h doneHook) Done() <-chan struct{} {
	h.asked()
	return h.Context.Done()
}

// TestStartOnBadDisk: where the file is away at the moment when Run begins to hand
// out, what waits is handed out when it is back.
func TestStartOnBadDisk(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a file that is open cannot be moved there")
	}
	b := newBench(t, Options{})
	waiting := b.accept("lab", small)
	file := filepath.Join(b.folder, databaseFile)
	move := func(from, to string, err error) {
		b.plug.set(func() { b.plug.err = err })
		if err := os.Rename(from, to); err != nil {
			t.Error(err)
		}
	}
	refused := func() {
		m, c := letter("other", small)
		if err := b.e.Accept(context.Background(), m, c); err == nil {
			t.Error("accepted on a bad disk")
		}
	}
	n := 0
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- b.e.Run(doneHook{ctx, func() {
			switch n++; n {
			case 1: // whether messages were being sent is known after this
				if err := b.e.do(&op{apply: func(*batch) error { return nil }}); err != nil {
					t.Error(err)
				}
				move(file, file+".away", errIO)
				refused()
			case 2: // the file is away, and what begins the work is in the queue
				refused()
				move(file+".away", file, nil)
			}
		}}, handler{})
	}()
	b.untilState(waiting.ID, outbox.StateSent)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
