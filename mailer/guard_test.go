package mailer

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestGuard: nobody waits for a server for whom nobody waits any more, whatever it has said
// of its replies to the envelope, and a slow one is waited for.
func TestGuard(t *testing.T) {
	t.Parallel()
	const (
		all   = "250 ok\r\n250 ok\r\n354 go\r\n"
		pause = 2 * time.Minute
	)
	gone := func(after time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
		return func(ctx context.Context) (context.Context, context.CancelFunc) {
			parent, gone := context.WithCancel(ctx)
			time.AfterFunc(after, gone)
			return Within(parent, time.Minute)
		}
	}
	within := func(d time.Duration) func(context.Context) (context.Context, context.CancelFunc) {
		return func(ctx context.Context) (context.Context, context.CancelFunc) { return Within(ctx, d) }
	}
	ends := map[string]struct {
		context func(context.Context) (context.Context, context.CancelFunc)
		want    error
		after   time.Duration
	}{
		"late":  {within(time.Minute), context.DeadlineExceeded, time.Minute},
		"gone":  {gone(time.Second), context.Canceled, time.Second},
		"never": {within(time.Hour), nil, pause},
	}
	for name, end := range ends {
		for said := range len(all) + 1 {
			t.Run(name+" after "+strings.ReplaceAll(all[:said], "\r\n", "|"), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					tenant := plainTenant(nil)
					got := make(chan string, 1)
					tenant.Server.Dial = func(context.Context, string, string) (net.Conn, error) {
						client, server := net.Pipe()
						go func() {
							defer server.Close()
							play(server, "220 hi", "250-hi\r\n250 PIPELINING")
							b := make([]byte, 1024)
							for n := 0; !strings.Contains(string(b[:n]), "DATA\r\n"); {
								k, err := server.Read(b[n:])
								if n += k; err != nil {
									break
								}
							}
							io.WriteString(server, all[:said]) //nolint:errcheck // it may be gone
							if said < len(all) {
								time.Sleep(pause)
								io.WriteString(server, all[said:]) //nolint:errcheck // it may be gone
							}
							var content strings.Builder
							for !strings.HasSuffix(content.String(), "\r\n.\r\n") {
								k, err := server.Read(b)
								if content.Write(b[:k]); err != nil {
									break
								}
							}
							io.WriteString(server, "250 taken\r\n") //nolint:errcheck // it may be gone
							got <- content.String()
						}()
						return client, nil
					}
					tenant.Pool = new(Pool)
					if err := tenant.Warm(t.Context()); err != nil { // nobody waits for a dial below
						t.Fatal(err)
					}
					ctx, cancel := end.context(t.Context())
					defer cancel()
					begin := time.Now()
					r, err := tenant.Submit(ctx, letter, flight, Options{})
					took := time.Since(begin)
					content := <-got
					tenant.Pool.Close()
					switch {
					case end.want == nil || said == len(all): // it goes, or went before the end
						if err != nil || r.Reply.Text != "taken" || !strings.HasSuffix(content, "\r\n.\r\n") {
							t.Errorf("after %v: %v, and the server has got %.20q", took, err, content)
						}
					case !errors.Is(err, end.want) || content != "":
						t.Errorf("after %v: %v, and the server has got %.20q", took, err, content)
					case took != end.after:
						t.Errorf("it took %v, want %v", took, end.after)
					}
				})
			})
		}
	}
}
