//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// submission is a message for an entrance, and how a program is to bring it there.
type submission struct {
	// greeting is what the program is to call itself, where it lets itself be told.
	greeting string
	// tls is the kind, and ca verifies the certificate.
	tls  string
	port int
	ca   string
	// mechanism is PLAIN or LOGIN; empty sends without signing in.
	mechanism, user, password string
	from, to                  string
	*paper
}

// submitter is a client that nobody here wrote: its command, and the file that it reads.
type submitter struct {
	name    string
	command func(submission) (argv []string, stdin string)
	// adds is what it puts at a message's end.
	adds string
}

var submitters = []submitter{
	{name: "swaks", adds: "\r\n", command: func(s submission) ([]string, string) {
		// It asks for no host name, as many devices do.
		argv := []string{"/usr/bin/swaks", "--server", "127.0.0.1", "--port", fmt.Sprint(s.port), "--helo", s.greeting, "--from", s.from, "--to", s.to, "--data", "@" + s.file}
		switch s.tls {
		case startTLS:
			argv = append(argv, "--tls")
		case implicitTLS:
			argv = append(argv, "--tls-on-connect")
		}
		if s.tls != noTLS {
			argv = append(argv, "--tls-verify", "--tls-ca-path", s.ca)
		}
		if s.mechanism != "" {
			argv = append(argv, "--auth", s.mechanism, "--auth-user", s.user, "--auth-password", s.password)
		}
		return argv, ""
	}},
	{name: "msmtp", command: func(s submission) ([]string, string) {
		argv := []string{
			"/usr/bin/msmtp", "--host=localhost", "--port=" + fmt.Sprint(s.port), "--domain=" + s.greeting, "--from=" + s.from, "--logfile=",
			"--tls=" + onOff(s.tls != noTLS), "--tls-starttls=" + onOff(s.tls == startTLS), "--tls-trust-file=" + s.ca,
		}
		if s.mechanism != "" {
			argv = append(argv, "--auth="+strings.ToLower(s.mechanism), "--user="+s.user, "--passwordeval=echo "+s.password)
		}
		return append(argv, "--", s.to), s.unix
	}},
	{name: "curl", command: func(s submission) ([]string, string) {
		scheme := "smtp"
		if s.tls == implicitTLS {
			scheme = "smtps"
		}
		argv := []string{
			"/usr/bin/curl", "--no-progress-meter", "--url", fmt.Sprintf("%s://localhost:%d/%s", scheme, s.port, s.greeting),
			"--mail-from", s.from, "--mail-rcpt", s.to, "--upload-file", s.file, "--cacert", s.ca,
		}
		if s.tls == startTLS {
			argv = append(argv, "--ssl-reqd")
		}
		if s.mechanism != "" {
			argv = append(argv, "--user", s.user+":"+s.password, "--login-options", "AUTH="+s.mechanism)
		}
		return argv, ""
	}},
	{name: "smtplib", command: func(s submission) ([]string, string) {
		return []string{"/usr/bin/python3", "-I", "submit.py", s.json()}, ""
	}},
	{name: "nodemailer", command: func(s submission) ([]string, string) {
		return []string{"node", "node/submit.mjs", s.json()}, ""
	}},
}

func onOff(is bool) string {
	if is {
		return "on"
	}
	return "off"
}

func (s submission) json() string {
	text, err := json.Marshal(map[string]any{
		"greeting": s.greeting, "tls": s.tls, "port": s.port, "ca": s.ca, "mechanism": s.mechanism, "user": s.user, "password": s.password,
		"from": s.from, "to": s.to, "file": s.file,
	})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// runProgram runs a command that has to succeed.
func runProgram(t testing.TB, argv []string, stdin string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out.String())
	}
}

// paper is a message as a program is given it, and as it has to arrive.
type paper struct {
	name           string
	given, arrives string
	// decoded says that lines may be broken elsewhere, as long as the message means
	// the same.
	decoded bool
	// file holds what is given with lines that end in CRLF, unix the same with LF.
	file, unix string
}

// papers are messages with all that tends to be lost. The first has most of it.
func papers() []paper {
	same := func(name string, l letter) paper { return paper{name: name, given: l.text, arrives: l.text} }
	file := base64Lines(noise(70000), 76)
	const fields = "To: someone@example.net\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n"
	mixed := func(encoded string) string {
		return fields + "Subject: =?utf-8?B?UmVjaG51bmcg4oCTIOiri+axguabuA==?=\r\nContent-Transfer-Encoding: 8bit\r\n" +
			"Content-Type: multipart/mixed; boundary=\"=_one\"\r\nX-Folded: one\r\n\ttwo\r\n  three\r\n\r\n" +
			"--=_one\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" +
			"Grüße.\r\n.\r\n..\r\n.dot\r\nFrom here on\r\n \r\n" + strings.Repeat("x", 998) + "\r\n請求書を添付します。\r\n\r\n" +
			"--=_one\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n" +
			"Content-Disposition: attachment; filename*=utf-8''%E8%AB%8B%E6%B1%82%E6%9B%B8.pdf\r\n\r\n" + encoded + "--=_one--\r\n"
	}
	bcc := newLetter(fields+"Subject: a copy\r\n", "\r\nx\r\n")
	bcc.text = strings.Replace(bcc.text, "MIME-Version:", "Bcc: hidden@example.net,\r\n\thidden-too@example.net\r\nMIME-Version:", 1)
	visible := strings.Replace(bcc.text, "Bcc: hidden@example.net,\r\n\thidden-too@example.net\r\n", "", 1)
	long := newLetter(mixed(base64Lines(noise(20000), 20000)), "")
	return []paper{
		same("everything", newLetter(mixed(file), "")),
		same("only dots", newLetterOf(20<<10, "Subject: dots\r\n")),
		{name: "Bcc", given: bcc.text, arrives: visible},
		{name: "an attachment in one line", given: long.text, arrives: long.text, decoded: true},
	}
}

// base64Lines encodes content in lines of a length (RFC 2045, section 6.8).
func base64Lines(content []byte, length int) string {
	var b strings.Builder
	for text := base64.StdEncoding.EncodeToString(content); text != ""; {
		n := min(len(text), length)
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	return b.String()
}
