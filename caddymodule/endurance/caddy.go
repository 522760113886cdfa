package endurance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// asCaddy makes a test program act as Caddy, with the modules that it imports.
const asCaddy = "OAUTH_MAIL_ENDURANCE_CADDY"

// Main runs tests, or Caddy where this process was started by [Caddy.Start]. It is
// the whole of a TestMain.
func Main(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// Caddy is a place where one process of Caddy runs after the other, on one folder.
type Caddy struct {
	// URL is that of its site, without a slash at the end.
	URL string
	// Admin is the address of Caddy's own administration, SMTP that of the entrance for
	// devices.
	Admin, SMTP string
	// Dir is its folder, Config the file of its configuration.
	Dir, Config string

	t     testing.TB
	cmd   *exec.Cmd
	ended <-chan struct{} // closed when cmd has ended
}

// New makes a Caddy of a Caddyfile in which URL, ADMIN, SMTP and DIR stand for its own.
// It is not started. Its process is gone when the test ends.
func New(t testing.TB, caddyfile string) *Caddy {
	t.Helper()
	c := &Caddy{t: t, URL: "http://" + FreeAddress(t), Admin: FreeAddress(t), SMTP: FreeAddress(t), Dir: t.TempDir()}
	c.Config = filepath.Join(c.Dir, "Caddyfile")
	c.Configure(caddyfile)
	t.Cleanup(func() {
		c.Kill()
		if t.Failed() {
			t.Logf("what Caddy said that went wrong:\n%s", c.Said(`"level":"error"`, "panic"))
		}
	})
	return c
}

// Configure changes the configuration that the next process starts with.
func (c *Caddy) Configure(caddyfile string) {
	c.t.Helper()
	if err := os.WriteFile(c.Config, []byte(c.fill(caddyfile)), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *Caddy) fill(caddyfile string) string {
	return strings.NewReplacer("URL", c.URL, "ADMIN", c.Admin, "SMTP", c.SMTP, "DIR", c.Dir).Replace(caddyfile)
}

func (c *Caddy) log() string { return filepath.Join(c.Dir, "caddy.log") }

// Start starts a process and returns when it serves, with the time that took.
func (c *Caddy) Start() time.Duration {
	c.t.Helper()
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	at, err := log.Stat()
	if err != nil {
		c.t.Fatal(err)
	}
	begin := time.Now()
	c.cmd = exec.Command(os.Args[0], "run", "--config", c.Config, "--adapter", "caddyfile")
	c.cmd.Env = append(os.Environ(), asCaddy+"=1", "HOME="+c.Dir, "XDG_DATA_HOME="+c.Dir, "XDG_CONFIG_HOME="+c.Dir)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended, cmd := make(chan struct{}), c.cmd
	c.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	Eventually(c.t, time.Minute, "Caddy serves", func() bool {
		said, err := os.ReadFile(c.log())
		if err != nil || bytes.Contains(said[at.Size():], []byte("serving initial configuration")) {
			return err == nil
		}
		select {
		case <-ended:
			c.t.Fatalf("Caddy has ended: %s", said[at.Size():])
		default:
		}
		return false
	})
	return time.Since(begin)
}

// Kill ends the process as a power cut would.
func (c *Caddy) Kill() { c.end(syscall.SIGKILL) }

// Stop ends the process in good order and returns how long that took.
func (c *Caddy) Stop() time.Duration {
	begin := time.Now()
	c.end(syscall.SIGTERM)
	return time.Since(begin)
}

func (c *Caddy) end(signal syscall.Signal) {
	if c.cmd != nil {
		_ = c.cmd.Process.Signal(signal)
		<-c.ended
		c.cmd = nil
	}
}

// Load loads a configuration as a reload does, and returns the answer.
func (c *Caddy) Load(caddyfile string) (status int, body string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+c.Admin+"/load", strings.NewReader(c.fill(caddyfile)))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	resp, err := admin.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(answer)
}

// admin speaks with Caddy's administration, over a new connection each time: a
// reload may end the others.
var admin = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

// Get asks Caddy's administration and fails the test where the answer is no.
func (c *Caddy) Get(path string) []byte {
	c.t.Helper()
	resp, err := admin.Get("http://" + c.Admin + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s: status %d, %v: %.500s", path, resp.StatusCode, err, body)
	}
	return body
}

// Said returns the first lines of the log that have one of the words.
func (c *Caddy) Said(words ...string) string {
	text, err := os.ReadFile(c.log())
	if err != nil {
		return err.Error()
	}
	var found []string
	for line := range bytes.Lines(text) {
		for _, w := range words {
			// That the administration is open is as Site has it.
			if bytes.Contains(line, []byte(w)) && !bytes.Contains(line, []byte("(allow_unauthenticated)")) && len(found) < 30 {
				found = append(found, string(line[:min(len(line), 1000)]))
				break
			}
		}
	}
	return strings.Join(found, "")
}

// Pid is the id of the process.
func (c *Caddy) Pid() int { return c.cmd.Process.Pid }

// Files is how many files the process has open.
func (c *Caddy) Files() []string {
	c.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", c.Pid())
	list, err := os.ReadDir(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	var files []string
	for _, f := range list {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil {
			files = append(files, to)
		}
	}
	return files
}

var (
	goroutines = regexp.MustCompile(`total (\d+)`)
	// lockKeepers are certmagic's: they notice only with their next look, seconds later,
	// that their lock is released.
	lockKeepers = regexp.MustCompile(`\n(\d+) @[^\n]*\n(?:#[^\n]*\n)*#[^\n]*certmagic\.keepLockfileFresh`)
	heapAlloc   = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

// Goroutines is how many goroutines the process has, but for certmagic's that keep
// locks, and what they do.
func (c *Caddy) Goroutines() (n int, stacks string) {
	c.t.Helper()
	text := c.Get("/debug/pprof/goroutine?debug=1")
	n = c.figure(goroutines, text)
	if lockKeepers.Match(text) {
		n -= c.figure(lockKeepers, text)
	}
	return n, string(text)
}

// Heap is the live heap after a garbage collection, in octets.
func (c *Caddy) Heap() int {
	c.t.Helper()
	least := 0
	for range 3 { // finalizers want more than one
		n := c.figure(heapAlloc, c.Get("/debug/pprof/heap?gc=1&debug=1"))
		if least == 0 || n < least {
			least = n
		}
	}
	return least
}

func (c *Caddy) figure(is *regexp.Regexp, text []byte) int {
	c.t.Helper()
	m := is.FindSubmatch(text)
	if m == nil {
		c.t.Fatalf("no figure in %.500s", text)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// Eventually waits until what is true, which another process decides.
func Eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	done := false
	Within(within, func() bool { done = done || is(); return done })
	if !done {
		t.Fatalf("after %v still not: %s", within, what)
	}
}

// Within waits until what is true, as long as that may take. Whether it is, the
// caller says.
func Within(limit time.Duration, is func() bool) {
	for deadline := time.Now().Add(limit); !is() && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
	}
}

// FreeAddress returns a loopback address that nobody listens at. Its port lies
// below those that the system gives to clients: one of them could take it before
// Caddy does. No two calls in a process return the same.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(12000+rand.IntN(20000)))
		if _, taken := addresses.LoadOrStore(address, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

var addresses sync.Map // address → true
