package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/caddymodule/endurance"
)

// asCaddy makes this test program act as Caddy: tests that need a process of its
// own, to kill it for one, need no build step.
const asCaddy = "OAUTH_MAIL_TEST_AS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// caddyProcess is a running Caddy with this module.
type caddyProcess struct {
	t *testing.T
	// URL is where its site listens, without a slash at the end.
	URL string
	// admin is the address of Caddy's own administration.
	admin  string
	dir    string
	config string
	cmd    *exec.Cmd
	// wait returns when cmd has ended.
	wait   func()
	output logFile
	// reloaded is set once a configuration was loaded over another.
	reloaded *atomic.Bool
}

// siteConfig is a Caddyfile for a test: APP stands for the content of the global
// option, URL for the site's address.
const siteConfig = `{
	admin ADMIN
	persist_config off
	storage file_system DIR/storage
	log {
		level DEBUG
	}
	oauth_mail {
		redirect_base URL/oauth/callback
APP
	}
}
URL {
	log
	@send path /emails /emails/* /t/* /openapi.json
	oauth_mail @send send
	oauth_mail /oauth/* callback
	handle_path /admin/* {
		basic_auth {
			ops $2a$04$RbAFPPsTv5Eb8x1m.6N8/eJ1wE4njy0qDlQ/7V78PC90gLUx/Q1bS
		}
		oauth_mail admin {
			role admin ops
		}
	}
	handle_path /closed/* {
		oauth_mail admin
	}
SITE
	respond 404
}
`

// startCaddy starts Caddy with the given content of the global option, and waits
// until it answers.
func startCaddy(t *testing.T, app string) *caddyProcess {
	t.Helper()
	return startCaddyWith(t, app, "")
}

// startCaddyWith does so with more lines in the site.
func startCaddyWith(t *testing.T, app, site string) *caddyProcess {
	t.Helper()
	p := configureCaddy(t, app, site)
	t.Cleanup(p.kill)
	p.start()
	return p
}

// configureCaddy makes one that is not started.
func configureCaddy(t *testing.T, app, site string) *caddyProcess {
	t.Helper()
	dir := t.TempDir()
	p := &caddyProcess{
		reloaded: new(atomic.Bool),
		t:        t, URL: "http://" + freeAddress(t), admin: freeAddress(t), dir: dir, config: filepath.Join(dir, "Caddyfile"), output: newLogFile(t),
	}
	config := strings.NewReplacer("DIR", dir, "APP", app, "SITE", site, "URL", p.URL, "ADMIN", p.admin).Replace(siteConfig)
	writeFile(t, p.config, []byte(config))
	t.Cleanup(func() {
		if _, race, found := strings.Cut(p.output.String(), "WARNING: DATA RACE"); found {
			t.Errorf("the race detector has found something in Caddy:\n%.6000s", race)
		}
		if _, panicked, found := strings.Cut(p.output.String(), "http: panic serving"); found {
			t.Errorf("a handler panicked: %.3000s", panicked)
		}
	})
	return p
}

func (p *caddyProcess) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCaddy+"=1", "XDG_CONFIG_HOME="+p.dir, "XDG_DATA_HOME="+p.dir, "HOME="+p.dir)
	return cmd
}

func (p *caddyProcess) start() {
	p.t.Helper()
	p.cmd = p.command("run", "--config", p.config, "--adapter", "caddyfile")
	out, err := os.OpenFile(string(p.output), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	cmd := p.cmd
	p.wait = sync.OnceFunc(func() { _ = cmd.Wait(); close(ended) })
	go p.wait()
	address := strings.TrimPrefix(p.URL, "http://")
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			p.t.Fatalf("Caddy has ended:\n%s", p.output)
		case <-time.After(20 * time.Millisecond): // another process: there is nothing else to wait on
		}
	}
	p.t.Fatalf("Caddy does not listen at %s:\n%s", address, p.output)
}

// reload loads the configuration with the replacements made in it.
func (p *caddyProcess) reload(replacements ...string) (int, string) {
	p.t.Helper()
	p.reloaded.Store(true)
	config, err := os.ReadFile(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	config = []byte(strings.NewReplacer(replacements...).Replace(string(config)))
	var resp *http.Response
	// A load also replaces the administration's own listener, and what waits there for
	// its turn is reset. To load the same once more does no harm.
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://"+p.admin+"/load", bytes.NewReader(config))
		if err != nil {
			p.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "text/caddyfile")
		req.Header.Set("Cache-Control", "must-revalidate") // load it though nothing has changed
		if resp, err = http.DefaultClient.Do(req); err == nil {
			break
		}
		if try == 3 {
			p.t.Fatal(err)
		}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// kill ends Caddy as a power cut would.
func (p *caddyProcess) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		p.wait()
		p.cmd = nil
	}
}

// answer is an HTTP answer with its body.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request as it is, without cleaning its path. It may be called from
// any goroutine; an answer with status 0 says why there was none.
func (p *caddyProcess) do(method, target string, header map[string]string, body string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.URL, strings.NewReader(body))
	if err != nil {
		return answer{body: err.Error()}
	}
	path, query, _ := strings.Cut(target, "?")
	req.URL.Opaque, req.URL.RawQuery = path, query
	if strings.HasPrefix(path, "//") { // Go would take it for a host
		req.URL.Opaque = p.URL + path
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	req.Close = true // a reload ends idle connections
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	// A reload resets connections that wait to be accepted, also a moment after it was
	// answered, or closes them where they just were. What was read is answered.
	for try := 0; p.reloaded.Load() && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)) && try < 3; try++ {
		req.Body = io.NopCloser(strings.NewReader(body))
		resp, err = client.Do(req)
	}
	if err != nil {
		return answer{body: err.Error()}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{body: err.Error()}
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

const testKey = "test-key-with-24-characters"

// send posts to the send route with the test's key.
func (p *caddyProcess) send(body string) answer {
	p.t.Helper()
	return p.do("POST", "/emails", map[string]string{
		"Authorization": "Bearer " + testKey, "Content-Type": "application/json",
	}, body)
}

// freeAddress returns a loopback address that nobody listens at.
func freeAddress(t *testing.T) string { return endurance.FreeAddress(t) }

// logFile is the path of a file that a process writes its log to. What the process has
// written is there at once: a test that has an answer finds the lines before it.
type logFile string

func newLogFile(t *testing.T) logFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	writeFile(t, path, nil)
	return logFile(path)
}

func (l logFile) String() string {
	log, err := os.ReadFile(string(l))
	if err != nil {
		return err.Error()
	}
	return string(log)
}

// awaitLog waits until the log has the text.
func (p *caddyProcess) awaitLog(text string) {
	p.t.Helper()
	await(p.t, "the log has "+text, func() bool { return strings.Contains(p.output.String(), text) })
}

// lockedBuffer is a buffer that one goroutine writes to while another reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// field is a member of a JSON object with a string or number.
func field(name string, value any) string { return fmt.Sprintf("%q:%q", name, value) }

// grepLines returns the lines that have one of the words.
func grepLines(text string, words ...string) string {
	var found []string
	for line := range strings.Lines(text) {
		for _, w := range words {
			if strings.Contains(line, w) {
				found = append(found, line)
				break
			}
		}
	}
	return strings.Join(found, "")
}
