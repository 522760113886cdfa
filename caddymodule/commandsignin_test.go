package caddymodule

import (
	"encoding/json"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// conversation is a command that asks and waits.
type conversation struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *lockedBuffer
}

// converse starts a command that is not done at once.
func (p *caddyProcess) converse(args ...string) *conversation {
	p.t.Helper()
	cmd := p.command(append([]string{"oauth-mail", "--address", p.admin}, args...)...)
	cmd.Env = append(cmd.Env, plainTerminal...)
	c := &conversation{t: p.t, cmd: cmd, said: new(lockedBuffer)}
	cmd.Stdout, cmd.Stderr = c.said, c.said
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return c
}

// hears waits until the command has said something, and returns the first group of it.
func (c *conversation) hears(pattern string) (found string) {
	c.t.Helper()
	want := regexp.MustCompile(pattern)
	await(c.t, "the command says "+pattern+", not "+c.said.String(), func() bool {
		m := want.FindStringSubmatch(c.said.String())
		if m == nil {
			return false
		}
		found = m[1]
		return true
	})
	return found
}

func (c *conversation) says(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// ends waits for the end of the command, which must have said something at last.
func (c *conversation) ends(code int, said ...string) {
	c.t.Helper()
	_ = c.cmd.Wait()
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.t.Errorf("exit code %d, want %d: %s", got, code, c.said)
	}
	for _, s := range said {
		if !strings.Contains(c.said.String(), s) {
			c.t.Errorf("%q is not in what it said: %s", s, c.said)
		}
	}
}

// TestCommandSignIn: a person signs in with the command line, in each of the ways.
func TestCommandSignIn(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.managementToken()

	r := s.run("", "test", "default")
	if r.code != 12 || !strings.HasSuffix(r.out, "\n  - caddy oauth-mail authorize idp/"+mailbox+"\n") {
		t.Errorf("a test before anybody has signed in: %+v", r)
	}
	c := s.converse("authorize", "--flow", "paste", mailbox)
	address := c.hears(`(http://127\S+/authorize\?\S+)`)
	answer, err := s.idp.Consent(address, mailbox)
	if err != nil {
		t.Fatal(err)
	}
	c.says(s.URL + "/oauth/callback/idp?" + answer.Encode())
	c.ends(0, "Signed in: idp/"+mailbox+" may send.", "caddy oauth-mail test default")
	if s.state() != "authorized" {
		t.Error("the account is " + s.state())
	}
	if got := s.admin("GET", "/accounts/idp/"+mailbox); !strings.Contains(got.body, `(command line)"`) {
		t.Errorf("who has signed in is not told: %s", got.body)
	}

	c = s.converse("authorize", "--flow", "paste", "default")
	c.hears(`(http://127\S+/authorize\?\S+)`)
	c.says(s.URL + "/oauth/callback/idp?code=x&state=y&iss=" + s.idp.Issuer)
	c.ends(1, "To do (operator): begin anew")
	c = s.converse("authorize", "--flow", "paste", "default")
	c.hears(`(http://127\S+/authorize\?\S+)`)
	c.says("")
	c.ends(2, "No address was pasted")

	r = s.run("", "disconnect", "default")
	if r.code != 1 || !strings.Contains(r.err, "Nothing was changed") || s.state() != "authorized" {
		t.Errorf("without a yes: %+v", r)
	}
	if r = s.run("yes\n", "disconnect", "default"); r.code != 0 || !strings.Contains(r.out, "Disconnected: idp/"+mailbox) {
		t.Errorf("with a yes: %+v", r)
	}
	if r = s.run("", "status"); r.code != 11 || !strings.Contains(r.out, "DOES NOT SEND") || !strings.Contains(r.out, "caddy oauth-mail authorize idp/"+mailbox) {
		t.Errorf("status: %+v", r)
	}
	if r = s.run("", "refresh", "default"); r.code != 1 || !strings.Contains(r.err, "a person must sign in") {
		t.Errorf("refresh: %+v", r)
	}

	c = s.converse("authorize", "idp/"+mailbox, "--no-open", "--flow", "browser", "--json")
	var begun struct{ URL string }
	if err := json.Unmarshal([]byte(c.hears(`(\{.*\})`)), &begun); err != nil {
		t.Fatal(err)
	}
	provider, cookie := s.begin(strings.TrimPrefix(begun.URL, s.URL))
	if answer, err = s.idp.Consent(provider, mailbox); err != nil {
		t.Fatal(err)
	}
	if got := s.do("GET", "/oauth/callback/idp?"+answer.Encode(), map[string]string{"Cookie": cookie}, ""); got.status != 200 {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	c.ends(0, `"state":"authorized"`)

	if r = s.run("", "refresh", "default"); r.code != 0 || !strings.Contains(r.out, "Refreshed: idp/"+mailbox+", good until ") {
		t.Errorf("refresh: %+v", r)
	}
	if r = s.run("", "refresh", "default", "--json"); r.code != 0 || !json.Valid([]byte(r.out)) || !strings.Contains(r.out, `"state":"authorized"`) {
		t.Errorf("refresh: %+v", r)
	}
	_, refreshToken := s.idp.Issue(mailbox, "smtp.send offline_access")
	if r = s.run(refreshToken+"\n", "import", "default"); r.code != 0 || !strings.Contains(r.out, "Signed in") {
		t.Errorf("import: %+v", r)
	}
	if r = s.run("wrong\n", "import", "default"); r.code != 1 || !strings.Contains(r.err, "To do (operator): bring a refresh token that lives") {
		t.Errorf("import: %+v", r)
	}
	if r = s.run("", "import", "default"); r.code != 2 || !strings.Contains(r.err, "There is no refresh token") {
		t.Errorf("import: %+v", r)
	}
	s.switchedOff.Store(true)
	r = s.run("", "test", "default", "--lang", "ja")
	if r.code != 12 || !strings.Contains(r.out, "✖ auth") || !regexp.MustCompile(`\p{Hiragana}`).MatchString(r.out) {
		t.Errorf("test: %+v", r)
	}
	r = s.run("", "test", "default", "--json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if r.code != 12 || len(lines) < 10 || !strings.Contains(lines[len(lines)-1], `"failed_stage":"auth"`) {
		t.Errorf("test: %+v", r)
	}
	if text := s.output.String(); strings.Contains(text, refreshToken) || strings.Contains(text, answer.Get("code")) {
		t.Error("a secret is in the log")
	}
}

// TestCommandDevice: a code that is typed elsewhere.
func TestCommandDevice(t *testing.T) {
	t.Parallel()
	s := startOAuthSite(t)
	s.mustReload("client_secret "+clientSecret, "client_secret "+clientSecret+"\n\t\t\tdevice_code")
	s.managementToken()
	c := s.converse("authorize", "default") // this is what fits where nobody sees a browser
	code := c.hears(`type the code\s+(\S+)`)
	if err := s.idp.Allow(code, mailbox); err != nil {
		t.Fatal(err)
	}
	c.ends(0, "On any device, open", "Signed in: idp/"+mailbox)
	if s.state() != "authorized" {
		t.Error("the account is " + s.state())
	}
	c = s.converse("authorize", "default")
	if err := s.idp.Deny(c.hears(`type the code\s+(\S+)`)); err != nil {
		t.Fatal(err)
	}
	c.ends(1, "To do (mailbox owner)")
}
