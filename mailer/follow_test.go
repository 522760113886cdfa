package mailer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestNextFollows: whoever waits gets his turn on the connection, once.
func TestNextFollows(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		answers  map[string][]string
		kinds    []Kind
		sessions int
		sent     int // contents that came to the server
	}{
		{"all taken", nil, []Kind{0, 0, 0, 0}, 1, 4},
		{"first content refused", map[string][]string{mailertest.Content: {"554 5.6.0 no", ""}}, []Kind{KindRejected, 0, 0, 0}, 2, 4},
		{"first hung up on", map[string][]string{mailertest.Content: {mailertest.Close, ""}}, []Kind{KindUnknown, 0, 0, 0}, 2, 4},
		{"first taken with a good-bye", map[string][]string{mailertest.Content: {"421 4.3.0 closing", ""}}, []Kind{KindTemporary, 0, 0, 0}, 2, 4},
		{"second sender refused", map[string][]string{"MAIL": {"", "550 5.7.1 no", ""}}, []Kind{0, KindRejected, 0, 0}, 1, 3},
		{"second has nobody", map[string][]string{"RCPT": {"", "550 5.1.1 no", ""}}, []Kind{0, KindRejected, 0, 0}, 1, 3},
		{"second has nobody, and DATA is granted", map[string][]string{"RCPT": {"", "550 5.1.1 no", ""}, "DATA": {"", "354 go", ""}, mailertest.Content: {"", "554 5.5.1 nobody", ""}}, []Kind{0, KindRejected, 0, 0}, 1, 3},
		{"hung up at second MAIL", map[string][]string{"MAIL": {"", mailertest.Close, ""}}, []Kind{0, 0, 0, 0}, 2, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &mailertest.Script{Offer: []string{"PIPELINING"}, Strict: true, Answers: tt.answers}
				kinds := inTurn(t, 4, hello, s)
				if !slices.Equal(kinds, tt.kinds) {
					t.Errorf("kinds %v, want %v", kinds, tt.kinds)
				}
				if s.Sessions() != tt.sessions || len(s.Contents()) != tt.sent {
					t.Errorf("%d sessions, %d contents; said %q", s.Sessions(), len(s.Contents()), s.Lines())
				}
			})
		})
	}
}

// TestNextLeaves: a message that is gone when its envelope was said is not sent,
// and the pool goes on.
func TestNextLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &mailertest.Script{Offer: []string{"PIPELINING"}, Answers: map[string][]string{mailertest.Content: {mailertest.Stall, ""}}}
		tenant := plainTenant(s)
		tenant.Pool = &Pool{Max: 1}
		defer tenant.Pool.Close()
		var said overheard
		tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := s.Dial(ctx, network, addr)
			return overheardConn{nc, &said}, err
		}
		first := make(chan error, 1)
		gone := errors.New("gone")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, gone)
		defer cancel()
		blocked := make(chan struct{})
		go func() {
			_, err := tenant.Submit(t.Context(), letter, waitingContent{hello, blocked}, Options{})
			first <- err
		}()
		synctest.Wait()
		second := make(chan error, 1)
		go func() {
			_, err := tenant.Submit(ctx, letter, hello, Options{})
			second <- err
		}()
		synctest.Wait()
		close(blocked) // now there is one to go behind the content
		begin := time.Now()
		err := <-second
		wantError(t, err, StageLimit, KindThrottled)
		if !errors.Is(err, gone) || time.Since(begin) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		wantError(t, <-first, StageFinal, KindUnknown)
		if n := said.count("MAIL FROM"); n != 2 {
			t.Errorf("MAIL was said %d times, want 2: the second did not announce itself", n)
		}
		submit(t, tenant)
		if n := len(s.Contents()); n != 2 {
			t.Errorf("%d contents, want 2", n)
		}
	})
}

// TestNextIsLetGo: where the verdict on a message does not come, the one that
// follows it takes another connection, and is sent once.
func TestNextIsLetGo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		most  int
		after time.Duration // when the last message was sent
	}{
		{"another is idle", 2, followPatience},
		{"none is left", 1, 10 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &mailertest.Script{Offer: []string{"PIPELINING"}, Answers: map[string][]string{mailertest.Content: {mailertest.Stall, ""}}}
				tenant := plainTenant(s)
				tenant.Pool = &Pool{Max: tt.most}
				defer tenant.Pool.Close()
				var wg sync.WaitGroup
				holds := []chan struct{}{make(chan struct{}), make(chan struct{})}
				for i, hold := range holds[:tt.most] {
					wg.Go(func() {
						_, err := tenant.Submit(t.Context(), letter, waitingContent{hello, hold}, Options{})
						if i == 0 {
							wantError(t, err, StageFinal, KindUnknown)
						} else if err != nil {
							t.Error(err)
						}
					})
					synctest.Wait()
				}
				begin := time.Now()
				wg.Go(func() {
					if _, err := tenant.Submit(t.Context(), letter, hello, Options{}); err != nil || time.Since(begin) != tt.after {
						t.Errorf("%v after %v, want it sent after %v", err, time.Since(begin), tt.after)
					}
				})
				synctest.Wait()
				close(holds[0])
				synctest.Wait()
				close(holds[1])
				wg.Wait()
				if want := tt.most; len(s.Contents()) != want+1 {
					t.Errorf("%d contents, want %d", len(s.Contents()), want+1)
				}
			})
		})
	}
}

// waitingContent waits before it is written.
type waitingContent struct {
	wireContent
	until chan struct{}
}

func (w waitingContent) WriteTo(to io.Writer) (int64, error) {
	<-w.until
	return w.wireContent.WriteTo(to)
}

// overheard is what a client wrote.
type overheard struct {
	mu  sync.Mutex
	all []byte
}

func (o *overheard) count(what string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Count(o.all, []byte(what))
}

type overheardConn struct {
	net.Conn
	by *overheard
}

func (c overheardConn) Write(p []byte) (int, error) {
	c.by.mu.Lock()
	c.by.all = append(c.by.all, p...)
	c.by.mu.Unlock()
	return c.Conn.Write(p)
}
