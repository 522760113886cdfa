package listener

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// phrases are what command streams are made of.
var phrases = []string{
	"EHLO x\r\n", "HELO x\r\n", authPlain + "\r\n", "AUTH LOGIN\r\n", base64.StdEncoding.EncodeToString([]byte(userName)) + "\r\n", base64.StdEncoding.EncodeToString([]byte(password)) + "\r\n",
	plainWith("x", "y") + "\r\n", "MAIL FROM:<a@example.com>\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<b@example.net>\r\n", `RCPT TO:<"x> y"@example.net>` + "\r\n",
	"DATA\r\n", letter, ".\r\n", "\r\n.\r\n", "RSET\r\n", "NOOP\r\n", "QUIT\r\n", "STARTTLS\r\n", "BDAT 5 LAST\r\nabcde", "AUTH PLAIN\r\n", "*\r\n", "\n.\n", "\r.\r", "\r\n", ".", "From: a@example.com\n", "x", "\x00", "\xff",
	"VRFY x\r\n", "MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n", "RCPT TO:<c@example.net> NOTIFY=NEVER\r\n", "mail from: root\r\n", "STARTTLSX\r\n", strings.Repeat("x", 5000), "\n",
}

// FuzzSession says anything. Nothing is sent but by somebody who has signed in, after
// MAIL, RCPT and DATA that were taken, with content whose end has come; each command
// has one reply; the session ends with the connection, and with broken content.
func FuzzSession(f *testing.F) {
	for _, s := range [][]byte{
		{0, 2, 7, 9, 11, 12, 13, 17},
		{0, 3, 4, 5, 7, 9, 11, 12, 13, 7, 9, 11, 12},
		{7, 2, 7, 9, 9, 15, 11, 7, 9, 11, 26, 13},
		{0, 6, 6, 6, 2},
		{0, 2, 18, 7},
		{0, 2, 7, 9, 19, 7},
		{20, 21, 20, 2},
		{0, 2, 7, 10, 9, 11, 25, 22, 23, 14},
		{0, 2, 7, 9, 11, 35, 35, 35, 35, 14},
		{34, 7, 36, 0},
	} {
		f.Add(s, false, uint16(0))
		f.Add(s, true, uint16(7))
	}
	f.Fuzz(func(t *testing.T, stream []byte, known bool, piece uint16) {
		if len(stream) > 64 {
			return
		}
		var said bytes.Buffer
		for _, b := range stream {
			if int(b) < len(phrases) {
				said.WriteString(phrases[b])
			} else {
				said.WriteByte(b)
			}
		}
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{}
			config := everywhere(r.config())
			config.Limits.WrongPerAddress = 5
			if known {
				trusting(config)
			}
			rc := &replies{}
			config.Send = func(ctx context.Context, s mailer.Submission) (mailer.Receipt, error) {
				if s.Caller.Name == "" || s.Tenant != "office" || len(s.Envelope.To) == 0 || s.MessageID == "" || s.From.IsZero() {
					t.Errorf("sent without something: %+v", s)
				}
				if !known && s.Caller.Kind != "user" {
					t.Errorf("sent by nobody: %+v", s)
				}
				return r.send(ctx, s)
			}
			s := New(config)
			l := serveMemory(t, s)
			conn := l.dial("192.0.2.1")
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, rc.err = io.Copy(rc, conn)
			}()
			for rest := said.Bytes(); len(rest) > 0; {
				n := len(rest)
				if piece > 0 {
					n = min(n, int(piece))
				}
				if _, err := conn.Write(rest[:n]); err != nil {
					break
				}
				rest = rest[n:]
				if piece > 0 {
					synctest.Wait()
				}
			}
			<-done // at the latest, when the server has waited long enough
			synctest.Wait()

			sent := r.sent()
			go354, queued, signed, mail, rcpt := rc.count("354 "), rc.count("250 2.0.0 Ok: queued as "), rc.count("235 "), rc.count("250 2.0.0 Roger"), rc.count("250 2.0.0 I'll make sure")
			ends := strings.Count(said.String(), ".\r\n")
			if len(sent) != queued || queued > go354 || queued > mail || queued > rcpt || queued > ends || !known && queued > 0 && signed == 0 {
				t.Errorf("%q: %d sent, %d answered, %d begun, %d signed in\n%s", said.String(), len(sent), queued, go354, signed, rc.String())
			}
			for _, m := range sent {
				if strings.Contains(strings.ReplaceAll(m.text, "\r\n", ""), "\n") || strings.Contains(strings.ReplaceAll(m.text, "\r\n", ""), "\r") || !strings.HasSuffix(m.text, "\r\n") {
					t.Errorf("not canonical: %q", m.text)
				}
			}
			for line := range strings.SplitSeq(strings.TrimSuffix(rc.String(), "\r\n"), "\r\n") {
				if len(line) < 4 || line[0] < '2' || line[0] > '5' || line[3] != ' ' && line[3] != '-' || strings.ContainsAny(line, "\r\n\x00") {
					t.Errorf("%q: reply %q", said.String(), line)
				}
			}
			if broken := rc.count("421 4.4.2 The content"); broken > 1 || broken == 1 && !strings.HasPrefix(rc.last(), "421 4.4.2 The content") {
				t.Errorf("%q: went on after broken content:\n%s", said.String(), rc.String())
			}
			if ended := r.sessions(); len(ended) != 1 || ended[0].Messages != len(sent) || len(s.sessions) > 0 || len(s.from) > 0 {
				t.Errorf("%q: ended %+v, left %v", said.String(), ended, s.sessions)
			}
		})
	})
}

// replies are what a server has said.
type replies struct {
	bytes.Buffer
	err error
}

func (r *replies) count(begin string) int { return strings.Count("\n"+r.String(), "\n"+begin) }

func (r *replies) last() string {
	lines := strings.Split(strings.TrimSuffix(r.String(), "\r\n"), "\r\n")
	return lines[len(lines)-1]
}

// FuzzDots compares what is read of a content with what one octet after the other says,
// however the content comes in pieces.
func FuzzDots(f *testing.F) {
	for _, s := range []string{"a\r\n.\r\n", "..\r\n.\r\nx", ".a\r\n\r\n.\r\n", "a\n.\r\n.\r\n", ".\ra\r\n.\r\n", "\r\r\n..\r.\r\n\n.\r\n.\r\n.\r\n", "\r\n.\n.\r\n", "x\r"} {
		for _, pieces := range [][]byte{{1}, {2, 1}, {3, 5}, {200}} {
			f.Add([]byte(s), pieces)
		}
	}
	f.Fuzz(func(t *testing.T, said, sizes []byte) {
		var want []byte
		behind, line := -1, 0 // behind the end, and where the line at hand begins
		for i, c := range said {
			switch {
			case bytes.HasPrefix(said[line:], []byte(".\r\n")):
				behind = line + 3
			case i == line && c == '.':
			default:
				want = append(want, c)
			}
			if behind >= 0 {
				break
			}
			if i > 0 && c == '\n' && said[i-1] == '\r' {
				line = i + 1
			}
		}
		in := bufio.NewReaderSize(&chopped{text: said, sizes: sizes}, 16)
		d := &dotReader{in: in, begin: true, left: 1 << 20}
		got, err := io.ReadAll(d)
		rest, _ := io.ReadAll(in)
		switch {
		case behind < 0 && !errors.Is(err, io.ErrUnexpectedEOF), behind >= 0 && err != nil:
			t.Errorf("%q: %v", said, err)
		case behind < 0 && !bytes.HasPrefix(want, got), behind >= 0 && (!bytes.Equal(got, want) || string(rest) != string(said[behind:])):
			t.Errorf("%q: got %q and then %q, want %q", said, got, rest, want)
		}
	})
}

// chopped yields a text in pieces of given sizes, again and again.
type chopped struct {
	text, sizes []byte
	next        int
}

func (c *chopped) Read(p []byte) (int, error) {
	if len(c.text) == 0 {
		return 0, io.EOF
	}
	n := 1
	if len(c.sizes) > 0 {
		n = max(1, int(c.sizes[c.next%len(c.sizes)]))
		c.next++
	}
	n = copy(p[:min(n, len(p))], c.text)
	c.text = c.text[n:]
	return n, nil
}
