package caddymodule

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

func init() { caddy.RegisterModule(new(eventLogger)) }

// eventLogger is a handler of events that logs them.
type eventLogger struct{ logger *slog.Logger }

func (*eventLogger) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_log", New: func() caddy.Module { return new(eventLogger) }}
}

func (l *eventLogger) Provision(ctx caddy.Context) error {
	l.logger = ctx.Slogger()
	return nil
}

func (l *eventLogger) Handle(_ context.Context, e caddy.Event) error {
	l.logger.Info("seen event", "event", e.Name(), "tenant", e.Data["tenant"], "diagnosis", e.Data["diagnosis"], "data", e.Data)
	return nil
}

func (*eventLogger) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// gate is a mail server whose answer to the content waits for open.
func gate(t *testing.T) (script *mailertest.Script, address string, open chan struct{}) {
	t.Helper()
	script = &mailertest.Script{Answers: map[string][]string{mailertest.Content: {"250 2.0.0 at last"}, "BDAT": {"250 2.0.0 at last"}}}
	open = make(chan struct{})
	host, port := mailertest.Listen(t, func(nc net.Conn) { script.Serve(gated{nc, open}) })
	return script, net.JoinHostPort(host, fmt.Sprint(port)), open
}

type gated struct {
	net.Conn
	open chan struct{}
}

func (g gated) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "at last") {
		<-g.open
	}
	return g.Conn.Write(b)
}

// mustReload loads the configuration with replacements.
func (p *caddyProcess) mustReload(replacements ...string) {
	p.t.Helper()
	if status, body := p.reload(replacements...); status != 200 {
		p.t.Fatalf("loading: status %d: %s", status, body)
	}
}

// sendAsync posts a mail that nobody waits for, once more if a reload reset the
// connection.
func (p *caddyProcess) sendAsync() sent {
	p.t.Helper()
	got := p.post(mailBody, "Prefer", "respond-async")
	for try := 0; got.status == 0 && try < 3; try++ {
		got = p.post(mailBody, "Prefer", "respond-async")
	}
	return accepted(p.t, got, 202, "queued")
}

// TestReloadKeepsOutbox: over reloads, failed ones among them, one engine stays open
// and every message goes once.
func TestReloadKeepsOutbox(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script, "lifetime 24h"))
	ids := []string{p.sendAsync().ID}
	for i := range 5 {
		p.mustReload("lifetime 24h", fmt.Sprintf("lifetime %dh", 10+i))
		ids = append(ids, p.sendAsync().ID)
		status, body := p.reload("from sender@example.com", "from sender@example.com\nbrake 2", "redirect_base", "outbox bbolt /dev/null/outbox\nredirect_base")
		if status != 400 || !strings.Contains(body, "outbox bbolt: ") || !strings.Contains(body, "/dev/null/outbox") {
			t.Fatalf("an outbox that cannot be: status %d: %s", status, body)
		}
		ids = append(ids, p.sendAsync().ID)
	}
	await(t, "all are sent", func() bool { return len(script.Contents()) == len(ids) })
	all := strings.Join(script.Contents(), "")
	for _, id := range ids {
		if n := strings.Count(all, "<"+id+"@"); n != 1 {
			t.Errorf("%s was sent %d times", id, n)
		}
	}
	var m messageView
	p.mustReload("lifetime 24h", "lifetime 7h")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for range 4 { // apps start in any order
		status, body := p.reload("lifetime 24h", "lifetime 5h", "\trespond 404\n}\n", "\trespond 404\n}\nhttp://"+taken.Addr().String()+" {\n\trespond 404\n}\n")
		if status != 400 || !strings.Contains(body, "in use") {
			t.Errorf("a listener that cannot be: status %d: %s", status, body)
		}
	}
	p.ops(&m, "GET", "/outbox/messages/"+p.sendAsync().ID)
	if life := m.ExpiresAt.Sub(m.AcceptedAt); life != 7*time.Hour {
		t.Errorf("lifetime %v after a reload that failed", life)
	}
}

// TestReloadDuringDelivery: another folder is configured while a message's content is
// on its way. The message ends as it began, what waits stays and is told of, and goes
// when the folder is back.
func TestReloadDuringDelivery(t *testing.T) {
	t.Parallel()
	script, address, open := gate(t)
	p := startCaddy(t, tenantAt(address, "connections 1"))
	first := p.sendAsync()
	await(t, "the content is there", func() bool {
		return len(script.Contents()) == 1 || script.Said("BDAT") == 1 || script.Said("DATA") == 1
	})
	later := accepted(t, p.post(strings.Replace(mailBody, "{", `{"scheduled_at":"in 2 hours",`, 1)), 200, "scheduled")
	other := []string{"redirect_base", "outbox bbolt " + filepath.Join(p.dir, "other") + "\nredirect_base"}
	began := time.Now()
	p.mustReload(other...)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the reload took %v", took)
	}
	await(t, "the log tells what is left", func() bool {
		return strings.Contains(p.output.String(), "the outbox that is no longer configured still holds messages")
	})
	if got := p.ops(nil, "GET", "/outbox/messages/"+later.ID); got.status != 404 {
		t.Errorf("in the new outbox: status %d", got.status)
	}
	close(open)
	await(t, "the first folder can be opened again", func() bool { status, _ := p.reload(); return status == 200 })
	var m messageView
	p.ops(&m, "GET", "/outbox/messages/"+first.ID)
	if m.State != "sent" || m.Attempts > 1 {
		t.Errorf("the first message: %+v", m)
	}
	p.ops(&m, "GET", "/outbox/messages/"+later.ID)
	if m.State != "scheduled" {
		t.Errorf("the scheduled message: %+v", m)
	}
	if n := len(script.Contents()); n != 1 {
		t.Errorf("%d contents", n)
	}
}

// TestStopWaitsForContent: a stop lets a message come to its end whose content is on
// its way, and what waits goes after the next start.
func TestStopWaitsForContent(t *testing.T) {
	t.Parallel()
	script, address, open := gate(t)
	p := startCaddy(t, tenantAt(address, "connections 1"))
	first, second := p.sendAsync(), p.sendAsync()
	await(t, "a content is there", func() bool { return script.Said("BDAT")+script.Said("DATA") >= 1 })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.awaitLog("shutting down")
	close(open)
	p.wait()
	p.start()
	var one, two messageView
	await(t, "both are sent", func() bool {
		p.ops(&one, "GET", "/outbox/messages/"+first.ID)
		p.ops(&two, "GET", "/outbox/messages/"+second.ID)
		return one.State == "sent" && two.State == "sent"
	})
	if n := len(script.Contents()); n != 2 {
		t.Errorf("%d contents, want 2", n)
	}
}

// TestOutboxLocked: a folder belongs to one process. A second one does not start, and
// does not harm the first; to validate needs no lock.
func TestOutboxLocked(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	folder := filepath.Join(t.TempDir(), "outbox")
	key := "encryption_key " + tokens.NewKey() + "\n"
	app := key + "outbox bbolt " + folder + "\n" + scripted(t, script)
	p := startCaddy(t, app)
	second := configureCaddy(t, app, "")
	began := time.Now()
	if out, err := second.command("validate", "--config", second.config, "--adapter", "caddyfile").CombinedOutput(); err != nil || time.Since(began) > 9*time.Second {
		t.Errorf("validate took %v: %v: %s", time.Since(began), err, out)
	}
	out, err := second.command("run", "--config", second.config, "--adapter", "caddyfile").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the outbox in "+folder+" is in use by another process") {
		t.Errorf("started: %v: %s", err, out)
	}
	accepted(t, p.post(mailBody), 200, "sent")
}

// TestOutboxKey: messages that wait are sealed. Without the key, or with another one,
// nothing starts and no new one is made.
func TestOutboxKey(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{"MAIL": {"451 4.3.0 later", "451 4.3.0 later"}}}
	p := startCaddy(t, scripted(t, script))
	v := accepted(t, p.post(mailBody), 200, "queued")
	if v.SMTP == nil || v.SMTP.Code != 451 || v.Diagnosis == nil {
		t.Errorf("answer %+v", v)
	}
	var m messageView
	await(t, "the try is recorded", func() bool {
		p.ops(&m, "GET", "/outbox/messages/"+v.ID)
		return m.State == "queued"
	})
	p.kill()
	key := filepath.Join(p.dir, "storage-oauth_mail.key")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	out, err := p.command("run", "--config", p.config, "--adapter", "caddyfile").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "storage-oauth_mail.key is missing, and the outbox (bbolt:") {
		t.Errorf("started without the key: %v: %s", err, out)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a new key was made")
	}
	config, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(key + ".away")
	if err != nil {
		t.Fatal(err)
	}
	fresh := tokens.NewKey()
	configured := func(keys string) []byte {
		return bytes.Replace(config, []byte("redirect_base"), []byte("encryption_key "+keys+"\nredirect_base"), 1)
	}
	for name, change := range map[string]func(){
		"file":           func() { writeFile(t, key, []byte(fresh+"\n")) },
		"encryption_key": func() { writeFile(t, p.config, configured(fresh)) },
	} {
		change()
		out, err := p.command("run", "--config", p.config, "--adapter", "caddyfile").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "the key that it was sealed with is missing: key id ") || !strings.Contains(string(out), "bring that key back, as a further encryption_key") {
			t.Errorf("%s: started with another key: %v: %s", name, err, out)
		}
		if strings.Contains(string(out), fresh) || strings.Contains(string(out), strings.TrimSpace(string(old))) {
			t.Errorf("%s: a key was shown: %s", name, out)
		}
	}
	writeFile(t, p.config, configured(fresh+" "+strings.TrimSpace(string(old))))
	p.start()
	p.ops(&m, "GET", "/outbox/messages/"+v.ID)
	if m.Failure == nil || m.Failure.SMTP == nil || m.Failure.SMTP.Code != 451 {
		t.Errorf("message %+v", m)
	}
}

// metric returns the sample of a metric, or -1.
func (p *caddyProcess) metric(sample string) float64 {
	p.t.Helper()
	for line := range strings.Lines(p.adminGet("/metrics")) {
		if value, ok := strings.CutPrefix(line, sample+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// adminGet reads from Caddy's own administration.
func (p *caddyProcess) adminGet(path string) string {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.admin+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(body)
}

// TestOutboxMetricsAndEvents: figures go on over reloads, and handlers are told.
func TestOutboxMetricsAndEvents(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{"RCPT": {"", "550 5.1.1 <a@example.net> unknown", ""}}}
	p := startCaddy(t, scripted(t, script))
	p.mustReload("\toauth_mail {", "\tevents {\n\t\ton mail_failed test_log\n\t\ton mail_deferred test_log\n\t\ton mail_parked test_log\n\t}\n\toauth_mail {")
	accepted(t, p.post(mailBody), 200, "sent")
	if got := p.post(mailBody); got.status != 422 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	await(t, "the refusal is told as an event", func() bool {
		return strings.Contains(grepLines(p.output.String(), `"seen event"`), `"event":"mail_failed"`)
	})
	line := grepLines(p.output.String(), `"seen event"`)
	if !strings.Contains(line, `"tenant":"default"`) || strings.Contains(line, "example.net") || !strings.Contains(line, "general.recipient_unknown") {
		t.Errorf("event %s", line)
	}
	p.ops(new(laneView), "POST", "/outbox/tenants/default/pause")
	p.sendAsync()
	p.mustReload()
	for sample, want := range map[string]float64{
		`caddy_oauth_mail_messages_total{result="accepted",tenant="default"}`: 3,
		`caddy_oauth_mail_messages_total{result="sent",tenant="default"}`:     1,
		`caddy_oauth_mail_messages_total{result="failed",tenant="default"}`:   1,
		`caddy_oauth_mail_attempts_total{result="sent",tenant="default"}`:     1,
		`caddy_oauth_mail_queue_messages{state="queued",tenant="default"}`:    1,
		`caddy_oauth_mail_queue_messages{state="failed",tenant="default"}`:    1,
		`caddy_oauth_mail_outbox_max_bytes`:                                   2 << 30,
		`caddy_oauth_mail_events_dropped_total`:                               0,
	} {
		await(t, sample, func() bool { return p.metric(sample) == want })
	}
	if age := p.metric(`caddy_oauth_mail_queue_oldest_age_seconds{tenant="default"}`); age <= 0 || age > 60 {
		t.Errorf("oldest age %v", age)
	}
	if v := p.metric(`caddy_oauth_mail_outbox_bytes`); v <= 0 {
		t.Errorf("bytes %v", v)
	}
}

var (
	goroutines = regexp.MustCompile(`goroutine profile: total ([0-9]+)`)
	// lockKeepers are certmagic's: they notice only with their next look, seconds later,
	// that their lock is released.
	lockKeepers = regexp.MustCompile(`\n([0-9]+) @[^\n]*\n(?:#[^\n]*\n)*#[^\n]*certmagic\.keepLockfileFresh`)
)

// figures returns how many goroutines the process has that do not end by themselves, and
// how many open files.
func (p *caddyProcess) figures() (running, files int) {
	p.t.Helper()
	http.DefaultClient.CloseIdleConnections() // each costs the server goroutines
	profile := p.adminGet("/debug/pprof/goroutine?debug=1")
	number := func(m []string) int {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			p.t.Fatal(err)
		}
		return n
	}
	m := goroutines.FindStringSubmatch(profile)
	if m == nil {
		p.t.Fatal("no profile")
	}
	running = number(m)
	if k := lockKeepers.FindStringSubmatch(profile); k != nil {
		running -= number(k)
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return running, len(entries)
}

// TestReloadsLeakNothing: goroutines and files are as many after 100 reloads as before.
// It counts files in /proc.
func TestReloadsLeakNothing(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	p.mustReload()
	accepted(t, p.post(mailBody), 200, "sent")
	running, files := p.figures()
	for i := range 100 {
		switch i % 3 {
		case 0:
			p.mustReload()
		case 1:
			p.mustReload("redirect_base", "outbox bbolt "+filepath.Join(p.dir, "other")+"\nredirect_base")
		case 2:
			p.mustReload("redirect_base", "outbox off\nredirect_base")
		}
	}
	await(t, "the first folder can be opened again", func() bool { status, _ := p.reload(); return status == 200 })
	accepted(t, p.post(mailBody), 200, "sent")
	var now, open int
	defer func() {
		t.Logf("%d goroutines and %d files before, %d and %d after", running, files, now, open)
		if t.Failed() {
			t.Log(p.adminGet("/debug/pprof/goroutine?debug=1"))
		}
	}()
	// One for each reload, of whichever kind, would be 33 at least.
	await(t, "what reloads left has ended", func() bool {
		now, open = p.figures()
		return now <= running+5 && open <= files+5
	})
	if n := len(script.Contents()); n != 2 {
		t.Errorf("%d messages", n)
	}
}
