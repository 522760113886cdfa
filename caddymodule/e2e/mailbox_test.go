//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// delivered is a message as a mail server handed it on.
type delivered struct {
	From string
	To   []string
	// Params are those of MAIL.
	Params string
	Data   []byte
	// File holds Data, for readers in other languages.
	File string
}

// unreachable is the one recipient that mail servers take and the mailbox refuses.
const unreachable = "unreachable@example.net"

// mailbox keeps what mail servers deliver. It is the far side of their last hop:
// an LMTP server (RFC 2033) that takes everything and changes no octet.
type mailbox struct {
	// Port is where LMTP is served.
	Port int
	dir  string

	mu       sync.Mutex
	messages []delivered
}

func newMailbox(t testing.TB, dir string) *mailbox {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	m := &mailbox{Port: l.Addr().(*net.TCPAddr).Port, dir: dir}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = m.serve(c)
			}()
		}
	}()
	return m
}

func (m *mailbox) add(d delivered) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d.File = filepath.Join(m.dir, fmt.Sprintf("delivered-%d.eml", len(m.messages)))
	if err := os.WriteFile(d.File, d.Data, 0o600); err != nil {
		return err
	}
	m.messages = append(m.messages, d)
	return nil
}

// all returns what has been delivered so far.
func (m *mailbox) all() []delivered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]delivered(nil), m.messages...)
}

// wait returns what has been delivered when it is n messages.
func (m *mailbox) wait(t testing.TB, n int) []delivered {
	t.Helper()
	eventually(t, patience, fmt.Sprintf("%d messages delivered", n), func() bool { return len(m.all()) >= n })
	return m.all()
}

// find returns the message with a Message-ID when it has been delivered.
func (m *mailbox) find(t testing.TB, messageID string) delivered {
	t.Helper()
	var found []delivered
	eventually(t, patience, "message "+messageID+" delivered", func() bool {
		found = nil
		for _, d := range m.all() {
			header, _, _ := bytes.Cut(d.Data, []byte("\r\n\r\n"))
			if bytes.Contains(header, []byte(messageID)) {
				found = append(found, d)
			}
		}
		return len(found) > 0
	})
	if len(found) > 1 {
		t.Fatalf("message %s was delivered %d times", messageID, len(found))
	}
	return found[0]
}

// findTo returns the one message for a recipient when it has been delivered.
func (m *mailbox) findTo(t testing.TB, recipient string) delivered {
	t.Helper()
	var found []delivered
	eventually(t, patience, "a message for "+recipient+" delivered", func() bool {
		found = nil
		for _, d := range m.all() {
			if slices.Contains(d.To, recipient) {
				found = append(found, d)
			}
		}
		return len(found) > 0
	})
	if len(found) > 1 {
		t.Fatalf("%d messages for %s were delivered", len(found), recipient)
	}
	return found[0]
}

func (m *mailbox) serve(c net.Conn) error {
	r := bufio.NewReader(c)
	reply := func(lines ...string) error {
		_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
		_, err := io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n")
		return err
	}
	if err := reply("220 localhost LMTP"); err != nil {
		return err
	}
	var d delivered
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "LHLO":
			err = reply("250-localhost", "250-8BITMIME", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES", "250-PIPELINING", "250 SIZE")
		case "MAIL":
			_, params, _ := strings.Cut(rest, ">")
			d = delivered{From: path(rest), Params: params}
			err = reply("250 2.1.0 ok")
		case "RCPT":
			if path(rest) == unreachable {
				err = reply("550 5.1.1 there is nobody")
				break
			}
			d.To = append(d.To, path(rest))
			err = reply("250 2.1.5 ok")
		case "DATA":
			if len(d.To) == 0 {
				err = reply("503 5.5.1 to whom?")
				break
			}
			if err = reply("354 go on"); err != nil {
				return err
			}
			if d.Data, err = readDots(r); err != nil {
				return err
			}
			if err = m.add(d); err != nil {
				return err
			}
			answers := make([]string, len(d.To))
			for i := range answers {
				answers[i] = "250 2.0.0 delivered"
			}
			err = reply(answers...)
		case "RSET", "NOOP":
			err = reply("250 2.0.0 ok")
		case "QUIT":
			return reply("221 2.0.0 bye")
		default:
			err = reply("500 5.5.2 what?")
		}
		if err != nil {
			return err
		}
	}
}

// path returns the address of "FROM:<a@b> …".
func path(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

// readDots reads content up to the line with a single dot (RFC 5321, section
// 4.5.2). Line endings stay as they came.
func readDots(r *bufio.Reader) ([]byte, error) {
	var b bytes.Buffer
	for {
		line, err := r.ReadSlice('\n')
		for err == bufio.ErrBufferFull {
			b.Write(line)
			line, err = r.ReadSlice('\n')
		}
		if err != nil {
			return nil, err
		}
		if string(line) == ".\r\n" {
			return b.Bytes(), nil
		}
		if line[0] == '.' {
			line = line[1:]
		}
		b.Write(line)
	}
}
