//go:build e2e

package e2e

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// openSSL is a session with an entrance, by OpenSSL's own TLS.
type openSSL struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	replies *bufio.Reader
}

// sClient is OpenSSL's client, which begins a session with STARTTLS and verifies the
// certificate. Without a name it does not tell which host it wants.
func sClient(port int, ca, name string, more ...string) *exec.Cmd {
	argv := append(more, "-connect", fmt.Sprintf("127.0.0.1:%d", port), "-starttls", "smtp", "-verify_return_error", "-CAfile", ca, "-verify_hostname", "localhost")
	if name == "" {
		argv = append(argv, "-noservername")
	} else {
		argv = append(argv, "-servername", name)
	}
	return exec.Command("/usr/bin/openssl", append([]string{"s_client"}, argv...)...)
}

// openSession begins a session.
func openSession(t testing.TB, port int, ca, name string) *openSSL {
	t.Helper()
	o := &openSSL{cmd: sClient(port, ca, name, "-crlf", "-quiet")}
	stdin, err := o.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	o.stdin, o.replies = stdin, bufio.NewReader(stdout)
	if err := o.cmd.Start(); err != nil {
		t.Fatalf("OpenSSL is missing or broken: %v", err)
	}
	t.Cleanup(o.end)
	return o
}

func (o *openSSL) end() {
	_ = o.stdin.Close()
	_ = o.cmd.Process.Kill()
	_ = o.cmd.Wait()
}

// say says a line and wants a reply with that code.
func (o *openSSL) say(t testing.TB, line, code string) string {
	t.Helper()
	if _, err := io.WriteString(o.stdin, line+"\n"); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	for {
		reply, err := o.replies.ReadString('\n')
		if err != nil || !strings.HasPrefix(reply, code) {
			t.Fatalf("%s: %q, %v, want %s", line, reply, err, code)
		}
		if strings.HasPrefix(reply, code+" ") {
			return reply
		}
	}
}

// send sends a message in the session.
func (o *openSSL) send(t testing.TB, from, to string) {
	t.Helper()
	o.say(t, "MAIL FROM:<"+from+">", "250")
	o.say(t, "RCPT TO:<"+to+">", "250")
	o.say(t, "DATA", "354")
	o.say(t, "From: "+from+"\nTo: "+to+"\nSubject: one\n\nx\n.", "250")
}

// serial returns the number of the certificate that a new session is shown.
func serial(t testing.TB, port int, ca, name string) string {
	t.Helper()
	cmd := sClient(port, ca, name)
	cmd.Stdin = strings.NewReader("QUIT\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("OpenSSL, host name %q: %v\n%s", name, err, out)
	}
	block, _ := pem.Decode(out)
	if block == nil {
		t.Fatalf("no certificate:\n%s", out)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate.SerialNumber.Text(16)
}

// The certificate comes from Caddy's own authority, and verifies with and without a
// host name in the handshake. Sessions outlive a reload, and its renewal.
func TestEntranceCertificate(t *testing.T) {
	t.Parallel()
	e := newEntrances(t, onPostfix)
	s := Start(t, Options{Lines: e.lines(), Global: "cert_issuer internal {\nlifetime 20s\n}\nrenew_interval 1s\n"})
	s.SignIn(t)
	e.trust(t, s)
	port := e.ports[startTLS]
	first := serial(t, port, e.ca, "localhost")
	open := openSession(t, port, e.ca, "localhost")
	open.say(t, "EHLO open", "250")
	open.send(t, s.user, "first@example.net")

	s.reload(t)
	serial(t, port, e.ca, "")
	open.send(t, s.user, "reloaded@example.net")

	for _, name := range []string{"localhost", "", "other.example.com"} {
		eventually(t, patience, "another certificate", func() bool { return serial(t, port, e.ca, name) != first })
	}
	open.send(t, s.user, "renewed@example.net")
	letter := paper{given: "From: " + s.user + "\r\n\r\nx\r\n"}
	letter.write(t, s.dir, 0)
	for i, p := range submitters {
		if p.name != "swaks" && p.name != "curl" { // without the host name, and with it
			continue
		}
		to := fmt.Sprintf("new-%d@example.net", i)
		argv, stdin := p.command(submission{
			greeting: "new", tls: startTLS, port: port, ca: e.ca, mechanism: "PLAIN", user: e.user, password: e.password, from: s.user, to: to,
			paper: &letter,
		})
		runProgram(t, argv, stdin)
		s.mailbox.findTo(t, to)
	}
	for _, to := range []string{"first@example.net", "reloaded@example.net", "renewed@example.net"} {
		s.mailbox.findTo(t, to)
	}
}
