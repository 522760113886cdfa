package listener

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// The user that there is, and AUTH with it.
const (
	userName  = "printer"
	password  = "open sesame"
	authPlain = "AUTH PLAIN AHByaW50ZXIAb3BlbiBzZXNhbWU="
)

const letter = "From: Printer <printer@example.com>\r\nTo: b@example.net\r\nSubject: s\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nhello\r\n"

// sent is what Send was given.
type sent struct {
	mailer.Submission
	trace, text string
}

// recorder takes all messages.
type recorder struct {
	// answer, if set, is asked what becomes of them.
	answer func(context.Context, mailer.Submission) (mailer.Receipt, error)

	mu       sync.Mutex
	messages []sent
	ended    []Session
	refused  []Refused
	accepted []Accepted
	away     []string
}

func (r *recorder) send(ctx context.Context, s mailer.Submission) (mailer.Receipt, error) {
	var b bytes.Buffer
	if _, err := s.Content.WriteTo(&b); err != nil {
		return mailer.Receipt{}, err
	}
	trace, text, ok := cutTrace(b.String())
	if !ok {
		return mailer.Receipt{}, fmt.Errorf("no Received field in front of %.200q", b.String())
	}
	r.mu.Lock()
	r.messages = append(r.messages, sent{s, trace, text})
	r.mu.Unlock()
	if r.answer != nil {
		return r.answer(ctx, s)
	}
	return mailer.Receipt{ID: s.ID, MessageID: s.MessageID, Tenant: s.Tenant, Status: mailer.StatusQueued}, nil
}

// cutTrace cuts the Received field from the front of a message.
func cutTrace(s string) (trace, rest string, ok bool) {
	for line := range strings.Lines(s) {
		if len(trace) > 0 && line[0] != '\t' {
			break
		}
		trace += line
	}
	return trace, s[len(trace):], strings.HasPrefix(trace, "Received: from ") && strings.HasSuffix(trace, "\r\n")
}

func (r *recorder) sent() []sent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

// sessions returns how those that are over have ended.
func (r *recorder) sessions() []Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ended)
}

// config is one with a user who may sign in without TLS, and an outbox.
func (r *recorder) config() *Config {
	return &Config{
		Hostname:      "relay.example.com",
		PlaintextFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Authenticate: func(_ context.Context, _ Client, user, word string) (*Identity, error) {
			if user != userName || word != password {
				return nil, ErrWrongPassword
			}
			return &Identity{Kind: "user", Name: userName, Tenant: "office"}, nil
		},
		Send:   r.send,
		Outbox: true,
		Hooks: Hooks{
			Ended: func(s Session) {
				r.mu.Lock()
				r.ended = append(r.ended, s)
				r.mu.Unlock()
			},
			Refused: func(_ Client, x Refused) {
				r.mu.Lock()
				r.refused = append(r.refused, x)
				r.mu.Unlock()
			},
			Accepted: func(_ Client, _ *Identity, a Accepted) {
				r.mu.Lock()
				r.accepted = append(r.accepted, a)
				r.mu.Unlock()
			},
			TurnedAway: func(_ Client, why string) {
				r.mu.Lock()
				r.away = append(r.away, why)
				r.mu.Unlock()
			},
		},
	}
}

// trusting makes a network of all clients, so that nobody has to sign in.
func trusting(c *Config) *Config {
	c.Network = func(Client) *Identity { return &Identity{Kind: "network", Name: "lan", Tenant: "office"} }
	return c
}

// listen serves on loopback TCP until the test ends.
func listen(t testing.TB, s *Server) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// memory is a listener for connections in memory, which synctest can watch.
type memory struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newMemory() *memory { return &memory{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *memory) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memory) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memory) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects from an address.
func (l *memory) dial(from string) net.Conn {
	client, server := mailertest.Pipe(0)
	l.conns <- remote{server, from}
	return client
}

// remote is a connection from an address.
type remote struct {
	net.Conn
	from string
}

func (r remote) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(r.from), 1))
}

// serveMemory serves in memory, in a synctest bubble, and returns how to connect.
func serveMemory(t *testing.T, s *Server) *memory {
	t.Helper()
	l := newMemory()
	go s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
	})
	return l
}

// talk is the client's side of a session, line by line.
type talk struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func newTalk(t testing.TB, conn net.Conn) *talk {
	t.Cleanup(func() { conn.Close() })
	return &talk{t, conn, bufio.NewReader(conn)}
}

func dialTalk(t testing.TB, addr string) *talk {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newTalk(t, conn)
}

func (c *talk) write(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("writing %.60q: %v", s, err)
	}
}

// hear reads a reply, which has to begin with want. Lines are separated by "\n".
func (c *talk) hear(want string) string {
	c.t.Helper()
	var reply strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("waiting for %q: %v, after %q", want, err, reply.String()+line)
		}
		if !strings.HasSuffix(line, "\r\n") {
			c.t.Fatalf("reply without CRLF: %q", line)
		}
		reply.WriteString(strings.TrimSuffix(line, "\r\n"))
		if len(line) < 4 || line[3] != '-' {
			break
		}
		reply.WriteString("\n")
	}
	if !strings.HasPrefix(reply.String(), want) {
		c.t.Fatalf("got %q, want %q", reply.String(), want)
	}
	return reply.String()
}

// say says lines and hears a reply to each.
func (c *talk) say(lineAndReply ...string) (last string) {
	c.t.Helper()
	for i := 0; i < len(lineAndReply); i += 2 {
		c.write(lineAndReply[i] + "\r\n")
		last = c.hear(lineAndReply[i+1])
	}
	return last
}

// gone expects the server to hang up without another word.
func (c *talk) gone() {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	if len(rest) > 0 || err != nil && !errors.Is(err, io.ErrClosedPipe) && !strings.Contains(err.Error(), "reset") {
		c.t.Fatalf("not closed: %q, %v", rest, err)
	}
}

// startTLS goes on with TLS.
func (c *talk) startTLS(config *tls.Config) {
	c.t.Helper()
	c.say("STARTTLS", "220")
	conn := tls.Client(c.conn, config)
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.conn, c.r = conn, bufio.NewReader(conn)
}

// greeted has heard the greeting and said EHLO.
func (c *talk) greeted() *talk {
	c.t.Helper()
	c.hear("220 relay.example.com ")
	c.say("EHLO client.example.com", "250")
	return c
}

// signedIn is greeted and has signed in.
func (c *talk) signedIn() *talk {
	c.t.Helper()
	c.greeted().say(authPlain, "235")
	return c
}

// send sends a message whose envelope is not of interest.
func (c *talk) send(text, want string) string {
	c.t.Helper()
	c.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
	c.write(text)
	return c.hear(want)
}
