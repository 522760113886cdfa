package listener

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// discard is go-smtp's server as it is, with a backend that reads and forgets.
type discard struct{}

func (discard) NewSession(*smtp.Conn) (smtp.Session, error) { return discard{}, nil }
func (discard) Reset()                                      {}
func (discard) Logout() error                               { return nil }
func (discard) Mail(string, *smtp.MailOptions) error        { return nil }
func (discard) Rcpt(string, *smtp.RcptOptions) error        { return nil }
func (discard) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// BenchmarkSession sends message after message over connections on loopback TCP, to
// this server with a Send that does nothing, and to go-smtp's own that forgets.
// Grouped has MAIL, RCPT and DATA in one write.
func BenchmarkSession(b *testing.B) {
	servers := map[string]func(b *testing.B) string{
		"gosmtp": func(b *testing.B) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			s := smtp.NewServer(discard{})
			go s.Serve(l)
			b.Cleanup(func() { s.Close() })
			return l.Addr().String()
		},
		"listener": func(b *testing.B) string {
			config := trusting((&recorder{}).config())
			config.Hooks = Hooks{}
			config.Limits.Messages = 1 << 30
			config.Limits.PerAddress = 100
			config.Send = func(_ context.Context, s mailer.Submission) (mailer.Receipt, error) {
				return mailer.Receipt{ID: s.ID, Status: mailer.StatusQueued}, nil
			}
			return listen(b, New(config))
		},
	}
	for _, kib := range []int{1, 100} {
		text := letter + strings.Repeat(strings.Repeat("x", 76)+"\r\n", kib<<10/78) + ".\r\n"
		for _, clients := range []int{1, 16} {
			for _, grouped := range []bool{false, true} {
				for _, name := range []string{"gosmtp", "listener"} {
					b.Run(fmt.Sprintf("%dKiB/c=%d/grouped=%v/%s", kib, clients, grouped, name), func(b *testing.B) {
						addr := servers[name](b)
						b.SetBytes(int64(len(text)))
						b.ReportAllocs()
						b.SetParallelism(max(1, clients/runtime.GOMAXPROCS(0)))
						var began atomic.Int64
						b.RunParallel(func(pb *testing.PB) {
							if began.Add(1) > int64(clients) { // more processors than clients
								return
							}
							if err := bring(addr, text, grouped, pb.Next); err != nil {
								b.Error(err)
							}
						})
						b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
					})
				}
			}
		}
	}
}

// bring sends messages as long as there are more.
func bring(addr, text string, grouped bool, more func() bool) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	c := &talk{conn: nc, r: bufio.NewReader(nc)}
	if reply, ok := c.try(""); !ok {
		return fmt.Errorf("greeted with %q", reply)
	}
	if reply, ok := c.try("EHLO x\r\n"); !ok {
		return fmt.Errorf("EHLO: %q", reply)
	}
	commands := []string{"MAIL FROM:<a@example.com>\r\n", "RCPT TO:<b@example.net>\r\n", "DATA\r\n", text}
	if grouped {
		commands = []string{strings.Join(commands[:3], ""), "", "", text}
	}
	for more() {
		for _, line := range commands {
			if reply, ok := c.try(line); !ok {
				return fmt.Errorf("%.10q: %q", line, reply)
			}
		}
	}
	return nil
}

// BenchmarkIdle measures what a connection costs on which nothing happens.
func BenchmarkIdle(b *testing.B) {
	config := trusting((&recorder{}).config())
	config.Limits.Connections, config.Limits.PerAddress = 1<<20, 1<<20
	addr := listen(b, New(config))
	const n = 1000
	for b.Loop() {
		runtime.GC()
		before := inUse()
		conns := make([]net.Conn, n)
		for i := range conns {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			c := &talk{conn: nc, r: bufio.NewReaderSize(nc, 16)}
			c.try("")
			c.try("EHLO x\r\n")
			conns[i] = nc
		}
		runtime.GC()
		b.ReportMetric(float64(inUse()-before)/n, "octets/connection")
		for _, nc := range conns {
			nc.Close()
		}
	}
}
