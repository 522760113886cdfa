//go:build endurance

package endurance

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest/contest"
)

// asSink makes a test program act as a mail server.
const asSink = "OAUTH_MAIL_ENDURANCE_SINK"

// fastSink is a [mailertest.Sink] in a process of its own, as mail servers are: a
// client that shares its process is woken without the kernel.
type fastSink struct {
	contest.Server
	// ca is the file with the authority of its certificate.
	ca string

	sent    atomic.Int64
	ask     io.Writer
	answers *bufio.Reader
}

// sinkSettings are those that the process reads first.
type sinkSettings struct {
	Chain    [][]byte
	Key      []byte // PKCS #8
	Chunking bool
}

// startSink starts a sink that offers STARTTLS, XOAUTH2, PIPELINING and perhaps
// CHUNKING. It ends with the benchmark.
func startSink(b *testing.B, chunking bool) *fastSink {
	b.Helper()
	config, roots := mailertest.NewCertificate(b)
	certificate := config.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		b.Fatal(err)
	}
	settings, err := json.Marshal(sinkSettings{certificate.Certificate, key, chunking})
	if err != nil {
		b.Fatal(err)
	}
	s := &fastSink{ca: filepath.Join(b.TempDir(), "ca.pem")}
	if err := os.WriteFile(s.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[1]}), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asSink+"=1")
	s.ask, s.answers = startChild(b, cmd)
	fmt.Fprintf(s.ask, "%s\n", settings)
	s.Server = contest.Server{Host: "127.0.0.1", Port: readFigure(b, s.answers), Roots: roots}
	return s
}

// startChild starts a process that ends with the benchmark, and returns its input and
// its output.
func startChild(b *testing.B, cmd *exec.Cmd) (io.Writer, *bufio.Reader) {
	b.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b.Failed() {
			b.Logf("%s said: %s", filepath.Base(cmd.Path), said.Bytes())
		}
	})
	return in, bufio.NewReader(out)
}

// row has the messages of a row counted, and seen to have arrived after each turn.
func (s *fastSink) row(b *testing.B, r contest.Row) contest.Row {
	b.Helper()
	send := r.Send
	r.Send = func(worker int) error {
		s.sent.Add(1)
		return send(worker)
	}
	r.Settle = func() {
		if taken, sent := s.taken(b), int(s.sent.Load()); taken != sent {
			b.Errorf("%s: %d messages were sent, and %d have arrived", r.Name, sent, taken)
		}
	}
	return r
}

// taken is the number of messages that the sink has taken.
func (s *fastSink) taken(b *testing.B) int {
	b.Helper()
	fmt.Fprintln(s.ask, "{}")
	return readFigure(b, s.answers)
}

// readFigure reads a line with a number.
func readFigure(b *testing.B, from *bufio.Reader) int {
	b.Helper()
	line, err := from.ReadString('\n')
	n, bad := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || bad != nil {
		b.Fatalf("no number: %q, %v", line, err)
	}
	return n
}

// serveSink is the process: it reads settings and writes its port, and then how many
// messages it has taken, as often as it is asked.
func serveSink(in io.Reader, out io.Writer) error {
	var settings sinkSettings
	asked := json.NewDecoder(in)
	if err := asked.Decode(&settings); err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(settings.Key)
	if err != nil {
		return err
	}
	sink := &mailertest.Sink{
		TLS:        &tls.Config{Certificates: []tls.Certificate{{Certificate: settings.Chain, PrivateKey: key}}, MinVersion: tls.VersionTLS12},
		Pipelining: true, Chunking: settings.Chunking,
	}
	figure, err := serveAll(sink.Serve)
	if err != nil {
		return err
	}
	for {
		if _, err := fmt.Fprintln(out, figure); err != nil {
			return err
		}
		if err := asked.Decode(new(struct{})); err != nil {
			return err
		}
		figure = sink.Taken()
	}
}

// serveAll serves all who connect to a port of loopback, until the process ends.
func serveAll(serve func(net.Conn)) (port int, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	go mailertest.ServeAll(l, serve)
	return l.Addr().(*net.TCPAddr).Port, nil
}

// clockTick is the unit of /proc in which Linux tells processor time to programs.
const clockTick = 10 * time.Millisecond

// processorTime is what a process has used so far.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the third on: proc_pid_stat(5)
	sum := 0
	for _, f := range fields[14-3 : 16-3] { // utime, stime
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum) * clockTick
}
