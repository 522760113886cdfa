//go:build linux

package disktest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// writer is a process that writes.
type writer struct {
	t      *testing.T
	cmd    *exec.Cmd
	mu     sync.Mutex
	moved  *sync.Cond
	lines  []string
	held   bool
	ended  bool
	reader chan struct{} // closed when its output has ended
}

func startWriter(t *testing.T, folder string, loose bool) *writer {
	t.Helper()
	w := &writer{t: t, cmd: exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$"), reader: make(chan struct{})}
	w.moved = sync.NewCond(&w.mu)
	w.cmd.Env = append(os.Environ(), writeTo+"="+folder)
	if loose {
		w.cmd.Env = append(w.cmd.Env, writeLoosely+"=1")
	}
	w.cmd.Stderr = os.Stderr
	in, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
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
		<-time.After(time.Millisecond) // there is nothing else to wait on
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
