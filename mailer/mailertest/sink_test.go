package mailertest

import (
	"bytes"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSink(t *testing.T) {
	t.Parallel()
	config, pool := NewCertificate(t)
	s := &Sink{TLS: config, Pipelining: true, Chunking: true, Keep: true}
	c := connect(t, s)
	c.ask("EHLO x", "250-mail.example.com\n")
	c.startTLS(pool)
	hello := c.ask("EHLO x", "250-mail.example.com\n")
	for _, line := range []string{"250-PIPELINING\n", "250-CHUNKING\n", "250 AUTH XOAUTH2 PLAIN"} {
		if !strings.Contains(hello, line) {
			t.Errorf("EHLO lacks %q: %q", line, hello)
		}
	}
	c.ask("AUTH XOAUTH2", "334 ")
	c.ask("dXNlcg==", "235 ")
	c.send(envelope + "RCPT TO:<c@example.net>\r\nDATA\r\n")
	for _, prefix := range []string{"250", "250", "250", "354"} {
		c.want(prefix)
	}
	c.send("..a\r\nb\r\n.\r\n" + envelope + "BDAT 3\r\nabcRSET\r\n" + "MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nBDAT 4\r\n.c\r\nBDAT 1 LAST\r\nd")
	for range 9 {
		c.want("250")
	}
	want := []Message{
		{From: "a@example.com", To: []string{"b@example.net", "c@example.net"}, Data: ".a\r\nb\r\n"},
		{To: []string{"b@example.net"}, Data: ".c\r\nd"},
	}
	if diff := cmp.Diff(want, s.Messages()); diff != "" {
		t.Error(diff)
	}
	if s.Taken() != 2 || s.Octets() != 13 || s.Sessions() != 1 {
		t.Errorf("%d messages, %d octets, %d sessions", s.Taken(), s.Octets(), s.Sessions())
	}
}

// TestSinkAllocates measures a session that is under way.
func TestSinkAllocates(t *testing.T) {
	s := &Sink{Pipelining: true, Chunking: true}
	host, port := s.Listen(t)
	nc, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	c := greeted(t, nc)
	data := []byte(envelope + "DATA\r\n")
	text := []byte(strings.Repeat("x", 70) + "\r\n.\r\n" + envelope + "BDAT 3 LAST\r\na\r\n")
	buf := make([]byte, 4096)
	exchange := func(p []byte, replies int) {
		if _, err := c.nc.Write(p); err != nil {
			t.Fatal(err)
		}
		for replies > 0 {
			n, err := c.nc.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			replies -= bytes.Count(buf[:n], []byte("\n"))
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		exchange(data, 3)
		exchange(text, 4)
	}); n > 0 {
		t.Errorf("%v allocations for two messages", n)
	}
}
