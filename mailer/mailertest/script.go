package mailertest

import (
	"bufio"
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
	Content   = "content"   // the end of the content
)

// Script is a mail server that does as it is told, at each step of each of its
// sessions. A session speaks plaintext until STARTTLS, unless Implicit is set.
type Script struct {
	// Answers has the replies to each step: a verb such as "EHLO" or "MAIL",
	// or one of the constants above. They are used up one after the other, over
	// all sessions; the last one stays. Lines are separated by "\n" and need no
	// CR. Steps without an answer get the usual one.
	Answers map[string][]string
	// Offer is what EHLO offers, STARTTLS and AUTH excepted.
	Offer []string
	// Auth is what EHLO offers behind AUTH once the session is secure, or at
	// once where TLS is nil.
	Auth string
	// TLS makes the server offer STARTTLS.
	TLS *tls.Config
	// Implicit begins sessions with the handshake.
	Implicit bool

	mu       sync.Mutex
	used     map[string]int
	lines    []string
	contents []string
	sessions int
}

// Dial begins a session over a [net.Pipe]. It fits the dialer of a client. The
// session ends when the client hangs up.
func (s *Script) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go s.Serve(server)
	return client, nil
}

// Listen serves sessions on loopback TCP until the test ends.
func (s *Script) Listen(t testing.TB) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go s.Serve(nc)
		}
	}()
	return "127.0.0.1", l.Addr().(*net.TCPAddr).Port
}

// Serve runs a session and closes nc at its end.
func (s *Script) Serve(nc net.Conn) {
	s.mu.Lock()
	s.sessions++
	s.mu.Unlock()
	p := &play{Script: s, nc: nc, r: bufio.NewReader(nc)}
	if s.Implicit {
		p.handshake()
	}
	if p.answer(Greeting, "220 mail.example.com ESMTP") {
		p.run()
	}
	if !p.stalled {
		nc.Close()
	}
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
// dot-stuffed, without the final dot.
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
	nc      net.Conn
	r       *bufio.Reader
	secure  bool
	last    string
	stalled bool
}

// answer reports whether the session goes on.
func (p *play) answer(step, usual string) bool {
	p.last = p.next(step, usual)
	switch p.last {
	case Close:
		return false
	case Silent:
		return true
	case Stall:
		p.stalled = true
		return false
	}
	wire := strings.ReplaceAll(p.last, "\n", "\r\n") + "\r\n"
	_, err := p.nc.Write([]byte(wire))
	return err == nil
}

func (p *play) handshake() bool {
	t := tls.Server(p.nc, p.TLS)
	p.nc, p.r, p.secure = t, bufio.NewReader(t), true
	return t.Handshake() == nil
}

func (p *play) run() {
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		p.mu.Lock()
		p.lines = append(p.lines, line)
		p.mu.Unlock()
		if !p.step(line) {
			return
		}
	}
}

func (p *play) step(line string) bool {
	if strings.HasPrefix(p.last, "334") {
		return p.answer(Challenge, "235 2.7.0 welcome")
	}
	verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
	switch verb {
	case "EHLO":
		return p.answer(verb, p.hello())
	case "STARTTLS":
		ok := p.answer(verb, "220 2.0.0 go ahead")
		if ok && strings.HasPrefix(p.last, "220") {
			return p.handshake()
		}
		return ok
	case "AUTH":
		return p.answer(verb, "235 2.7.0 welcome")
	case "DATA":
		ok := p.answer(verb, "354 go ahead")
		if ok && strings.HasPrefix(p.last, "354") {
			return p.content()
		}
		return ok
	case "QUIT":
		p.answer(verb, "221 2.0.0 bye")
		return false
	}
	return p.answer(verb, "250 2.0.0 ok")
}

func (p *play) hello() string {
	lines := append([]string{"mail.example.com"}, p.Offer...)
	if p.TLS != nil && !p.secure {
		lines = append(lines, "STARTTLS")
	}
	if p.Auth != "" && (p.secure || p.TLS == nil) {
		lines = append(lines, "AUTH "+p.Auth)
	}
	for i := range lines[:len(lines)-1] {
		lines[i] = "250-" + lines[i]
	}
	lines[len(lines)-1] = "250 " + lines[len(lines)-1]
	return strings.Join(lines, "\n")
}

func (p *play) content() bool {
	var b strings.Builder
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		b.WriteString(line)
	}
	p.mu.Lock()
	p.contents = append(p.contents, b.String())
	p.mu.Unlock()
	return p.answer(Content, "250 2.0.0 Ok: queued as 4F1A2B3C")
}
