//go:build endurance

package endurance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// asLeastRelay makes a test program act as a relay.
const asLeastRelay = "OAUTH_MAIL_ENDURANCE_LEAST_RELAY"

// leastRelay is the least that a relay has to do which stores before it answers: it looks
// for the end of a content and for nothing else, appends it as it came to one file, with
// others, flushes that, and hands it on over a connection that stays open. It knows no
// users, checks nothing, mends nothing, seals nothing, logs nothing, tries once, and never
// reads its file. No relay that is of use can be faster by much.
type leastRelay struct {
	*leastJournal
	behind string
}

type leastRelaySettings struct{ Behind, File string }

// startLeastRelay starts one in a process of its own, as the others are.
func startLeastRelay(b *testing.B, behind string) (address string, pid int) {
	b.Helper()
	settings, err := json.Marshal(leastRelaySettings{behind, filepath.Join(b.TempDir(), "journal")})
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asLeastRelay+"=1")
	in, out := startChild(b, cmd)
	fmt.Fprintf(in, "%s\n", settings)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(readFigure(b, out))), cmd.Process.Pid
}

// serveLeastRelay is the process: it reads settings, and writes its port.
func serveLeastRelay(in io.Reader, out io.Writer) error {
	var settings leastRelaySettings
	asked := json.NewDecoder(in)
	if err := asked.Decode(&settings); err != nil {
		return err
	}
	journal, err := newLeastJournal(settings.File)
	if err != nil {
		return err
	}
	r := &leastRelay{journal, settings.Behind}
	port, err := serveAll(func(nc net.Conn) {
		defer nc.Close()
		if err := r.serve(nc); err != nil {
			fmt.Fprintln(os.Stderr, "relay:", err)
		}
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, port); err != nil {
		return err
	}
	return asked.Decode(new(struct{})) // io.EOF at the end
}

// errTalk is a dialogue that is not the one of the benchmark.
var errTalk = errors.New("a dialogue of another kind")

// serve takes messages from the client of the benchmark, which sends the whole envelope
// in one flight, and the content in another.
func (r *leastRelay) serve(nc net.Conn) error {
	behind, err := net.Dial("tcp", r.behind)
	if err != nil {
		return err
	}
	defer behind.Close()
	// One message is handed on while the next one comes in.
	ready, free, failed := make(chan []byte), make(chan []byte, 2), make(chan error, 1)
	free <- nil
	free <- nil
	go func() {
		failed <- r.handOn(behind, ready, free)
		close(failed)
	}()
	defer func() { // the last one, too
		close(ready)
		<-failed
	}()
	in, envelope := flight{nc: nc}, []byte(nil)
	if _, err := nc.Write([]byte("220 least.example ESMTP\r\n")); err != nil {
		return err
	}
	for {
		if envelope, err = in.upTo(envelope[:0], "\r\n"); err != nil {
			return err
		}
		answer := "250-least.example\r\n250 PIPELINING\r\n"
		switch {
		case bytes.HasPrefix(envelope, []byte("QUIT")):
			_, err = nc.Write([]byte("221 2.0.0 Bye\r\n"))
			return err
		case bytes.HasPrefix(envelope, []byte("MAIL")):
			if !bytes.HasSuffix(envelope, []byte("\r\nDATA\r\n")) {
				return errTalk
			}
			answer = "250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n354 Go ahead\r\n"
		}
		if _, err := nc.Write([]byte(answer)); err != nil || answer[0] == '2' && answer[3] == '-' {
			if err != nil {
				return err
			}
			continue
		}
		var content []byte
		select {
		case content = <-free:
		case err := <-failed:
			return err
		}
		if content, err = in.upTo(content[:0], "\r\n.\r\n"); err != nil {
			return err
		}
		content = content[:len(content)-len(".\r\n")]
		<-r.add(envelope, content)
		if _, err := nc.Write([]byte("250 2.0.0 Ok: queued\r\n")); err != nil {
			return err
		}
		ready <- content
	}
}

// flight reads what a client says at a time.
type flight struct{ nc net.Conn }

// upTo reads behind b until what was read ends as given.
func (f flight) upTo(b []byte, end string) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, make([]byte, max(32<<10, len(b)))...)[:len(b)]
		}
		n, err := f.nc.Read(b[len(b):cap(b)])
		if err != nil {
			return nil, err
		}
		if b = b[:len(b)+n]; bytes.HasSuffix(b, []byte(end)) {
			return b, nil
		}
	}
}

// handOn sends messages on, each in one flight, and notes that they are gone.
func (r *leastRelay) handOn(nc net.Conn, ready <-chan []byte, free chan<- []byte) error {
	in := flight{nc: nc}
	replies, err := in.upTo(nil, "\r\n") // the greeting
	if err == nil {
		_, err = nc.Write([]byte("EHLO least.example\r\n"))
	}
	for err == nil && !bytes.Contains(replies, []byte("\n250 ")) {
		replies, err = in.upTo(replies, "\r\n")
	}
	for content := range ready {
		if err != nil {
			return err
		}
		head := fmt.Appendf(nil, "MAIL FROM:<%s>\r\nRCPT TO:<someone@example.net>\r\nBDAT %d LAST\r\n", Sender, len(content))
		texts := net.Buffers{head, content}
		if _, err = texts.WriteTo(nc); err != nil {
			return err
		}
		for replies = replies[:0]; err == nil && bytes.Count(replies, []byte("\n")) < 3; {
			replies, err = in.upTo(replies, "\r\n")
		}
		if bytes.Count(replies, []byte("250 ")) != 3 {
			return fmt.Errorf("%w: %q", errTalk, replies)
		}
		r.add([]byte("gone"))
		free <- content
	}
	return err
}
