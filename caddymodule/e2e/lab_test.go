//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// lab is mail servers with package mailer itself before them, and no Caddy: for
// what has more cases than Caddy has time.
type lab struct {
	user, password, token string
	longToken             string // longer than the command lines of servers
	authority             *authority
	mailbox               *mailbox
	dovecot               *dovecot
	mail                  map[string]mailServer
}

// startLab starts mail servers with these doors. They end with the test.
func startLab(t testing.TB, doors ...*door) *lab {
	t.Helper()
	dir, err := os.MkdirTemp(suiteDir, "")
	if err == nil {
		err = os.Chmod(dir, 0o755) // see suiteDir
	}
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{
		user: "sender@example.com", password: "password-" + rand.Text(), token: "token-" + rand.Text(),
		longToken: strings.Repeat("token-"+rand.Text(), 100),
		authority: newAuthority(t, dir), mailbox: newMailbox(t, dir), mail: map[string]mailServer{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			for name, m := range l.mail {
				t.Logf("the end of the log of %s:\n%s", name, tail(m.log()))
			}
		}
	})
	introspection := httptest.NewServer(http.HandlerFunc(l.introspect))
	t.Cleanup(introspection.Close)
	at, err := url.Parse(introspection.URL)
	if err != nil {
		t.Fatal(err)
	}
	l.dovecot = startDovecot(t, dir, at, "secret", l.user, l.password)
	for _, server := range []string{onPostfix, onExim, onSMTPServer} {
		var own []*door
		for _, d := range doors {
			if d.server == server {
				own = append(own, d)
			}
		}
		if len(own) == 0 {
			continue
		}
		switch server {
		case onPostfix:
			l.mail[server] = startPostfix(t, dir, l.authority, l.mailbox, l.dovecot, "300s", own...)
		case onExim:
			l.mail[server] = startExim(t, dir, l.authority, l.mailbox, l.dovecot, own...)
		case onSMTPServer:
			l.mail[server] = startSMTPServer(t, dir, l.authority, l.mailbox, at.String(), "secret", l.user, l.password, own...)
		}
	}
	return l
}

// introspect tells mail servers about tokens (RFC 7662).
func (l *lab) introspect(w http.ResponseWriter, r *http.Request) {
	token := r.PostFormValue("token")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"active": token == l.token || token == l.longToken, "username": l.user})
}

// client is a tenant with a pool of its own before a door.
type client struct {
	mailer.Tenant
	door   *door
	lab    *lab
	sender mailer.Address
	// flights counts how often it spoke after it had listened.
	flights atomic.Int64
}

// newClient makes a client that signs in by a, which nil leaves to the door.
func (l *lab) newClient(t testing.TB, d *door, a mailer.Authenticator) *client {
	t.Helper()
	if a == nil && !d.open {
		a = mailer.Password{User: l.user, Password: l.password}
	}
	c := &client{door: d, lab: l, sender: address(t, l.user)}
	c.Tenant = mailer.Tenant{
		Name: d.name, Auth: a, Pool: new(mailer.Pool),
		Server: mailer.Server{
			Host: "localhost", Port: d.port, Security: d.security, RootCAs: l.authority.pool, Dial: c.dial,
			Timeouts: mailer.Timeouts{Greeting: 20 * time.Second, Command: patience, Final: patience},
		},
	}
	c.Pool.Max = 1
	t.Cleanup(func() { c.Pool.Close() })
	return c
}

func (c *client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &turnConn{TCPConn: nc.(*net.TCPConn), turns: &c.flights}, nil
}

// turnConn counts how often its client begins to speak.
type turnConn struct {
	*net.TCPConn
	turns    *atomic.Int64
	speaking bool // one goroutine uses it at a time
}

func (c *turnConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.speaking = c.speaking && n == 0
	return n, err
}

func (c *turnConn) Write(p []byte) (int, error) {
	if !c.speaking {
		c.speaking = true
		c.turns.Add(1)
	}
	return c.TCPConn.Write(p)
}

// staticToken is a source of one token.
type staticToken string

func (s staticToken) AccessToken(context.Context) (string, error) { return string(s), nil }
func (s staticToken) Reject(string) bool                          { return false }

func address(t testing.TB, s string) mailer.Address {
	t.Helper()
	a, err := mailer.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// envelope is from a sender, or the client's own where that is empty, to
// recipients.
func (c *client) envelope(t testing.TB, from string, to ...string) mailer.Envelope {
	t.Helper()
	env := mailer.Envelope{From: c.sender}
	if from != "" {
		env.From = address(t, from)
	}
	for _, a := range to {
		env.To = append(env.To, address(t, a))
	}
	return env
}

// letter is a message as it is to arrive. It is a [mailer.Content].
type letter struct {
	id, text             string
	eightBit, utf8Header bool
}

// newLetter makes a message from header fields and what is behind them, lines
// ending in CRLF.
func newLetter(fields, rest string) letter {
	l := newASCIILetter(fields, rest)
	l.utf8Header = hasHigh(fields)
	l.eightBit = hasHigh(fields + rest)
	return l
}

func newASCIILetter(fields, rest string) letter {
	id := "<" + rand.Text() + "@example.com>"
	return letter{id: id, text: "Message-ID: " + id + "\r\nFrom: sender@example.com\r\nDate: Mon, 02 Nov 2026 10:00:00 +0000\r\n" + fields + rest}
}

func hasHigh(s string) bool { return strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) }

// newLetterOf makes a message of about size octets, with dots in all places.
func newLetterOf(size int, fields string) letter {
	const lines = 77
	var some strings.Builder
	for i := range 4 * lines {
		some.WriteString(strings.Repeat(".", i%4))
		fmt.Fprintf(&some, "%.*s\r\n", i%lines, "The line of a message that was sent to see whether it arrives as it was sent.")
	}
	block := some.String()
	body := strings.Repeat(block, size/len(block))
	rest := block[:max(0, size-len(body)-400)]
	return newASCIILetter(fields, "\r\n"+body+rest[:strings.LastIndexByte(rest, '\n')+1])
}

// WriteTo implements [mailer.Content]. It writes pieces that end anywhere.
func (l letter) WriteTo(w io.Writer) (int64, error) {
	const piece = 4093
	for n := 0; n < len(l.text); n += piece {
		if _, err := io.WriteString(w, l.text[n:min(n+piece, len(l.text))]); err != nil {
			return int64(n), err
		}
	}
	return l.Size(), nil
}

func (l letter) Size() int64      { return int64(len(l.text)) }
func (l letter) EightBit() bool   { return l.eightBit }
func (l letter) UTF8Header() bool { return l.utf8Header }

// checkArrived checks that a message came to these people, as it was sent.
func (c *client) checkArrived(t testing.TB, what string, m letter, to ...string) {
	t.Helper()
	got := c.lab.mailbox.find(t, m.id)
	if len(got.To) != len(to) || !containsAll(got.To, to) {
		t.Errorf("%s by %s: to %q, want %q", what, c.door.name, got.To, to)
	}
	// Exim keeps to itself that a message is 8BITMIME.
	if m.eightBit && c.door.server != onExim && !strings.Contains(got.Params, "BODY=8BITMIME") || m.utf8Header && !strings.Contains(got.Params, "SMTPUTF8") {
		t.Errorf("%s by %s: it was announced with %q only", what, c.door.name, got.Params)
	}
	checkEqual(t, what+" by "+c.door.name, []byte(m.text), got.Data)
}

func containsAll(list, wanted []string) bool {
	have := map[string]int{}
	for _, s := range list {
		have[s]++
	}
	for _, s := range wanted {
		if have[s]--; have[s] < 0 {
			return false
		}
	}
	return true
}

// checkConnections closes the client's connections and checks how many came in at
// the server.
func (c *client) checkConnections(t testing.TB, want int) {
	t.Helper()
	c.Pool.Close()
	m := c.lab.mail[c.door.server]
	eventually(t, patience, fmt.Sprintf("%d connections at %s", want, c.door.name), func() bool { return m.connections(c.door) >= want })
	if got := m.connections(c.door); got != want {
		t.Errorf("%d connections at %s, want %d", got, c.door.name, want)
	}
}

// unwanted is what a mail server logs about a client that did not keep to the
// rules.
var unwanted = []string{
	"improper command pipelining", "too many errors", "Protocol error", "bare <LF>", "bare newline", "non-SMTP command", // Postfix
	"synchronization error", "SMTP protocol error", "SMTP syntax error", "too many syntax or protocol errors", // Exim
}

// checkManners checks that no server had anything to complain of.
func (l *lab) checkManners(t testing.TB) {
	t.Helper()
	for name, m := range l.mail {
		for line := range strings.Lines(m.log()) {
			for _, words := range unwanted {
				if strings.Contains(line, words) {
					t.Errorf("%s has logged: %s", name, line)
				}
			}
		}
	}
}
