//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// tap stands before a mail server and keeps what the client writes to it once
// TLS is on: the one way to know for sure what was sent.
type tap struct {
	port int

	mu       sync.Mutex
	sessions []*lockedBuffer
}

// newTap starts a tap before the mail server's port. implicit says whether TLS
// is on there from the start.
func newTap(t testing.TB, a *authority, to int, implicit bool) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &tap{port: l.Addr().(*net.TCPAddr).Port}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
				if err != nil {
					return
				}
				defer s.Close()
				p.relay(a, c, s, implicit)
			}()
		}
	}()
	return p
}

func (p *tap) relay(a *authority, client, server net.Conn, implicit bool) {
	if !implicit && !relayToSTARTTLS(client, server) {
		return
	}
	inner := tls.Server(client, &tls.Config{Certificates: []tls.Certificate{a.certificate}, MinVersion: tls.VersionTLS12})
	outer := tls.Client(server, &tls.Config{RootCAs: a.pool, ServerName: "localhost", MinVersion: tls.VersionTLS12})
	session := new(lockedBuffer)
	p.mu.Lock()
	p.sessions = append(p.sessions, session)
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(inner, outer)
		inner.Close()
	}()
	_, _ = io.Copy(io.MultiWriter(session, outer), inner)
	outer.Close()
	<-done
}

// relayToSTARTTLS relays the dialogue in the clear, up to the server's consent to
// STARTTLS, which is the last line of it.
func relayToSTARTTLS(client, server net.Conn) bool {
	fromServer, fromClient := bufio.NewReader(server), bufio.NewReader(client)
	command := ""
	for {
		for last := false; !last; {
			line, err := fromServer.ReadString('\n')
			if err != nil || len(line) < 4 {
				return false
			}
			if _, err := io.WriteString(client, line); err != nil {
				return false
			}
			last = line[3] != '-'
			if last && strings.HasPrefix(line, "220") && strings.EqualFold(strings.TrimSpace(command), "STARTTLS") {
				return true
			}
		}
		var err error
		if command, err = fromClient.ReadString('\n'); err != nil {
			return false
		}
		if _, err := io.WriteString(server, command); err != nil {
			return false
		}
	}
}

// contents returns the messages that passed, without the dots of the transport.
func (p *tap) contents(t testing.TB) [][]byte {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var found [][]byte
	for _, session := range p.sessions {
		r := bufio.NewReader(strings.NewReader(session.String()))
		var chunks bytes.Buffer
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			words := strings.Fields(strings.ToUpper(line))
			switch {
			case len(words) == 1 && words[0] == "DATA":
				content, err := readDots(r)
				if err != nil {
					t.Fatalf("the client did not end its message: %v", err)
				}
				found = append(found, content)
			case len(words) > 1 && words[0] == "BDAT":
				n, err := strconv.ParseInt(words[1], 10, 64)
				if err == nil {
					_, err = io.CopyN(&chunks, r, n)
				}
				if err != nil {
					t.Fatalf("the client did not end its chunk: %v", err)
				}
				if len(words) > 2 && words[2] == "LAST" {
					found = append(found, bytes.Clone(chunks.Bytes()))
					chunks.Reset()
				}
			}
		}
	}
	return found
}
