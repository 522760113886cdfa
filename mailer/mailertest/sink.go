package mailertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Sink is a fast mail server for measurements. It lets everybody in and takes
// everything, and counts it. The fields must not change once it is in use.
type Sink struct {
	// TLS makes the server offer STARTTLS. XOAUTH2 and PLAIN are offered once
	// the session is secure, or at once where TLS is nil.
	TLS *tls.Config
	// Implicit begins sessions with the handshake.
	Implicit bool
	// Pipelining and Chunking are what EHLO offers of the two.
	Pipelining, Chunking bool
	// Keep keeps the messages, for [Sink.Messages].
	Keep bool
	// Take, where set, is given each message before it is answered.
	Take func(Message)

	sessions, taken, size atomic.Int64

	mu   sync.Mutex
	kept []Message
}

// Dial begins a session in memory, as [Script.Dial] does.
func (s *Sink) Dial(context.Context, string, string) (net.Conn, error) { return dial(s.Serve), nil }

// Listen serves sessions on loopback TCP until the test ends.
func (s *Sink) Listen(t testing.TB) (host string, port int) {
	t.Helper()
	return Listen(t, s.Serve)
}

// Serve runs a session and closes nc at its end.
func (s *Sink) Serve(nc net.Conn) {
	s.sessions.Add(1)
	offer := []string{"SIZE 157286400", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8"}
	if s.Pipelining {
		offer = append(offer, "PIPELINING")
	}
	if s.Chunking {
		offer = append(offer, "CHUNKING")
	}
	d := &dialogue{service: &drain{Sink: s}, offer: offer, auth: "XOAUTH2 PLAIN", tls: s.TLS, strict: true}
	d.serve(nc, s.Implicit)
}

// Sessions is the number of sessions begun.
func (s *Sink) Sessions() int { return int(s.sessions.Load()) }

// Taken is the number of messages taken.
func (s *Sink) Taken() int { return int(s.taken.Load()) }

// Octets is the size of all content, as it was on the wire.
func (s *Sink) Octets() int64 { return s.size.Load() }

// Messages returns the messages kept, without dot-stuffing.
func (s *Sink) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept)
}

// drain is one session of a sink.
type drain struct {
	*Sink
	n    int64
	mail letter
}

func (d *drain) answer(step string, line []byte, usual string) string {
	if step == "MAIL" {
		d.n = 0
	}
	if d.gathers() && usual[0] == '2' {
		d.mail.hear(step, line)
	}
	if step == "AUTH" && bytes.Count(line, []byte(" ")) == 1 { // no initial response
		return "334 "
	}
	return usual
}

func (d *drain) octets(p []byte) {
	d.n += int64(len(p))
	if d.gathers() {
		d.mail.text.Write(p)
	}
}

func (d *drain) message(byData bool) {
	d.taken.Add(1)
	d.size.Add(d.n)
	d.n = 0
	if !d.gathers() {
		return
	}
	m := d.mail.message("", byData)
	if d.Keep {
		d.mu.Lock()
		d.kept = append(d.kept, m)
		d.mu.Unlock()
	}
	if d.Take != nil {
		d.Take(m)
	}
}

// gathers reports whether anybody wants to see messages.
func (s *Sink) gathers() bool { return s.Keep || s.Take != nil }

// letter gathers a message from what is said.
type letter struct {
	from string
	to   []string
	text bytes.Buffer
}

// hear notes a command whose line is valid only during the call.
func (l *letter) hear(step string, line []byte) {
	switch step {
	case "MAIL":
		l.from, l.to = path(line), nil
		l.text.Reset()
	case "RCPT":
		l.to = append(l.to, path(line))
	}
}

// message returns what was gathered. After DATA it takes the dot-stuffing off
// (RFC 5321, section 4.5.2).
func (l *letter) message(user string, byData bool) Message {
	text := l.text.String()
	if byData {
		text = strings.ReplaceAll("\r\n"+text, "\r\n.", "\r\n")[2:]
	}
	return Message{User: user, From: l.from, To: slices.Clone(l.to), Data: text}
}

// path returns what stands in the angle brackets of MAIL or RCPT.
func path(line []byte) string {
	_, rest, _ := bytes.Cut(line, []byte("<"))
	inside, _, _ := bytes.Cut(rest, []byte(">"))
	return string(inside)
}
