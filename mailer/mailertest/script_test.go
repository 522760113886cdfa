package mailertest

import (
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const envelope = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n"

func TestChunks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, said string
		answers    map[string][]string
		want       []string // how the replies begin
		contents   []string
	}{
		{
			name: "one flight", said: envelope + "BDAT 7 LAST\r\n.a\r\n.\r\nNOOP\r\n",
			want: []string{"250", "250", "250 2.0.0 Ok: queued", "250"}, contents: []string{".a\r\n.\r\n"},
		},
		{
			name: "chunks", said: envelope + "BDAT 3\r\na\r\nbdat 0\r\nBDAT 2 last\r\nbcBDAT 0 LAST\r\n",
			want: []string{"250", "250", "250 2.0.0 go on", "250 2.0.0 go on", "250 2.0.0 Ok", "554 5.5.1"}, contents: []string{"a\r\nbc"},
		},
		{
			name: "large", said: envelope + "BDAT 200000 LAST\r\n" + strings.Repeat("x", 200000),
			want: []string{"250", "250", "250"}, contents: []string{strings.Repeat("x", 200000)},
		},
		{
			name: "envelope refused", said: envelope + "BDAT 3 LAST\r\na\r\nNOOP\r\n", answers: map[string][]string{"RCPT": {"550 5.1.1 no"}},
			want: []string{"250", "550", "554 5.5.1", "250"},
		},
		{
			name: "content refused", said: envelope + "BDAT 3 LAST\r\na\r\nNOOP\r\n", answers: map[string][]string{"BDAT": {"552 5.3.4 no"}},
			want: []string{"250", "250", "552", "250"}, contents: []string{"a\r\n"},
		},
		{
			name: "first chunk refused", said: envelope + "BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n", answers: map[string][]string{"BDAT": {"552 5.3.4 no", ""}},
			want: []string{"250", "250", "552", "554 5.5.1"},
		},
		{
			name: "given up", said: envelope + "BDAT 3\r\na\r\nRSET\r\n" + envelope + "BDAT 1 LAST\r\nb",
			want: []string{"250", "250", "250", "250", "250", "250", "250"}, contents: []string{"b"},
		},
		{name: "malformed", said: "BDAT\r\nBDAT x\r\nBDAT -1 LAST\r\nBDAT 1 FIRST\r\n", want: []string{"501", "501", "501", "501"}},
		{
			name: "DATA in one go", said: envelope + "DATA\r\n..a\r\n.\r\n" + envelope,
			want: []string{"250", "250", "354", "250", "250", "250"}, contents: []string{"..a\r\n"},
		},
		{name: "DATA, empty", said: envelope + "DATA\r\n.\r\nNOOP\r\n", want: []string{"250", "250", "354", "250", "250"}, contents: []string{""}},
		{name: "DATA without recipients", said: "MAIL FROM:<>\r\nDATA\r\n", want: []string{"250", "554 5.5.1"}},
		{
			name: "DATA without recipients, taken", said: "MAIL FROM:<>\r\nDATA\r\nabc\r\n.\r\nNOOP\r\n", answers: map[string][]string{"DATA": {"354 go"}},
			want: []string{"250", "354", "554 5.5.1", "250"},
		},
		{name: "out of order", said: "RCPT TO:<b@example.net>\r\n" + envelope + "MAIL FROM:<>\r\n", want: []string{"503", "250", "250", "503"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &Script{Answers: tt.answers}
			c := connect(t, s)
			c.send(tt.said)
			for _, prefix := range tt.want {
				c.want(prefix)
			}
			if got := s.Contents(); !slices.Equal(got, tt.contents) {
				t.Errorf("contents %.100q", got)
			}
		})
	}
}

// TestEndOfData splits content between any two octets.
func TestEndOfData(t *testing.T) {
	t.Parallel()
	const content = "a\r\n..\r\n...\r\n\r\n.. \r.\r\nb\n.\nc\r\n.\nd\r\n"
	const wire = content + ".\r\nNOOP\r\n"
	for i := range wire {
		s := new(Script)
		c := connect(t, s)
		c.send(envelope + "DATA\r\n")
		for range 2 {
			c.want("250")
		}
		c.want("354")
		c.send(wire[:i])
		c.send(wire[i:])
		c.want("250 2.0.0 Ok: queued")
		c.want("250")
		if got := s.Contents(); !slices.Equal(got, []string{content}) {
			t.Fatalf("split at %d: contents %q", i, got)
		}
	}
}

// writes counts the writes of a server.
type writes struct {
	net.Conn
	n int
}

func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.Conn.Write(p)
}

func TestRepliesAreGrouped(t *testing.T) {
	t.Parallel()
	a, b := Pipe(0)
	w := &writes{Conn: b}
	s := new(Script)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(w)
	}()
	c := greeted(t, a)
	c.send(strings.Repeat(envelope+"RSET\r\n", 100))
	for range 300 {
		c.want("250")
	}
	c.send(envelope + "DATA\r\n")
	c.want("250")
	c.want("250")
	c.want("354")
	c.send("a\r\n.\r\n" + envelope + "BDAT 1 LAST\r\nb" + "QUIT\r\n")
	for range 4 {
		c.want("250")
	}
	c.want("221")
	<-done
	if w.n != 4 {
		t.Errorf("%d writes", w.n)
	}
}

func TestStrict(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, said string
		offer      string
		ok         bool
	}{
		{"commands one by one", "NOOP\r\n", "", true},
		{"commands together", envelope, "", false},
		{"envelope, offered", envelope, "PIPELINING", true},
		{"behind DATA", envelope + "DATA\r\nx", "PIPELINING", false},
		{"behind EHLO", "EHLO x\r\nNOOP\r\n", "PIPELINING", false},
		{"behind NOOP", "NOOP\r\nNOOP\r\n", "PIPELINING", false},
		{"behind a chunk", envelope + "BDAT 1 LAST\r\nx" + envelope, "PIPELINING", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &Script{Strict: true, Offer: []string{tt.offer}}
				c := connect(t, s)
				c.send(tt.said)
				synctest.Wait()
				_ = c.nc.SetReadDeadline(time.Now().Add(time.Second))
				all := ""
				for {
					line, err := c.r.ReadString('\n')
					if all += line; err != nil {
						if refused := strings.Contains(all, "503 5.5.0"); refused == tt.ok {
							t.Errorf("answered %q, %v", all, err)
						}
						return
					}
				}
			})
		})
	}
}

// TestStalledScript reads nothing, so that writes wait for their deadline.
func TestStalledScript(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, &Script{Answers: map[string][]string{"MAIL": {Stall}}})
		begin := time.Now()
		_ = c.nc.SetDeadline(begin.Add(time.Minute))
		c.send("MAIL FROM:<>\r\n")
		if n, err := c.nc.Write([]byte("R")); n != 0 || err == nil || time.Since(begin) != time.Minute {
			t.Errorf("wrote %d, %v after %v", n, err, time.Since(begin))
		}
	})
}
