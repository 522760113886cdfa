//go:build chaos

package mailer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

var chaosFor = flag.Duration("chaos", 10*time.Second, "how long")

// chaosServer misbehaves by lot, and knows what it has taken, for whom.
type chaosServer struct {
	l     net.Listener
	offer []string
	p     float64
	mu    sync.Mutex
	taken map[string]int
	rcpts map[string][]string
}

func (s *chaosServer) run() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		go s.serve(c)
	}
}

func (s *chaosServer) take(body []byte, to []string) {
	id, _, _ := strings.Cut(strings.TrimPrefix(string(body), "Subject: "), "\r\n")
	s.mu.Lock()
	s.taken[id]++
	s.rcpts[id] = append([]string{}, to...)
	s.mu.Unlock()
}

func (s *chaosServer) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	w := bufio.NewWriter(c)
	mis := func(p float64) bool { return rand.Float64() < p*s.p }
	fmt.Fprint(w, "220 hi\r\n")
	from, to := false, []string(nil)
	n := 0
	for {
		if r.Buffered() == 0 || rand.IntN(8) == 0 {
			if w.Flush() != nil {
				return
			}
		}
		if n > 2 && mis(0.03) { // idle good-bye
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
			if r.Buffered() == 0 {
				c.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(2000)) * time.Microsecond))
				if _, err := r.Peek(1); err != nil {
					fmt.Fprint(w, "421 4.4.2 idle\r\n")
					w.Flush()
					return
				}
				c.SetReadDeadline(time.Time{})
			}
		}
		n++
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if len(line) < 4 {
			fmt.Fprint(w, "500 what\r\n")
			continue
		}
		if mis(0.01) {
			w.Flush()
			return
		}
		if mis(0.01) {
			fmt.Fprint(w, "421 4.3.2 going down\r\n")
			w.Flush()
			return
		}
		if mis(0.005) {
			time.Sleep(400 * time.Millisecond)
		}
		if mis(0.02) {
			time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond)
		}
		verb := strings.ToUpper(line[:4])
		switch verb {
		case "EHLO":
			fmt.Fprint(w, "250-x\r\n")
			for _, o := range s.offer {
				fmt.Fprint(w, "250-"+o+"\r\n")
			}
			fmt.Fprint(w, "250 8BITMIME\r\n")
		case "MAIL":
			switch {
			case from:
				fmt.Fprint(w, "503 5.5.1 nested\r\n")
			case mis(0.03):
				fmt.Fprint(w, "550 5.7.1 no\r\n")
			case mis(0.03):
				fmt.Fprint(w, "450 4.3.0 later\r\n")
			case mis(0.02):
				fmt.Fprint(w, "530 5.7.0 sign in\r\n")
			case mis(0.01):
				fmt.Fprint(w, "451 4.4.2 timeout\r\n")
				w.Flush()
				return
			default:
				from, to = true, nil
				fmt.Fprint(w, "250 2.1.0 ok\r\n")
			}
		case "RCPT":
			switch {
			case !from:
				fmt.Fprint(w, "503 5.5.1 no MAIL\r\n")
			case mis(0.06):
				fmt.Fprint(w, "550 5.1.1 no\r\n")
			case mis(0.06):
				fmt.Fprint(w, "450 4.3.0 later\r\n")
			case mis(0.03): // no good-bye
				fmt.Fprint(w, "451 4.4.2 verification timed out\r\n")
			default:
				to = append(to, line[9:strings.IndexByte(line, '>')])
				fmt.Fprint(w, "250 2.1.5 ok\r\n")
			}
		case "DATA":
			switch {
			case len(to) == 0 && !mis(0.5):
				fmt.Fprint(w, "554 5.5.1 nobody\r\n")
				continue
			case mis(0.03):
				fmt.Fprint(w, "451 4.3.0 no\r\n")
				continue
			}
			fmt.Fprint(w, "354 go\r\n")
			if r.Buffered() == 0 {
				w.Flush()
			}
			var body bytes.Buffer
			cut := -1
			if mis(0.02) {
				cut = rand.IntN(2000)
			}
			for {
				if r.Buffered() == 0 {
					w.Flush()
				}
				l, err := r.ReadString('\n')
				if err != nil || cut >= 0 && body.Len() >= cut {
					w.Flush()
					return
				}
				if l == ".\r\n" {
					break
				}
				body.WriteString(strings.TrimPrefix(l, "."))
			}
			if !s.verdict(w, r, body.Bytes(), to, mis) {
				return
			}
			from, to = false, nil
		case "BDAT":
			var size int64
			fmt.Sscanf(line[5:], "%d", &size)
			if mis(0.02) {
				io.CopyN(io.Discard, r, rand.Int64N(size+1))
				w.Flush()
				return
			}
			var body bytes.Buffer
			for int64(body.Len()) < size {
				if r.Buffered() == 0 {
					w.Flush()
				}
				if _, err := io.CopyN(&body, r, min(size-int64(body.Len()), int64(max(1, r.Buffered())))); err != nil {
					return
				}
			}
			if len(to) == 0 {
				fmt.Fprint(w, "554 5.5.1 nobody\r\n")
				from, to = false, nil
				continue
			}
			if !s.verdict(w, r, body.Bytes(), to, mis) {
				return
			}
			from, to = false, nil
		case "RSET":
			from, to = false, nil
			if mis(0.05) {
				fmt.Fprint(w, "451 4.3.0 no\r\n")
			} else {
				fmt.Fprint(w, "250 ok\r\n")
			}
		case "QUIT":
			fmt.Fprint(w, "221 bye\r\n")
			w.Flush()
			return
		default:
			fmt.Fprint(w, "500 what\r\n")
		}
	}
}

func (s *chaosServer) verdict(w *bufio.Writer, r *bufio.Reader, body []byte, to []string, mis func(float64) bool) bool {
	switch {
	case len(to) == 0:
		fmt.Fprint(w, "554 5.5.1 nobody\r\n")
	case mis(0.04):
		fmt.Fprint(w, "554 5.6.0 no\r\n")
	case mis(0.04):
		fmt.Fprint(w, "452 4.3.1 no\r\n")
	case mis(0.03):
		s.take(body, to)
		w.Flush()
		return false
	case mis(0.02):
		s.take(body, to)
		w.Flush()
		time.Sleep(700 * time.Millisecond)
		fmt.Fprint(w, "250 2.0.0 late\r\n")
	case mis(0.02):
		s.take(body, to)
		fmt.Fprint(w, "2xx garbage\r\n")
	case mis(0.02):
		s.take(body, to)
		fmt.Fprint(w, "250 2.0.0 ok\r\n421 4.0.0 and bye\r\n")
		w.Flush()
		return false
	default:
		s.take(body, to)
		fmt.Fprint(w, "250 2.0.0 ok queued as X\r\n")
	}
	return true
}

// chaosContent goes wrong in the middle: it panics, fails, is short, or not
// canonical.
type chaosContent struct {
	text string
	how  int
}

func (c chaosContent) WriteTo(w io.Writer) (int64, error) {
	half := len(c.text) / 2
	n, err := io.WriteString(w, c.text[:half])
	if err != nil {
		return int64(n), err
	}
	switch c.how {
	case 1:
		panic("chaos")
	case 2:
		return int64(n), errors.New("disk")
	case 3:
		return int64(n), nil
	case 4:
		io.WriteString(w, "a\nb")
	}
	m, err := io.WriteString(w, c.text[half:])
	return int64(n + m), err
}
func (c chaosContent) Size() int64      { return int64(len(c.text)) }
func (c chaosContent) EightBit() bool   { return false }
func (c chaosContent) UTF8Header() bool { return false }

// TestChaos sends over one pool, while contexts end, contents fail, the pool is
// drained and the server misbehaves. What is told to have been sent was sent
// once, to those who are named; what was refused was not; of what is unknown no
// more than one came.
//
//	go test -tags chaos -race -run Chaos ./mailer -chaos 60s
func TestChaos(t *testing.T) {
	conf, roots := mailertest.NewCertificate(t)
	for i := range 2 * len(shapes) {
		shape, secure := shapes[i/2], i%2 == 1
		t.Run(fmt.Sprint(shape.name, " tls ", secure), func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addr := l.Addr().(*net.TCPAddr)
			if secure {
				l = tls.NewListener(l, conf)
			}
			s := &chaosServer{l: l, offer: shape.offer, p: 1, taken: map[string]int{}, rcpts: map[string][]string{}}
			go s.run()
			pool := &Pool{Max: 3, MaxMessages: 9, MaxIdle: 50 * time.Millisecond, MaxAge: 300 * time.Millisecond}
			lim := &Limiter{Rate: 1000000, Connections: 3, RecipientsPerDay: 1 << 40}
			tenant := &Tenant{Name: "x", Pool: pool, Limits: lim, Server: Server{
				Host: "127.0.0.1", Port: addr.Port, Security: Plaintext,
				Timeouts: Timeouts{Dial: time.Second, Greeting: time.Second, Command: 300 * time.Millisecond, Block: 300 * time.Millisecond, Final: 500 * time.Millisecond},
			}}
			if secure {
				tenant.Server.Security, tenant.Server.RootCAs, tenant.Server.Sessions = ImplicitTLS, roots, new(Sessions)
				tenant.Server.Host = "127.0.0.1"
			}
			type out struct {
				id  string
				r   Receipt
				err error
				how int
			}
			var mu sync.Mutex
			var outs []out
			stop := time.Now().Add(*chaosFor)
			var wg sync.WaitGroup
			for g := range 12 {
				wg.Go(func() {
					for i := 0; time.Now().Before(stop); i++ {
						id := fmt.Sprintf("m-%d-%d", g, i)
						size := []int{10, 3000, 40000, 300000}[min(rand.IntN(12), 3)]
						if rand.IntN(3) > 0 {
							size = 100
						}
						c := chaosContent{text: "Subject: " + id + "\r\n\r\n" + strings.Repeat(".234567890\r\n", size/12+1)}
						if rand.IntN(20) == 0 {
							c.how = 1 + rand.IntN(4)
						}
						env := Envelope{From: sender}
						for k := range 1 + rand.IntN(3) {
							env.To = append(env.To, Address{Local: fmt.Sprintf("r%d", k), Domain: "example.net"})
						}
						ctx, cancel := context.WithCancel(context.Background())
						switch rand.IntN(4) {
						case 0:
							ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(5000))*time.Microsecond)
						case 1:
							time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, cancel)
						}
						o := out{id: id, how: c.how}
						func() {
							defer func() {
								if p := recover(); p != nil {
									if p != "chaos" {
										panic(p)
									}
									o.err = errors.New("panicked")
								}
							}()
							o.r, o.err = tenant.Submit(ctx, env, c, Options{AllRecipients: rand.IntN(5) == 0})
						}()
						cancel()
						mu.Lock()
						outs = append(outs, o)
						mu.Unlock()
					}
				})
			}
			wg.Go(func() {
				for time.Now().Before(stop) {
					time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
					switch rand.IntN(4) {
					case 0:
						pool.Drain()
					case 1:
						pool.Sweep(time.Now())
					case 2:
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(10))*time.Millisecond)
						_ = tenant.Warm(ctx)
						cancel()
					}
				}
			})
			wg.Wait()
			pool.Close()
			time.Sleep(1500 * time.Millisecond)
			pool.mu.Lock()
			if pool.lent != 0 || len(pool.waiters) != 0 || len(pool.idle) != 0 {
				t.Errorf("lent %d, waiters %d, idle %d", pool.lent, len(pool.waiters), len(pool.idle))
			}
			pool.mu.Unlock()
			lim.mu.Lock()
			if lim.inFlight != 0 || lim.day.inFlight != 0 || lim.waiting.Len() != 0 {
				t.Errorf("limiter: %d %d %d", lim.inFlight, lim.day.inFlight, lim.waiting.Len())
			}
			lim.mu.Unlock()
			l.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			counts := map[string]int{}
			bad := 0
			for _, o := range outs {
				n := s.taken[o.id]
				what := "ok"
				if o.err != nil {
					what = asError(o.err).Kind.String() + "/" + string(asError(o.err).Stage)
					if o.err.Error() == "panicked" {
						what = "panicked"
					}
				}
				counts[what]++
				wrong := ""
				switch {
				case o.err == nil && n != 1:
					wrong = "success"
				case o.err == nil:
					var to []string
					for _, x := range o.r.Recipients {
						if x.Kind == KindNone {
							to = append(to, x.Address.Mailbox())
						}
					}
					if strings.Join(to, ",") != strings.Join(s.rcpts[o.id], ",") {
						wrong = fmt.Sprintf("recipients %v, server %v", to, s.rcpts[o.id])
					}
				case what == "panicked" && n > 0, asError(o.err).Kind == KindUnknown && n > 1, what != "panicked" && asError(o.err).Kind != KindUnknown && n > 0:
					wrong = "not sent"
				}
				if o.how > 0 && n > 0 {
					wrong = "bad content taken"
				}
				if wrong != "" {
					if bad++; bad < 10 {
						t.Errorf("%s: %s, taken %d times; how %d; %v", o.id, wrong, n, o.how, o.err)
					}
				}
			}
			t.Logf("%d messages, %d wrong: %v; goroutines %d", len(outs), bad, counts, runtime.NumGoroutine())
		})
	}
}
