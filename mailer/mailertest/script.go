package mailertest

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Answers that are deeds instead of words.
const (
	Close  = "\x00close"  // hang up
	Stall  = "\x00stall"  // say nothing, read nothing more
	Silent = "\x00silent" // say nothing, go on reading
)

// The steps of a session that no verb names.
const (
	Greeting  = "greeting"
	Challenge = "challenge" // the client's answer to a 334
	Content   = "content"   // the end of the content, after DATA
)

// Script is a mail server that does as it is told, at each step of each of its
// sessions. A session speaks plaintext until STARTTLS, unless Implicit is set.
// It takes CHUNKING whether it is offered or not; the step of each chunk is
// "BDAT", and is answered when its octets are there.
type Script struct {
	// Answers has the replies to each step: a verb such as "EHLO" or "MAIL",
	// or one of the constants above. They are used up one after the other, over
	// all sessions; the last one stays. Lines are separated by "\n" and need no
	// CR. Steps without an answer get the usual one.
	Answers map[string][]string
	// Hold, where it is set, is called at each step, and holds its reply back until it
	// returns. Sessions call it at the same time.
	Hold func(step string)
	// Offer is what EHLO offers, STARTTLS and AUTH excepted.
	Offer []string
	// Auth is what EHLO offers behind AUTH once the session is secure, or at
	// once where TLS is nil.
	Auth string
	// TLS makes the server offer STARTTLS.
	TLS *tls.Config
	// Implicit begins sessions with the handshake.
	Implicit bool
	// Strict refuses, and hangs up on, clients that do not wait for a reply
	// where RFC 2920 demands it, or where PIPELINING is not offered.
	Strict bool

	mu       sync.Mutex
	used     map[string]int
	lines    []string
	contents []string
	sessions int
}

// Dial begins a session in memory. It fits the dialer of a client. The client's
// writes wait until the server has read them. The session ends when the client
// hangs up.
func (s *Script) Dial(context.Context, string, string) (net.Conn, error) { return dial(s.Serve), nil }

// Listen serves sessions on loopback TCP until the test ends.
func (s *Script) Listen(t testing.TB) (host string, port int) {
	t.Helper()
	return Listen(t, s.Serve)
}

// Serve runs a session and closes nc at its end.
func (s *Script) Serve(nc net.Conn) {
	s.mu.Lock()
	s.sessions++
	s.mu.Unlock()
	d := &dialogue{service: &play{Script: s}, offer: s.Offer, auth: s.Auth, tls: s.TLS, strict: s.Strict}
	d.serve(nc, s.Implicit)
}

// Lines returns what clients said so far, without the lines of content.
func (s *Script) Lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// Said counts the lines that began with prefix.
func (s *Script) Said(prefix string) int {
	n := 0
	for _, l := range s.Lines() {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

// Contents returns the contents that came in whole, as they were on the wire:
// after DATA dot-stuffed and without the final dot, by BDAT as they are.
func (s *Script) Contents() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.contents)
}

// Sessions is the number of sessions begun.
func (s *Script) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

func (s *Script) next(step, usual string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.Answers[step]
	if len(list) == 0 {
		return usual
	}
	if s.used == nil {
		s.used = make(map[string]int)
	}
	i := min(s.used[step], len(list)-1)
	s.used[step]++
	if list[i] == "" {
		return usual
	}
	return list[i]
}

// play is one session of a script.
type play struct {
	*Script
	text strings.Builder
}

func (p *play) answer(step string, line []byte, usual string) string {
	if line != nil {
		p.mu.Lock()
		p.lines = append(p.lines, string(line))
		p.mu.Unlock()
	}
	if step == "MAIL" {
		p.text.Reset()
	}
	if p.Hold != nil {
		p.Hold(step)
	}
	return p.next(step, usual)
}

func (p *play) octets(b []byte) { p.text.Write(b) }

func (p *play) message(bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.contents = append(p.contents, p.text.String())
}
