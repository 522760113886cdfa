package mailer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// flight is as large as a content may be that travels along with its envelope.
var flight = wireContent{text: "Subject: big\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", singleMost/72-1)}

// deafened is a server's side of a connection that stops reading after so many
// octets, and says nothing of it.
type deafened struct {
	net.Conn
	left int
	gone chan struct{} // closed when the client hangs up
}

func (d *deafened) Read(p []byte) (int, error) {
	if d.left == 0 {
		<-d.gone
		return 0, io.EOF
	}
	n, err := d.Conn.Read(p[:min(len(p), d.left)])
	d.left -= n
	return n, err
}

// telling closes a channel when it is closed.
type telling struct {
	net.Conn
	once sync.Once
	gone chan struct{}
}

func (c *telling) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// deafOnce makes the first connection one to a server that stops reading; the
// others are in order.
func deafOnce(s *mailertest.Script, octets int) func(context.Context, string, string) (net.Conn, error) {
	var once sync.Once
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := s.Dial(ctx, network, addr)
		once.Do(func() {
			nc.Close()
			client, server := net.Pipe()
			gone := make(chan struct{})
			go s.Serve(&deafened{Conn: server, left: octets, gone: gone})
			nc = &telling{Conn: client, gone: gone}
		})
		return nc, err
	}
}

// TestPeerStopsReading: that costs a message its connection and a clear error in
// time, whatever the shape; the others of the mailbox do not notice.
func TestPeerStopsReading(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		for _, octets := range []int{100, gatherSize * 5 / 4, gatherSize * 9 / 4} { // in the first write, in the second, in the third
			t.Run(fmt.Sprintf("%s/%d", shape.name, octets), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := &mailertest.Script{Offer: shape.offer}
					tenant := plainTenant(s)
					tenant.Pool = &Pool{Max: 2}
					tenant.Server.Dial = deafOnce(s, octets)
					open := tallied(tenant)
					stalled := make(chan error, 1)
					begin := time.Now()
					go func() {
						_, err := tenant.Submit(t.Context(), letter, flight, Options{})
						stalled <- err
					}()
					synctest.Wait()
					for range 10 {
						submit(t, tenant)
					}
					if took := time.Since(begin); took != 0 {
						t.Errorf("the others took %v", took)
					}
					err := <-stalled
					stage := StageData
					if shape.name == oneFlight {
						stage = StageMail // the chunk is not whole
					}
					e := wantError(t, err, stage, KindTemporary)
					if took := time.Since(begin); took != 3*time.Minute {
						t.Errorf("it took %v, and not Timeouts.Block", took)
					}
					if !strings.Contains(e.Error(), "timeout") || !strings.Contains(e.Error(), "127.0.0.1:25") {
						t.Errorf("not clear: %v", e)
					}
					submit(t, tenant)
					tenant.Pool.Close()
					if len(s.Contents()) != 11 || open.Load() != 0 {
						t.Errorf("%d contents, %d connections left open", len(s.Contents()), open.Load())
					}
				})
			})
		}
	}
}

// parting is a connection whose user ends its context during a write that has a text,
// when the server has read it.
type parting struct {
	net.Conn
	text string
	end  context.CancelCauseFunc
}

func (c parting) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if strings.Contains(string(p), c.text) {
		c.end(errParted)
		synctest.Wait()
		time.Sleep(2 * time.Second) // what is said next sets its deadline anew
	}
	return n, err
}

var errParted = errors.New("parted")

// TestPartingWhileSaying: whoever goes away while a message travels at once has sent it
// where all of it was said, and else nothing, at once.
func TestPartingWhileSaying(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		content Content
		sent    int
	}{{"all is said", hello, 1}, {"the first part is said", flight, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &mailertest.Script{Offer: []string{"PIPELINING", "CHUNKING"}, Hold: func(string) { time.Sleep(time.Second) }}
				tenant := plainTenant(s)
				ctx, end := context.WithCancelCause(t.Context())
				tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := s.Dial(ctx, network, addr)
					return parting{nc, "BDAT", end}, err
				}
				tenant.Pool = &Pool{Max: 1}
				defer tenant.Pool.Close()
				r, err := tenant.Submit(ctx, letter, tt.content, Options{})
				if tt.sent == 0 {
					if wantError(t, err, StageMail, KindTemporary); !errors.Is(err, errParted) {
						t.Errorf("not clear: %v", err)
					}
				} else if err != nil || r.Status != StatusSent {
					t.Errorf("%+v, %v", r, err)
				}
				submit(t, tenant)
				if n := len(s.Contents()); n != tt.sent+1 || s.Sessions() != 2 {
					t.Errorf("%d messages were sent by %d connections, want %d by 2", n, s.Sessions(), tt.sent+1)
				}
			})
		})
	}
}

// TestPeerStopsReadingTCP is the same with buffers of a kernel.
func TestPeerStopsReadingTCP(t *testing.T) {
	t.Parallel()
	large := wireContent{text: strings.Repeat(bigger.text, 32)} // more than any buffer holds
	for _, tt := range []struct {
		shape   int
		content Content
		replies []string
		stage   Stage
	}{
		{0, large, []string{"250 hi", "250 ok", "250 ok", "354 go"}, StageData},
		{1, large, []string{"250-hi\r\n250 PIPELINING", "250 ok\r\n250 ok\r\n354 go"}, StageData},
		{2, large, []string{"250-hi\r\n250 CHUNKING", "250 ok", "250 ok"}, StageData},
		{3, large, []string{"250-hi\r\n250-PIPELINING\r\n250 CHUNKING", "250 ok\r\n250 ok"}, StageData},
		{3, flight, []string{"250-hi\r\n250-PIPELINING\r\n250 CHUNKING"}, StageMail},
	} {
		t.Run(fmt.Sprintf("%s/%d", shapes[tt.shape].name, tt.content.Size()), func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			s := &mailertest.Script{Offer: shapes[tt.shape].offer}
			deaf, done := make(chan struct{}), make(chan struct{})
			go func() {
				for first := true; ; first = false {
					nc, err := l.Accept()
					if err != nil {
						return
					}
					if !first {
						go s.Serve(nc)
						continue
					}
					_ = nc.(*net.TCPConn).SetReadBuffer(4 << 10)
					go func() {
						defer nc.Close()
						play(nc, append([]string{"220 hi"}, tt.replies...)...)
						close(deaf)
						<-done
					}()
				}
			}()
			defer close(done)
			tenant := plainTenant(nil)
			tenant.Pool = &Pool{Max: 2}
			tenant.Server.Timeouts.Block = 500 * time.Millisecond
			tenant.Server.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				nc, err := new(net.Dialer).DialContext(ctx, network, l.Addr().String())
				if err == nil {
					err = nc.(*net.TCPConn).SetWriteBuffer(4 << 10)
				}
				return nc, err
			}
			open := tallied(tenant)
			stalled := make(chan error, 1)
			begin := time.Now()
			go func() {
				_, err := tenant.Submit(t.Context(), letter, tt.content, Options{})
				stalled <- err
			}()
			<-deaf
			for range 3 {
				submit(t, tenant)
			}
			wantError(t, <-stalled, tt.stage, KindTemporary)
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			submit(t, tenant)
			tenant.Pool.Close()
			if len(s.Contents()) != 4 || open.Load() != 0 {
				t.Errorf("%d contents, %d connections left open", len(s.Contents()), open.Load())
			}
		})
	}
}

// TestRiderBehindStalledPeer: whose envelope travels behind a content that is not
// read waits no longer than that one, and is sent then; nobody else waits for it.
func TestRiderBehindStalledPeer(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"DATA", mailertest.Content} {
		synctest.Test(t, func(t *testing.T) {
			s := &mailertest.Script{Offer: []string{"PIPELINING"}, Answers: map[string][]string{mailertest.Content: {mailertest.Stall, ""}}}
			tenant := plainTenant(s)
			if step == "DATA" {
				s.Answers = nil
				tenant.Server.Dial = deafOnce(s, 100)
			}
			tenant.Pool = &Pool{Max: 1}
			blocked := make(chan struct{})
			var errs [4]error
			var wg sync.WaitGroup
			begin := time.Now()
			for i := range errs {
				wg.Go(func() {
					_, errs[i] = tenant.Submit(t.Context(), letter, waitingContent{lined(fmt.Sprint("m", i), false), blocked}, Options{})
				})
				synctest.Wait()
			}
			close(blocked)
			wg.Wait()
			if took := time.Since(begin); took > 10*time.Minute {
				t.Errorf("it took %v", took)
			}
			wantError(t, errs[0], StageFinal, KindUnknown) // its end was in what was written last
			for i, err := range errs[1:] {
				if n := came(s, fmt.Sprint("m", i+1)); err != nil || n != 1 {
					t.Errorf("message %d came %d times: %v", i+1, n, err)
				}
			}
			tenant.Pool.Close()
		})
	}
}
