package listener

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// inner is a message that must not be sent.
const inner = "MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled\r\n.\r\n"

// TestTimeoutInContent: what comes behind a time-out within content is not taken
// for commands.
func TestTimeoutInContent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		pause      time.Duration
	}{
		{"at the beginning of a line", letter, time.Minute},
		{"in a line", letter + "half", time.Minute},
		{"before the end", letter + ".\r", time.Minute},
		{"at once", "", time.Minute},
		{"a moment later", letter, time.Minute + time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				l := serveMemory(t, New(trusting(r.config())))
				c := newTalk(t, l.dial("192.0.2.1")).greeted()
				c.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
				c.write(tt.text)
				time.Sleep(tt.pause)
				_, _ = io.WriteString(c.conn, "\r\n"+inner+"QUIT\r\n")
				c.hear("421 4.4.2 ")
				c.gone()
				synctest.Wait()
				if got := r.sent(); len(got) > 0 {
					t.Errorf("sent %+v", got)
				}
				if got := r.sessions(); len(got) != 1 || got[0].End != "content" {
					t.Errorf("ended %+v", got)
				}
			})
		})
	}
}

// TestReadingEnds: behind a time-out nothing is read, whoever asks.
func TestReadingEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := mailertest.Pipe(0)
		defer client.Close()
		w := newWire(server, time.Minute)
		if _, err := w.line(time.Now().Add(time.Second)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		_, _ = io.WriteString(client, inner)
		if line, err := w.line(time.Now().Add(time.Minute)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %q, %v", line, err)
		}
	})
}

// TestBareLF: it ends all commands of a session or none.
func TestBareLF(t *testing.T) {
	t.Parallel()
	addr := listen(t, New(trusting((&recorder{}).config())))
	c := dialTalk(t, addr)
	c.hear("220")
	c.write("EHLO x\nNOOP\nNOOP\r\nNOOP\n")
	for range 4 {
		c.hear("250")
	}
	c = dialTalk(t, addr).greeted()
	c.write("MAIL FROM:<a@example.com>\nRCPT TO:<victim@example.com>\r\n")
	c.hear("500 5.5.2 A command has a bare LF")
	if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
		t.Errorf("went on: %q", rest)
	}
}

// TestBrokenOff: a message whose end did not come is not sent.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	for cut := range len(letter + ".\r\n") {
		r := &recorder{}
		synctest.Test(t, func(t *testing.T) {
			l := serveMemory(t, New(trusting(r.config())))
			c := newTalk(t, l.dial("192.0.2.1")).greeted()
			c.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
			c.write((letter + ".\r\n")[:cut])
			c.conn.Close()
			synctest.Wait()
			if len(r.sent()) > 0 || len(r.sessions()) != 1 {
				t.Errorf("cut after %d octets: sent %+v, ended %+v", cut, r.sent(), r.sessions())
			}
		})
	}
}

// TestAddresses: what is not an address, or only with quotes, is refused. What is
// taken is what was said.
func TestAddresses(t *testing.T) {
	t.Parallel()
	tests := []struct{ path, want string }{
		{`<b@example.net>`, "b@example.net"},
		{`<B@Example.NET>`, "B@example.net"},
		{`b@example.net`, "b@example.net"},
		{`<"b"@example.net>`, "b@example.net"},
		{`<"foo."@docomo.ne.jp>`, `"foo."@docomo.ne.jp`},
		{`<@relay.example,@other.example:b@example.net>`, "b@example.net"},
		{`<bücher@example.net>`, "bücher@example.net"},
		{`<b@bücher.example>`, "b@xn--bcher-kva.example"},
		{`<"victim@evil.example> ORCPT=rfc822;x"@example.net>`, ""},
		{`<"victim@evil.example"@example.net>`, ""},
		{`<"a b"@example.net>`, ""},
		{`<"Name <victim@evil.example>"@example.net>`, ""},
		{`<"x" <victim@evil.example>>`, ""},
		{`<"(comment)b"@example.net>`, ""},
		{`<(comment)b@example.net>`, ""},
		{`<b@example.net(comment)>`, ""},
		{`<b@[192.0.2.1]>`, ""},
		{`<b@192.0.2.1>`, ""},
		{`<b>`, ""},
		{`<@example.net>`, ""},
		{`<b@>`, ""},
		{`<>`, ""},
		{`<b@example.net,c@example.net>`, ""},
		{`<b@example.net> <c@example.net>`, ""},
		{`<b@example.net>c@example.net`, ""},
		{`<b@@example.net>`, ""},
		{"<\"b\\\x01\"@example.net>", ""},
		{"<b\x00@example.net>", ""},
		{"<b\r@example.net>", ""},
		{"<b@example.net\x0b>", ""},
		{"<b\xff@example.net>", ""},
		{`<` + strings.Repeat("a", 65) + `@example.net>`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			c := dialTalk(t, listen(t, New(trusting(r.config())))).greeted()
			c.say("MAIL FROM:<printer@example.com>", "250")
			c.write("RCPT TO:" + tt.path + "\r\n")
			if tt.want == "" {
				c.hear("5")
				c.say("DATA", "502 ")
				return
			}
			c.hear("250")
			c.say("DATA", "354")
			c.write(letter + ".\r\n")
			c.hear("250 2.0.0 Ok: queued as ")
			if got := r.sent()[0].Envelope.To; len(got) != 1 || got[0].Mailbox() != tt.want {
				t.Errorf("sent to %v, want %s", got, tt.want)
			}
		})
	}
}

// TestDots: the dot that hides a line's own is taken off, and nothing else, however
// the content is cut in pieces.
func TestDots(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ said, want string }{
		{"a\r\n.\r\n", "a\r\n"},
		{"..\r\n.\r\n", ".\r\n"},
		{"...a\r\n.\r\n", "..a\r\n"},
		{".a\r\n.\r\n", "a\r\n"},
		{"a.\r\n.\r\n", "a.\r\n"},
		{"a\n.\r\n.\r\n", "a\n.\r\n"},
		{"a\n.\n.\r\n.\r\n", "a\n.\n.\r\n"},
		{"a\r.\r\n.\r\n", "a\r.\r\n"},
		{"a\r\r\n.\r\n", "a\r\r\n"},
		{".\ra\r\n.\r\n", "\ra\r\n"}, // the CR stays, to be refused
		{".\n\r\n.\r\n", "\n\r\n"},
		{".\r.\r\n.\r\n", "\r.\r\n"},
		{"\n.\r\n\r\n.\r\n", "\n.\r\n\r\n"},
		{".\r\n", ""},
		{strings.Repeat("x", 40_000) + "\r\n." + strings.Repeat(".", 40_000) + "\r\n.\r\n", strings.Repeat("x", 40_000) + "\r\n" + strings.Repeat(".", 40_000) + "\r\n"},
		{strings.Repeat("x", 4095) + "\r\n.\r\n", strings.Repeat("x", 4095) + "\r\n"},
		{strings.Repeat("x", 16<<10-1) + "\r\n..\r\n.\r\n", strings.Repeat("x", 16<<10-1) + "\r\n.\r\n"},
	} {
		for _, piece := range []int{1, 7, 1 << 20} {
			w := newWire(nil, 0)
			w.in.Reset(pieces{strings.NewReader(tt.said + "QUIT\r\n"), piece})
			d := &dotReader{in: w.in, begin: true, left: 1 << 20}
			got, err := io.ReadAll(pieces{d, piece})
			rest, _ := io.ReadAll(w.in)
			if string(got) != tt.want || err != nil || string(rest) != "QUIT\r\n" {
				t.Errorf("%.40q, %d at a time: got %.40q, %v, then %q", tt.said, piece, got, err, rest)
			}
		}
		for cut := range len(tt.said) {
			if cut > 100 && cut < len(tt.said)-100 {
				continue
			}
			w := newWire(nil, 0)
			w.in.Reset(strings.NewReader(tt.said[:cut]))
			d := &dotReader{in: w.in, begin: true, left: 1 << 20}
			if _, err := io.ReadAll(d); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%.40q, cut after %d: %v", tt.said, cut, err)
			}
		}
	}
}

// pieces reads so many octets at a time.
type pieces struct {
	r    io.Reader
	most int
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.most)]) }

// TestRate: content may take its time, but not too much of it.
func TestRate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		piece int
		every time.Duration
		size  int
		want  string
		after time.Duration // until the reply
	}{
		{"slow but steady", 1200, 2 * time.Second, 60_000, "250", 100 * time.Second},
		{"trickle", 1, time.Second, 60_000, "421 4.4.2 The content of the message came too slowly", 30 * time.Second},
		{"too slow", 300, time.Second, 600_000, "421 4.4.2 The content of the message came too slowly", 75 * time.Second},
		{"fast, then nothing", 100_000, 61 * time.Second, 300_000, "421 4.4.2 The content of the message came too slowly", 60 * time.Second},
		{"for ever", 5_000, time.Second, 30_000_000, "421 4.4.2 The content of the message came too slowly", 10 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				l := serveMemory(t, New(trusting(r.config())))
				c := newTalk(t, l.dial("192.0.2.1")).greeted()
				c.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
				begin := time.Now()
				var writing sync.WaitGroup
				writing.Go(func() {
					text := letter + strings.Repeat("twenty-four characters\r\n", (tt.size-len(letter))/24) + ".\r\n"
					for len(text) > 0 {
						n := min(tt.piece, len(text))
						if _, err := io.WriteString(c.conn, text[:n]); err != nil {
							return
						}
						text = text[n:]
						time.Sleep(tt.every)
					}
				})
				c.hear(tt.want)
				took := time.Since(begin)
				if (took - tt.after).Abs() > 2*time.Second {
					t.Errorf("took %v, want %v", took, tt.after)
				}
				c.conn.Close()
				writing.Wait()
			})
		})
	}
}

// TestSize: too large is refused before it comes, behind it, or where it has no end.
func TestSize(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	config := trusting(r.config())
	config.Intake.MaxSize = 1 << 20
	s := New(config)
	addr := listen(t, s)
	line := strings.Repeat("x", 76) + "\r\n"

	c := dialTalk(t, addr)
	c.hear("220")
	if got := c.say("EHLO x", "250"); !strings.Contains(got, "SIZE 1048576") {
		t.Errorf("offered %q", got)
	}
	c.say("MAIL FROM:<a@example.com> SIZE=1048577", "552 5.3.4 ")
	c.send(letter+strings.Repeat(line, 1<<20/78)+".\r\n", "552 5.3.4 The message is too large: 1 MiB at most")
	c.send(letter+".\r\n", "250")
	c.say("MAIL FROM:<a@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
	go func() {
		for range 1000 { // 78 MB
			if _, err := io.WriteString(c.conn, strings.Repeat(line, 1000)); err != nil {
				return
			}
		}
	}()
	if rest, _ := io.ReadAll(c.r); len(rest) > 0 && !strings.HasPrefix(string(rest), "552 5.3.4 ") { // it may be lost with the rest
		t.Errorf("got %q", rest)
	}
	if got := r.sent(); len(got) != 1 {
		t.Errorf("%d sent", len(got))
	}
}

func TestLongLines(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	addr := listen(t, New(trusting(r.config())))
	c := dialTalk(t, addr).greeted()
	c.say("AUTH PLAIN "+strings.Repeat("QUJD", 3000), "501 5.5.2 ")
	c.send(letter+strings.Repeat("word ", 3000)+"\r\n.\r\n", "250")
	c.say("NOOP "+strings.Repeat("x", maxLine-7), "250")
	c.write("NOOP " + strings.Repeat("x", maxLine) + "\r\n")
	c.hear("500 5.5.2 This line is too long")
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("not closed")
	}
}

// TestSignInFirst: without an identity there is no mail, and without TLS no password.
func TestSignInFirst(t *testing.T) {
	t.Parallel()
	server, pool := mailertest.NewCertificate(t)
	for _, tt := range []struct {
		name   string
		change func(*Config)
		offer  string
		mail   string
		auth   string
	}{
		{"a network for plaintext", func(*Config) {}, "AUTH PLAIN LOGIN", "530 5.7.0 Sign in first", "235"},
		{"TLS offered", func(c *Config) { c.PlaintextFrom = nil; c.TLS = server }, "STARTTLS", "530 5.7.0 Turn TLS", "538 5.7.11 Turn TLS"},
		{"no way", func(c *Config) { c.PlaintextFrom = nil }, "", "530 5.7.0 Nobody", "538 5.7.11 Nobody"},
		{"no users", func(c *Config) { c.Authenticate = nil }, "", "550 5.7.1 ", "502 5.5.1 There are no users"},
		{"other networks", func(c *Config) { c.Network = func(Client) *Identity { return nil } }, "AUTH PLAIN LOGIN", "530 5.7.0 Sign in first", "235"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			config := r.config()
			tt.change(config)
			c := dialTalk(t, listen(t, New(config)))
			c.hear("220")
			offer := c.say("EHLO x", "250")
			for _, word := range []string{"AUTH", "STARTTLS"} {
				if strings.Contains(offer, word) != strings.Contains(tt.offer, word) {
					t.Errorf("offered %q", offer)
				}
			}
			c.say("MAIL FROM:<a@example.com>", tt.mail, "RCPT TO:<b@example.net>", "502", "DATA", "502", authPlain, tt.auth)
			if tt.offer == "STARTTLS" {
				config := clientTLS(pool)
				c.startTLS(config)
				c.say("EHLO x", "250", "MAIL FROM:<a@example.com>", "530 5.7.0 Sign in first", authPlain, "235", "MAIL FROM:<a@example.com>", "250")
			}
			if len(r.sent()) > 0 {
				t.Error("sent")
			}
		})
	}
}

// TestNoChunking: BDAT is not offered, and nothing behind it is a command.
func TestNoChunking(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := dialTalk(t, listen(t, New(trusting(r.config()))))
	c.hear("220")
	if got := c.say("EHLO x", "250"); strings.Contains(got, "CHUNKING") || strings.Contains(got, "BINARYMIME") {
		t.Errorf("offered %q", got)
	}
	c.write("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nBDAT 200 LAST\r\n" + inner + inner)
	c.hear("250")
	c.hear("250")
	c.hear("502 5.5.1 ")
	c.gone()
	if len(r.sent()) > 0 {
		t.Error("sent")
	}
}

// TestNoSecretsInReplies: what went wrong inside is nobody's business outside.
func TestNoSecretsInReplies(t *testing.T) {
	t.Parallel()
	r := &recorder{answer: func(context.Context, mailer.Submission) (mailer.Receipt, error) {
		return mailer.Receipt{}, errors.New("dial tcp 10.1.2.3:587: internal secret\r\n250 ok")
	}}
	config := r.config()
	check := config.Authenticate
	config.Authenticate = func(ctx context.Context, c Client, user, word string) (*Identity, error) {
		if user == "trouble" {
			return nil, errors.New("internal secret")
		}
		return check(ctx, c, user, word)
	}
	c := dialTalk(t, listen(t, New(config))).greeted()
	c.say("AUTH PLAIN AHRyb3VibGUAeA==", "454 4.7.0 The password could not be checked: try again later", authPlain, "235")
	if got := c.send(letter+".\r\n", "451 4.3.0 "); strings.Contains(got, "secret") {
		t.Error(got)
	}
	c.say("NOOP", "250")
}

// TestPanic: one of ours ends the session and nothing else.
func TestPanic(t *testing.T) {
	t.Parallel()
	r := &recorder{answer: func(context.Context, mailer.Submission) (mailer.Receipt, error) { panic("ouch") }}
	config := trusting(r.config())
	addr := listen(t, New(config))
	c := dialTalk(t, addr).greeted()
	c.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
	c.write(letter + ".\r\n")
	c.hear("421 4.0.0 ")
	c.gone()
	dialTalk(t, addr).greeted()
}

// TestFaults: nobody may go on for ever with what leads nowhere.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, line, reply string
		most              int
	}{
		{"unknown", "FROBNICATE", "500 5.5.2 ", 21},
		{"no address", "RCPT TO:<x>", "50", 21},
		{"control characters", "NOOP \x01", "500 5.5.2 ", 21},
		{"nothing", "NOOP", "250", 101},
		{"reset", "RSET", "250", 101},
		{"greetings", "EHLO x", "250", 101},
		{"empty lines", "", "50", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{}
			c := dialTalk(t, listen(t, New(trusting(r.config()))))
			c.hear("220")
			for range tt.most {
				c.say(tt.line, tt.reply)
			}
			rest, _ := io.ReadAll(c.r)
			if got := string(rest); !strings.HasPrefix(got, "421 4.7.0 ") && !strings.HasPrefix(got, "500 5.5.1 Too many") {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestMessagesPerConnection lets no connection go on for ever.
func TestMessagesPerConnection(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	config := trusting(r.config())
	config.Limits.Messages = 3
	config.Limits.Recipients = 2
	c := dialTalk(t, listen(t, New(config))).greeted()
	c.send(letter+".\r\n", "250")
	c.say("MAIL FROM:<printer@example.com>", "250")
	for i := range 2 {
		c.say(fmt.Sprintf("RCPT TO:<b%d@example.net>", i), "250")
	}
	c.say("RCPT TO:<c@example.net>", "452 4.5.3 ", "DATA", "354")
	c.write(letter + ".\r\n")
	c.hear("250")
	c.send(letter+".\r\n", "250")
	c.say("MAIL FROM:<printer@example.com>", "421 4.7.0 ")
	c.gone()
	if got := r.sent(); len(got) != 3 || len(got[1].Envelope.To) != 2 {
		t.Errorf("sent %+v", got)
	}
}
