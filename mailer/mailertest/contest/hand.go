package contest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

// ByHand sends by the least code that can do it, to show what the sink and the
// machine are capable of: in two flights, or in one by BDAT.
func (s Server) ByHand(b *testing.B, name string, content []byte, mails, workers int, chunk bool) Row {
	b.Helper()
	conns := make([]*Hand, workers)
	for i := range conns {
		h, err := s.Dial()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { h.Close() })
		conns[i] = h
	}
	return Row{Name: name, Mails: mails, Workers: workers, Send: func(w int) error {
		if chunk {
			return conns[w].SendAtOnce(content)
		}
		return conns[w].Send(content)
	}}
}

// Hand is a connection to a server, by hand. It serves one goroutine at a time.
type Hand struct {
	nc  net.Conn
	out []byte
	in  [4096]byte
}

// Dial connects, by STARTTLS, and signs in.
func (s Server) Dial() (*Hand, error) {
	nc, err := net.Dial("tcp", s.addr())
	if err != nil {
		return nil, err
	}
	h := &Hand{nc: nc}
	err = h.expect(1, '2')
	for _, line := range []string{"EHLO x\r\n", "STARTTLS\r\n", "EHLO x\r\n", "AUTH PLAIN AHUAcA==\r\n"} {
		if err == nil {
			_, err = h.nc.Write([]byte(line))
		}
		if err == nil {
			err = h.last()
		}
		if strings.HasPrefix(line, "STARTTLS") {
			h.nc = tls.Client(nc, &tls.Config{ServerName: "localhost", RootCAs: s.Roots})
		}
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return h, nil
}

// Close closes the connection without a word.
func (h *Hand) Close() error { return h.nc.Close() }

const handEnvelope = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n"

// Send sends a message in two flights.
func (h *Hand) Send(content []byte) error {
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

// SendAtOnce sends a message in one flight, by BDAT.
func (h *Hand) SendAtOnce(content []byte) error {
	h.out = append(h.out[:0], handEnvelope...)
	h.out = fmt.Appendf(h.out, "BDAT %d LAST\r\n", len(content))
	h.out = append(h.out, content...)
	if _, err := h.nc.Write(h.out); err != nil {
		return err
	}
	return h.expect(3, '2')
}

// expect reads so many lines, of which the last one is of a class.
func (h *Hand) expect(lines int, class byte) error {
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
func (h *Hand) last() error {
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
