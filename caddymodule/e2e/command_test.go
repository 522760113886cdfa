//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// command is `caddy oauth-mail` beside the Caddy of a Stack.
func (s *Stack) command(t testing.TB, args ...string) (cmd *exec.Cmd, stdin io.WriteCloser, said *lockedBuffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), caddyBinary, append([]string{"oauth-mail", "--address", strings.TrimPrefix(s.AdminURL, "http://")}, args...)...)
	cmd.Env = append(os.Environ(), "LANG=C", "DISPLAY=", "WAYLAND_DISPLAY=", "HOME="+s.dir)
	said = new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = said, said
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, stdin, said
}

// hears waits until a command has said something, and returns the first group of it.
func hears(t testing.TB, said *lockedBuffer, pattern string) (found string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	eventually(t, 30*time.Second, "the command says "+pattern, func() bool {
		m := want.FindStringSubmatch(said.String())
		if m != nil {
			found = m[1]
		}
		return m != nil
	})
	return found
}

// A server without a screen: the operator types `authorize`, and somebody with a browser
// types the code on oidc-provider's page.
func TestCommandDevice(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	cmd, _, said := s.command(t, "authorize", s.user)
	address := hears(t, said, `open\s+(http\S+)`)
	code := hears(t, said, `type the code\s+(\S+)`)
	page := newBrowser(t).open(t, address).submit("user_code", code)
	if page = s.consent(t, page.submit(), s.user); page.Status != http.StatusOK {
		t.Fatalf("the provider's last page, status %d: %s", page.Status, page.text())
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "Signed in: idp/"+s.user) {
		t.Fatalf("%v: %s", err, said)
	}
	wantAlive(t, s, onPostfix)
	cmd, _, said = s.command(t, "test", onPostfix, "--to", "reader@example.net")
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "✔ auth") || !strings.Contains(said.String(), "Sent: ") {
		t.Errorf("%v: %s", err, said)
	}
	s.checkSecrets(t)
}

// A browser that cannot reach this server: the address where it ends is pasted.
func TestCommandPaste(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	cmd, stdin, said := s.command(t, "authorize", "--flow", "paste", s.user)
	page := s.consent(t, newBrowser(t).open(t, hears(t, said, `page in any browser[^\n]*\s+(http\S+)`)), s.user)
	if !strings.Contains(page.URL.RawQuery, "code=") {
		t.Fatalf("the browser ended at %s, status %d: %s", page.URL.Path, page.Status, page.text())
	}
	s.proxy.keep("code", page.URL.Query().Get("code"))
	if _, err := io.Copy(stdin, bytes.NewBufferString(page.URL.String()+"\n")); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "Signed in: idp/"+s.user) {
		t.Fatalf("%v: %s", err, said)
	}
	wantAlive(t, s, onPostfix)
	s.checkSecrets(t)
}
