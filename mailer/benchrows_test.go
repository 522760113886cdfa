package mailer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// ready is content in memory.
type ready []byte

func (r ready) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r)
	return int64(n), err
}
func (r ready) Size() int64      { return int64(len(r)) }
func (r ready) EightBit() bool   { return false }
func (r ready) UTF8Header() bool { return false }

// readyContent has lines like base64's, and here and there a dot in front.
func readyContent(size int) ready {
	var b bytes.Buffer
	b.WriteString("From: <a@example.com>\r\nTo: <b@example.net>\r\nSubject: benchmark\r\nMessage-ID: <1@example.com>\r\n\r\n")
	line := strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyz", 3)[:76]
	for i := 0; b.Len() < size-80; i++ {
		if i%25 == 0 {
			b.WriteByte('.')
		}
		b.WriteString(line + "\r\n")
	}
	b.WriteString(strings.Repeat("x", size-b.Len()-2) + "\r\n")
	return b.Bytes()
}

// benchSink is a sink on loopback, and who trusts it.
type benchSink struct {
	*mailertest.Sink
	host  string
	port  int
	roots *x509.CertPool
}

func newBenchSink(b *testing.B, chunking bool) benchSink {
	b.Helper()
	config, roots := mailertest.NewCertificate(b)
	s := &mailertest.Sink{TLS: config, Pipelining: true, Chunking: chunking}
	host, port := s.Listen(b)
	return benchSink{s, host, port, roots}
}

func (s benchSink) addr() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

// away is the sink behind a proxy that takes its time.
func (s benchSink) away(b *testing.B, delay time.Duration) benchSink {
	b.Helper()
	host, port, _ := net.SplitHostPort(mailertest.DelayProxy(b, s.addr(), delay))
	s.host = host
	s.port, _ = strconv.Atoi(port)
	return s
}

// ours sends by Mailer.Send over a warm pool.
func (s benchSink) ours(b *testing.B, name string, content Content, mails, connections, workers int) contestant {
	b.Helper()
	tenant := &Tenant{
		Name:    "lab",
		Server:  Server{Host: s.host, Port: s.port, RootCAs: s.roots},
		Auth:    Password{User: "u", Password: "secret-password"},
		Senders: Senders{any: true},
		Pool:    &Pool{Max: connections, MaxMessages: 1 << 30},
	}
	b.Cleanup(func() { tenant.Pool.Close() })
	m := &Mailer{Lookup: func(string) (*Tenant, bool) { return tenant, true }}
	sub := readySubmission(content, someone)
	return contestant{name, mails, workers, func(int) error {
		_, err := m.Send(context.Background(), sub)
		return err
	}}
}

// library sends by go-smtp's client, each worker over a connection of its own.
func (s benchSink) library(b *testing.B, content []byte, mails, workers int) contestant {
	b.Helper()
	sends := make([]func() error, workers)
	for i := range sends {
		nc, err := net.Dial("tcp", s.addr())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { nc.Close() })
		c := librarySignIn(b, nc, s.roots)
		sends[i] = func() error { return librarySend(c, content, "b@example.net") }
	}
	return contestant{"gosmtp", mails, workers, func(w int) error { return sends[w]() }}
}

// byHand sends by the least code that can do it, to show what the sink and the
// machine are capable of: in two flights, or in one by BDAT.
func (s benchSink) byHand(b *testing.B, name string, content []byte, mails, workers int, chunk bool) contestant {
	b.Helper()
	conns := make([]*handConn, workers)
	for i := range conns {
		nc, err := net.Dial("tcp", s.addr())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { nc.Close() })
		h := &handConn{nc: nc}
		err = h.expect(1, '2')
		for _, line := range []string{"EHLO x\r\n", "STARTTLS\r\n", "EHLO x\r\n", "AUTH PLAIN AHUAcA==\r\n"} {
			if err == nil {
				_, err = h.nc.Write([]byte(line))
			}
			if err == nil {
				err = h.last()
			}
			if strings.HasPrefix(line, "STARTTLS") {
				h.nc = tls.Client(nc, &tls.Config{ServerName: "localhost", RootCAs: s.roots})
			}
		}
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = h
	}
	return contestant{name, mails, workers, func(w int) error {
		if chunk {
			return conns[w].sendAtOnce(content)
		}
		return conns[w].send(content)
	}}
}

type handConn struct {
	nc  net.Conn
	out []byte
	in  [4096]byte
}

const handEnvelope = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n"

func (h *handConn) send(content []byte) error {
	h.out = append(append(h.out[:0], handEnvelope...), "DATA\r\n"...)
	if _, err := h.nc.Write(h.out); err != nil {
		return err
	}
	if err := h.expect(3, '3'); err != nil {
		return err
	}
	h.out = h.out[:0]
	for rest, dot := content, []byte("\r\n."); ; {
		i := bytes.Index(rest, dot)
		if i < 0 {
			h.out = append(append(h.out, rest...), ".\r\n"...)
			break
		}
		h.out = append(append(h.out, rest[:i+3]...), '.')
		rest = rest[i+3:]
	}
	if _, err := h.nc.Write(h.out); err != nil {
		return err
	}
	return h.expect(1, '2')
}

func (h *handConn) sendAtOnce(content []byte) error {
	h.out = append(h.out[:0], handEnvelope...)
	h.out = fmt.Appendf(h.out, "BDAT %d LAST\r\n", len(content))
	h.out = append(h.out, content...)
	if _, err := h.nc.Write(h.out); err != nil {
		return err
	}
	return h.expect(3, '2')
}

// expect reads so many lines, of which the last one is of a class.
func (h *handConn) expect(lines int, class byte) error {
	n := 0
	for bytes.Count(h.in[:n], []byte("\n")) < lines {
		k, err := h.nc.Read(h.in[n:])
		if err != nil {
			return err
		}
		n += k
	}
	text := bytes.TrimSuffix(h.in[:n], []byte("\r\n"))
	if last := text[bytes.LastIndexByte(text, '\n')+1:]; last[0] != class {
		return errors.New(string(text))
	}
	return nil
}

// last reads to the end of one reply.
func (h *handConn) last() error {
	for n := 0; ; {
		k, err := h.nc.Read(h.in[n:])
		if err != nil {
			return err
		}
		n += k
		text := bytes.TrimSuffix(h.in[:n], []byte("\r\n"))
		if last := text[bytes.LastIndexByte(text, '\n')+1:]; len(text) < n && last[3] == ' ' {
			return nil
		}
	}
}
