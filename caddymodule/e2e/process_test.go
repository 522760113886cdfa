//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a server may take to start, or a message to arrive. The
// machine may be busy.
const patience = 60 * time.Second

// server is a process that a test has started.
type server struct {
	// name is what failures call it.
	name string
	argv []string
	env  []string
	// ready reports whether it serves, given its output so far.
	ready func(output string) bool
	// leads tells that the program makes a process group of its own.
	leads bool

	output lockedBuffer
	cmd    *exec.Cmd
	done   chan struct{} // closed when the process has ended
}

// running are the processes to end when the suite does, however that comes.
var running = struct {
	mu  sync.Mutex
	set map[*exec.Cmd]bool
}{set: map[*exec.Cmd]bool{}}

func endAll() {
	running.mu.Lock()
	defer running.mu.Unlock()
	for cmd := range running.set {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

// start starts the server and waits until it is ready. A server that does not
// come up fails the test under its name.
func (s *server) start(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(s.argv[0], s.argv[1:]...)
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	// A group of its own, so that its children can be ended with it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !s.leads, Pdeathsig: syscall.SIGKILL}
	s.cmd.WaitDelay = time.Second
	begin := len(s.output.String())
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("%s is missing or broken: %v", s.name, err)
	}
	running.mu.Lock()
	running.set[s.cmd] = true
	running.mu.Unlock()
	done := make(chan struct{})
	s.done = done
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		running.mu.Lock()
		delete(running.set, cmd)
		running.mu.Unlock()
		close(done)
	}(s.cmd)
	deadline := time.After(patience)
	for !s.ready(s.output.String()[begin:]) {
		select {
		case <-done:
			t.Fatalf("%s is missing or broken: it ended at once (%v):\n%s", s.name, s.cmd.ProcessState, s.output.tail())
		case <-deadline:
			t.Fatalf("%s is missing or broken: it did not start in %v:\n%s", s.name, patience, s.output.tail())
		case <-time.After(20 * time.Millisecond): // another process: there is nothing to wait on
		}
	}
}

// stop ends the server in good order.
func (s *server) stop() { s.end(syscall.SIGTERM) }

// kill ends the server as a power cut would.
func (s *server) kill() { s.end(syscall.SIGKILL) }

func (s *server) end(sig syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil || s.done == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
	}
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		fmt.Fprintln(os.Stderr, "e2e: ending", s.name, err)
	}
	<-s.done
	s.cmd = nil
}

// says makes a ready func of a text in the output.
func says(text string) func(string) bool {
	return func(output string) bool { return strings.Contains(output, text) }
}

// listens makes a ready func of a port that answers.
func listens(ports ...int) func(string) bool {
	return func(string) bool {
		for _, port := range ports {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
			if err != nil {
				return false
			}
			c.Close()
		}
		return true
	}
}

// eventually waits until what is true, which another process decides.
func eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", within, what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// lockedBuffer is a buffer that a process writes to while a test reads it.
type lockedBuffer struct {
	// line is given each whole line, where it is not nil. It is set before the
	// process starts.
	line func(string)

	mu   sync.Mutex
	b    bytes.Buffer
	told int // octets that line has been given
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.b.Write(p)
	for l.line != nil {
		rest := l.b.Bytes()[l.told:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		l.told += end + 1
		l.line(string(rest[:end]))
	}
	return n, err
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tail is the end of the output: enough to see what went wrong.
func (l *lockedBuffer) tail() string {
	const most = 4000
	s := l.String()
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}
