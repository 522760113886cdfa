package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// ran is what a command has left behind.
type ran struct {
	code     int
	out, err string
}

// run runs a command of the command line against the process.
func (p *caddyProcess) run(stdin string, args ...string) ran {
	p.t.Helper()
	return p.runAs(os.Args[0], nil, stdin, append([]string{"oauth-mail", "--address", p.admin}, args...)...)
}

// runAs runs Caddy under a name, with more environment.
func (p *caddyProcess) runAs(name string, env []string, stdin string, args ...string) ran {
	p.t.Helper()
	cmd := p.command(args...)
	cmd.Path, cmd.Args[0] = name, name
	cmd.Env = append(cmd.Env, plainTerminal...)
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		p.t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// plainTerminal is the environment of somebody at a server's console.
var plainTerminal = []string{"LANG=C", "LC_ALL=", "DISPLAY=", "WAYLAND_DISPLAY=", "TZ=UTC"}

// changing are the parts of a transcript that are never the same.
var changing = []struct {
	found *regexp.Regexp
	name  string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "<id>"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(` +\d+ ms`), "  <n> ms"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "<time>"},
	{regexp.MustCompile(`\S+ \(command line\)`), "<user> (command line)"},
	{regexp.MustCompile(`(?m)^\{"level":.*\n`), ""}, // Caddy's own log
	{regexp.MustCompile(`(?m) +$`), ""},
}

// transcript is a command with all that it said.
func (p *caddyProcess) transcript(b *strings.Builder, stdin string, args ...string) {
	r := p.run(stdin, args...)
	text := "$ caddy oauth-mail " + strings.Join(args, " ") + "\n" + r.out + r.err
	for _, c := range changing {
		text = c.found.ReplaceAllString(text, c.name)
	}
	text = strings.ReplaceAll(text, p.dir, "<dir>")
	b.WriteString(text)
	if r.code != 0 {
		fmt.Fprintf(b, "exit code %d\n", r.code)
	}
	b.WriteString("\n")
}

// golden compares with a file of testdata. With UPDATE_GOLDEN in the environment it
// writes the file: read what has changed.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", name, diff)
	}
}

// TestCommandLine: what each command says to a person, to the letter.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{"RCPT": {"", "", "550 5.1.1 nobody of that name", ""}}}
	p := startCaddy(t, scripted(t, script))
	p.managementToken() // is there when the app has started
	var b strings.Builder
	say := func(stdin string, args ...string) { p.transcript(&b, stdin, args...) }
	say("", "status")
	say("", "test", "default")
	say("", "test", "default", "--to", "ops@example.net")
	say("Hello.\n", "send", "--to", "a@example.net", "--subject", "Hello")
	say("Hello.\n", "send", "--to", "gone@example.net", "--subject", "Hello")
	say("Hello.\n", "send", "--to", "nobody", "--subject", "Hello")
	message := filepath.Join(p.dir, "message.eml")
	writeFile(t, message, []byte("To: c@example.net\nSubject: Whole\n\nAs it is.\n"))
	say("", "send", "--raw", message)
	say("To: d@example.net\n\nAs it is.\n", "send", "--raw", "-", "--to", "e@example.net", "--from", "sender@example.com", "--idempotency-key", "1")
	say("Subject: to nobody\n\nx\n", "send", "--raw", "-")
	say("", "send", "--raw", filepath.Join(p.dir, "nothing.eml"))
	say("", "check", p.config)
	broken := filepath.Join(p.dir, "Caddyfile.broken")
	writeFile(t, broken, []byte("{\n\toauth_mail {\n\t\tmax_body much\n\t}\n}\n"))
	say("", "check", broken)
	say("", "outbox", "pause", "default")
	say("", "status")
	say("Hello.\n", "send", "--to", "b@example.net", "--subject", "Later")
	say("", "outbox")
	say("", "outbox", "list", "--state", "queued")
	id := p.queuedID()
	say("", "outbox", "show", id)
	say("", "outbox", "retry", "no-such-id")
	say("", "outbox", "cancel", id)
	say("", "log")
	say("", "log", "--state", "failed")
	say("", "outbox", "drop", id)
	say("", "outbox", "drop", id)
	say("", "outbox", "resume", "default")
	say("", "status", "nobody")
	say("", "test", "nobody")
	say("", "test")
	say("", "status", "--wrong")
	say("", "sing")
	say("", "authorize", "nobody")
	say("", "outbox", "pause", "nobody")
	golden(t, "commandline.txt", b.String())
}

// TestCommandLogFollows: what is accepted, and what becomes of it, is told while the
// command runs, each once.
func TestCommandLogFollows(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, scripted(t, &mailertest.Script{}))
	p.managementToken() // is there when the app has started
	first := accepted(t, p.post(mailBody), 200, "sent").ID
	out := newLogFile(t)
	cmd := p.command("oauth-mail", "--address", p.admin, "log", "--follow", "--json")
	cmd.Env = append(cmd.Env, plainTerminal...)
	f, err := os.OpenFile(string(out), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	await(t, "the one of before is told", func() bool { return strings.Contains(out.String(), `"state":"sent"`) })
	if r := p.run("", "outbox", "pause", "default"); r.code != 0 {
		t.Fatal(r.err)
	}
	id := accepted(t, p.post(mailBody), 200, "queued").ID
	told := func(id, state string) (n int) {
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, `{"id":"`+id+`"`) && strings.Contains(line, `"state":"`+state+`"`) {
				n++
			}
		}
		return n
	}
	await(t, "the next one is told", func() bool { return told(id, "queued") > 0 })
	if r := p.run("", "outbox", "resume", "default"); r.code != 0 {
		t.Fatal(r.err)
	}
	await(t, "what became of it is told", func() bool { return told(id, "sent") > 0 })
	if a, b, c := told(first, "sent"), told(id, "queued"), told(id, "sent"); a != 1 || b != 1 || c != 1 {
		t.Errorf("told %d, %d and %d times:\n%s", a, b, c, out)
	}
}

// TestCommandStatusOfRest: what waits for a server that cannot be reached is no trouble
// yet, but nobody is told that all is well.
func TestCommandStatusOfRest(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, tenantAt(freeAddress(t)))
	p.managementToken() // is there when the app has started
	accepted(t, p.post(mailBody), 200, "queued")
	var r ran
	await(t, "the tenant rests", func() bool {
		r = p.run("", "status")
		return strings.Contains(r.out, "default waits, and tries again at ")
	})
	for _, want := range []string{"default  waits ", "connection refused", "To do (operator):"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is not in %s", want, r.out)
		}
	}
	if r.code != 0 || strings.Contains(r.out, "All is well") {
		t.Errorf("exit code %d: %s", r.code, r.out)
	}
}

func TestFailureWords(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]messageFailureView{
		"":                                      {},
		"connection refused":                    {Cause: "connection refused"},
		"the mail server said: 451 4.3.0 later": {SMTP: &smtpReply{Code: 451, Enhanced: "4.3.0", Text: "later"}},
		"the mail server said: 421 too many of us": {SMTP: &smtpReply{Code: 421, Text: "too many of us"}},
	} {
		if got := f.words(); got != want {
			t.Errorf("%+v: %q, want %q", f, got, want)
		}
	}
}

// queuedID is the id of the message that waits.
func (p *caddyProcess) queuedID() string {
	p.t.Helper()
	r := p.run("", "outbox", "list", "--state", "queued", "--json")
	id := changing[0].found.FindString(r.out)
	if id == "" {
		p.t.Fatalf("no message waits: %+v", r)
	}
	return id
}
