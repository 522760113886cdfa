//go:build powercut && linux

package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule/endurance"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// These tests need root, loop devices and ext4's tools, and fail without them.
//
//	go test -tags powercut -run 'PowerCut|Disk' -count=1 -timeout 20m ./caddymodule
const (
	// powerCuts is how many cuts the storage has to live through.
	powerCuts = 100
	// looseCuts is how many are made without flushing folders, to see that a cut
	// is one.
	looseCuts = 20
)

// writerFolder tells the test program that it is the process that writes, and
// where; writerLoose that it is not to flush folders.
const (
	writerFolder = "OAUTH_MAIL_TEST_WRITE_TO"
	writerLoose  = "OAUTH_MAIL_TEST_WRITE_LOOSELY"
)

// TestPowerCut: what was acknowledged is there after a power cut.
func TestPowerCut(t *testing.T) {
	var sum cutResult
	for n := range powerCuts {
		sum.add(cutPower(t, n, false))
	}
	t.Logf("%d cuts: %d writes acknowledged, %d lost, in %d cuts; %d cuts held back what was not flushed", powerCuts, sum.acknowledged, sum.lost, sum.cuts, sum.heldBack)
	if sum.lost != 0 {
		t.Errorf("%d acknowledged writes were lost", sum.lost)
	}
	if sum.heldBack < powerCuts*9/10 {
		t.Errorf("only %d of %d cuts held back what was not flushed", sum.heldBack, powerCuts)
	}
}

// TestPowerCutLoose: the same with what Caddy's file storage does by itself.
func TestPowerCutLoose(t *testing.T) {
	var sum cutResult
	for n := range looseCuts {
		sum.add(cutPower(t, n, true))
	}
	t.Logf("%d cuts: %d writes acknowledged, %d lost, in %d cuts; %d cuts held back what was not flushed", looseCuts, sum.acknowledged, sum.lost, sum.cuts, sum.heldBack)
	if sum.lost == 0 {
		t.Error("nothing was lost: these cuts are none")
	}
}

// cutResult is what became of acknowledged writes.
type cutResult struct {
	acknowledged, lost, cuts, heldBack int
}

func (r *cutResult) add(o cutResult) {
	r.acknowledged += o.acknowledged
	r.lost += o.lost
	r.heldBack += o.heldBack
	if o.lost > 0 {
		r.cuts++
	}
}

// cutPower lets a process write to a new file system, stops it at some moment,
// and looks at what has reached the disk by then.
func cutPower(t *testing.T, n int, loose bool) (result cutResult) {
	d := newDisk(t)
	w := startWriter(t, d.Dir, loose)
	// Half of the cuts come within a write, most often; the others when 40 ms
	// have passed since the last one, with 5 s to go until ext4 writes by itself.
	w.waitFor(1 + rand.IntN(60))
	if n%2 == 0 {
		time.Sleep(rand.N(80 * time.Millisecond))
	} else {
		w.hold()
		time.Sleep(40 * time.Millisecond)
	}
	acknowledged := w.freeze()
	witness := filepath.Join(d.Dir, "witness")
	if err := os.WriteFile(witness, []byte("this was never flushed"), 0o600); err != nil {
		t.Fatal(err)
	}
	after := d.copy(t)
	w.kill()
	d.Close()

	if _, err := os.Stat(filepath.Join(after.Dir, "witness")); err != nil {
		result.heldBack++
	}
	result.acknowledged = len(acknowledged)
	for _, lost := range verify(t, after.Dir, acknowledged) {
		result.lost++
		if !loose {
			t.Logf("cut %d: lost %s", n, lost)
		}
	}
	after.Close()
	return result
}

// verify returns which of the acknowledged writes are not there.
func verify(t *testing.T, folder string, acknowledged []string) (lost []string) {
	t.Helper()
	files := &certmagic.FileStorage{Path: filepath.Join(folder, "storage")}
	newest := map[string]string{}
	app := newWriterApp(files)
	ring, ringErr := app.keys()
	for _, line := range acknowledged {
		kind, rest, _ := strings.Cut(line, " ")
		name, value, _ := strings.Cut(rest, " ")
		switch kind {
		case "key":
			if ringErr != nil || ring.IDs()[0].String() != name {
				lost = append(lost, line)
			}
		case "mark":
			if data, err := files.Load(t.Context(), name); err != nil || string(data) != value {
				lost = append(lost, line)
			}
		case "token":
			newest[name] = value
		default:
			t.Fatalf("the writer said %q", line)
		}
	}
	for user, generation := range newest {
		want, _ := strconv.ParseUint(generation, 10, 64)
		token, err := app.store.Load(t.Context(), tokens.Account{Provider: "p", User: user})
		if err != nil || token.Generation < want {
			lost = append(lost, fmt.Sprintf("%s, generation %s: %v", user, generation, err))
		}
	}
	return lost
}

// newWriterApp is as much of an app as keeps keys and tokens.
func newWriterApp(files *certmagic.FileStorage) *App {
	a := &App{storage: files, logger: slog.New(slog.DiscardHandler)}
	a.keys = sync.OnceValues(func() (*tokens.KeyRing, error) { return a.keyFromFile(keyFile(files.Path)) })
	a.store = tokens.NewStore(durable(files), a.keys)
	return a
}

// TestPowerCutWriter is the process that writes: a key, then tokens as refreshes
// and sign-ins do, and the marks of sign-ins. It says each on its output when it
// is acknowledged, and goes on when it reads a line.
func TestPowerCutWriter(t *testing.T) {
	folder := os.Getenv(writerFolder)
	if folder == "" {
		t.Skip("this is a process of TestPowerCut")
	}
	files := &certmagic.FileStorage{Path: filepath.Join(folder, "storage")}
	app := newWriterApp(files)
	storage := durable(files)
	if os.Getenv(writerLoose) != "" {
		storage = files
		app.store = tokens.NewStore(files, app.keys)
	}
	must := func(err error) {
		if err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
	}
	in := bufio.NewReader(os.Stdin)
	acknowledge := func(what ...any) {
		fmt.Println(what...)
		_, err := in.ReadString('\n')
		must(err)
	}
	ring, err := app.keys()
	must(err)
	acknowledge("key", ring.IDs()[0])
	generations := map[string]uint64{}
	for n := 0; ; n++ {
		if n%4 == 3 {
			key := fmt.Sprintf("oauth_mail/states/%064x", n)
			must(storage.Store(t.Context(), key, []byte(strconv.Itoa(n))))
			acknowledge("mark", key, n)
			continue
		}
		user := fmt.Sprintf("user-%d@example.com", rand.IntN(8))
		token, err := app.store.Load(t.Context(), tokens.Account{Provider: "p", User: user})
		if err != nil {
			token = &tokens.Token{Account: tokens.Account{Provider: "p", User: user}}
		}
		generations[user]++
		token.Generation = generations[user]
		token.AccessToken = tokens.NewSecret(strings.Repeat("a", 1500))
		token.PreviousRefreshToken, token.RefreshToken = token.RefreshToken, tokens.NewSecret(strings.Repeat("r", 1000))
		must(app.store.Save(t.Context(), token))
		acknowledge("token", user, token.Generation)
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

// disk is a disk whose power can be cut.
type disk struct{ *endurance.Disk }

func newDisk(t *testing.T) *disk {
	t.Helper()
	return &disk{endurance.NewDisk(t, filepath.Join(t.TempDir(), "mounted"))}
}

// copy returns what a power cut would leave, at one moment, with its journal
// replayed. What waits in the memory of the mounted file system is not there:
// nothing is flushed.
func (d *disk) copy(t *testing.T) *disk {
	t.Helper()
	image := d.Image + ".after"
	for range 20 {
		before := d.writes(t)
		endurance.Command(t, "cp", "--sparse=always", d.Image, image)
		if d.writes(t) == before { // else the copy is of no single moment
			after := &disk{endurance.OpenDisk(t, image, image+".mounted")}
			after.Remount("ro")
			return after
		}
	}
	t.Fatal("the disk does not come to rest")
	return nil
}

// writes returns how many writes the disk has seen; it waits for those under way.
func (d *disk) writes(t *testing.T) string {
	t.Helper()
	for {
		data, err := os.ReadFile("/sys/block/" + filepath.Base(d.Device) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(data))
		if len(fields) < 9 {
			t.Fatalf("odd statistics: %s", data)
		}
		if fields[8] == "0" {
			return fields[4] + " " + fields[6]
		}
		time.Sleep(time.Millisecond)
	}
}

// TestDiskTrouble: a token that was refreshed while the disk was full, or could
// not be written to, is in use meanwhile and stored as soon as it can be.
func TestDiskTrouble(t *testing.T) {
	for name, trouble := range map[string]struct {
		begin, end func(d *disk)
		want       error
	}{
		"full":      {func(d *disk) { d.Fill() }, func(d *disk) { d.Empty() }, syscall.ENOSPC},
		"read-only": {func(d *disk) { d.Remount("ro") }, func(d *disk) { d.Remount("rw") }, syscall.EROFS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDisk(t)
			files := &certmagic.FileStorage{Path: filepath.Join(d.Dir, "storage")}
			app := newWriterApp(files)
			server := tokenstest.NewServer()
			account := tokens.Account{Provider: "lab", User: "noreply@example.com"}
			client := tokens.NewClient(tokens.Provider{
				Name: account.Provider, TokenEndpoint: server.Issuer + tokenstest.PathToken,
				AuthorizationEndpoint: server.Issuer + tokenstest.PathAuthorize, ClientID: server.ClientID,
				Credentials: tokens.NewClientSecret(server.ClientSecret), AuthStyle: tokens.AuthPost,
			}, server)
			access, refresh := server.Issue(account.User, "smtp.send")
			now := time.Now().UTC()
			old := &tokens.Token{
				Account: account, Generation: 1, AccessToken: tokens.NewSecret(access), RefreshToken: tokens.NewSecret(refresh),
				AuthorizedAt: now.Add(-time.Hour), IssuedAt: now.Add(-time.Hour), Expiry: now.Add(-time.Minute),
			}
			if err := app.store.Save(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			trouble.begin(d)
			if err := app.store.Save(t.Context(), old); !errors.Is(err, trouble.want) {
				t.Fatalf("the disk takes it: %v", err)
			}
			// The lock is a file on that disk, too: it takes ten minutes until it is
			// done without. The clock goes faster than the world.
			var ahead atomic.Int64
			clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			source := tokens.NewSource(account, client, app.store, &tokens.Cell{}, &tokens.SourceOptions{Now: clock})
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				(&tokens.Refresher{Sources: []*tokens.Source{source}, Store: app.store, Now: clock}).Run(ctx)
			}()
			t.Cleanup(func() { stop(); <-ended })
			until := func(what string, done func() bool) {
				t.Helper()
				for deadline := time.Now().Add(time.Minute); !done(); ahead.Add(int64(time.Minute)) {
					if time.Now().After(deadline) {
						t.Fatalf("%s does not come about", what)
					}
					time.Sleep(time.Second)
				}
			}
			until("a token in memory", func() bool {
				got, err := source.AccessToken(ctx)
				return err == nil && got != access && server.Valid(got)
			})
			if stored, err := app.store.Load(ctx, account); err != nil || stored.Generation != 1 {
				t.Fatalf("stored meanwhile: %v, %v", stored, err)
			}
			trouble.end(d)
			until("a stored token", func() bool {
				stored, err := app.store.Load(ctx, account)
				return err == nil && stored.Generation >= 2
			})
			if n := server.Reused(); n != 0 {
				t.Errorf("%d refresh tokens were presented twice", n)
			}
		})
	}
}
