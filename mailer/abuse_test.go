package mailer

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// octetwise is a connection of which no read brings more than one octet.
type octetwise struct{ net.Conn }

func (c octetwise) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(1, len(p))]) }

// TestRepliesAstray has messages follow each other over one connection, to a
// server that says too much, too early or the wrong thing, in whole packets and
// octet by octet. Whatever the messages are told, none comes twice, none comes
// that is said not to have come, and none that is said to have come is missing.
func TestRepliesAstray(t *testing.T) {
	t.Parallel()
	const many = 5
	content := func(answers ...string) map[string][]string {
		return map[string][]string{mailertest.Content: answers, "BDAT": answers}
	}
	tests := []struct {
		name    string
		answers map[string][]string
		refuses bool // the content of the second message
		all     bool // of them arrive nonetheless
		// together: where the replies come apart, nobody can tell.
		together bool
	}{
		{name: "nothing wrong", all: true},
		{name: "two replies to the content", answers: content("", "250 taken\n250 and again", "")},
		{name: "three replies to the content", answers: content("", "250 taken\n250 and\n250 again", "")},
		{name: "a refusal behind the verdict", answers: content("", "250 taken\n550 5.7.1 or not", "")},
		{name: "three refusals behind the verdict", together: true, answers: content("", "250 taken\n550 a\n550 b\n550 c", "")},
		{name: "354 behind the verdict", answers: content("", "250 taken\n354 go", "")},
		{name: "a whole envelope behind the verdict", answers: content("", "250 taken\n250 a\n250 b\n354 go", "")},
		{name: "a whole transaction behind the verdict", answers: content("", "250 taken\n250 a\n250 b\n354 go\n250 taken", "")},
		{name: "good-bye behind the verdict", together: true, answers: content("", "250 taken\n421 4.3.2 closing", "")},
		{name: "354 to the content", answers: content("", "354 go", "")},
		{name: "354 to MAIL", answers: map[string][]string{"MAIL": {"", "354 go", ""}}},
		{name: "354 to RCPT", answers: map[string][]string{"RCPT": {"", "354 go", ""}}},
		{name: "354 early, behind MAIL", answers: map[string][]string{"MAIL": {"", "250 ok\n250 ok\n354 go", ""}}},
		{name: "354 early, behind RCPT", answers: map[string][]string{"RCPT": {"", "250 ok\n354 go", ""}}},
		{name: "verdict early, behind RCPT", answers: map[string][]string{"RCPT": {"", "250 ok\n354 go\n250 taken", ""}}},
		{name: "verdict early, behind DATA", answers: map[string][]string{"DATA": {"", "354 go\n250 taken", ""}}},
		{name: "250 to DATA", answers: map[string][]string{"DATA": {"", "250 ok", ""}}},
		{name: "250 to DATA and then 354", answers: map[string][]string{"DATA": {"", "250 ok\n354 go", ""}}},
		{name: "RCPT refused and taken", answers: map[string][]string{"RCPT": {"", "550 5.1.1 no\n250 yes", ""}}},
		{name: "MAIL taken and refused", answers: map[string][]string{"MAIL": {"", "250 yes\n550 5.1.1 no", ""}}},
		{name: "no reply to RCPT", answers: map[string][]string{"RCPT": {"", mailertest.Silent, ""}}},
		{name: "no reply to MAIL", answers: map[string][]string{"MAIL": {"", mailertest.Silent, ""}}},
		{
			name: "verdict early, then refused", refuses: true, together: true, answers: map[string][]string{
				"DATA": {"", "354 go\n250 taken", ""}, mailertest.Content: {"", "554 5.7.1 no", ""}, "BDAT": {"", "554 5.7.1 no", ""},
			},
		},
		{
			name: "RCPT answered twice, then refused", refuses: true, together: true, answers: map[string][]string{
				"RCPT": {"", "250 ok\n250 ok", ""}, "BDAT": {"", "554 5.7.1 no", ""}, mailertest.Content: {"", "554 5.7.1 no", ""},
			},
		},
		{
			name: "MAIL taken and refused twice", together: true, answers: map[string][]string{"MAIL": {"", "250 ok\n550 no\n550 no", ""}},
		},
	}
	for _, shape := range shapes {
		for _, tt := range tests {
			for _, apart := range []bool{false, true} {
				if apart && tt.together {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/octetwise %v", shape.name, tt.name, apart), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						s := &mailertest.Script{Offer: shape.offer, Answers: tt.answers}
						s.Answers = make(map[string][]string)
						for step, list := range tt.answers {
							s.Answers[step] = list
						}
						tenant := plainTenant(s)
						tenant.Pool = &Pool{Max: 1}
						if apart {
							dial := tenant.Server.Dial
							tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
								nc, err := dial(ctx, network, addr)
								return octetwise{nc}, err
							}
						}
						open := tallied(tenant)
						errs := make([]error, many)
						var wg sync.WaitGroup
						begin := time.Now()
						for i := range many {
							wg.Go(func() {
								time.Sleep(time.Duration(i))
								_, errs[i] = tenant.Submit(t.Context(), letter, lined(fmt.Sprint("m", i), false), Options{})
							})
						}
						wg.Wait()
						if took := time.Since(begin); took > 11*time.Minute {
							t.Errorf("it took %v", took)
						}
						lost := 0
						for i, err := range errs {
							kind := KindNone
							if err != nil {
								lost++
								kind = asError(err).Kind
							}
							n := came(s, fmt.Sprint("m", i))
							switch kind.Outcome() {
							case Done:
								if n != 1 || tt.refuses && i == 1 {
									t.Errorf("message %d is said to be sent; it came %d times", i, n)
								}
							case Doubt:
								if n > 1 {
									t.Errorf("message %d came %d times", i, n)
								}
							default:
								if n > 0 && asError(err).Stage != StageFinal {
									t.Errorf("message %d came %d times, and ended: %v", i, n, err)
								}
							}
						}
						if tt.all && lost > 0 || lost > 3 {
							t.Errorf("%d messages were not sent: %v", lost, errs)
						}
						submit(t, tenant)
						tenant.Pool.Close()
						if open.Load() != 0 {
							t.Errorf("%d connections are left open", open.Load())
						}
					})
				})
			}
		}
	}
}

// TestRepliesLeftOver: replies to a message that was told of others' refusals do
// not let the next one's content go to its recipients.
func TestRepliesLeftOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &mailertest.Script{Offer: []string{"PIPELINING"}, Answers: map[string][]string{mailertest.Content: {"250 taken\n550 a\n550 b\n550 c", ""}}}
		tenant := plainTenant(s)
		tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := s.Dial(ctx, network, addr)
			return octetwise{nc}, err // so that what comes later is not seen yet
		}
		tenant.Pool = &Pool{Max: 1}
		defer tenant.Pool.Close()
		errs := make([]error, 3)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				time.Sleep(time.Duration(i))
				_, errs[i] = tenant.Submit(t.Context(), letter, lined(fmt.Sprint("m", i), false), Options{})
			})
		}
		wg.Wait()
		if errs[2] == nil && came(s, "m2") != 1 {
			t.Errorf("sent, and came %d times: %q", came(s, "m2"), s.Contents())
		}
		for _, c := range s.Contents() {
			if !strings.HasPrefix(c, "Subject: m") {
				t.Errorf("a content began with an envelope: %q", c)
			}
		}
	})
}

// TestRiderGoneAsItsTurnComes: a message that gave up waiting just when it got
// the connection that knows its envelope is not sent in place of another.
func TestRiderGoneAsItsTurnComes(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Offer: []string{"PIPELINING"}}
	tenant, _ := pooled(s, &Pool{Max: 1})
	gone := &outgoing{env: letter, content: lined("gone", false)}
	c, err := tenant.Pool.get(t.Context(), gone, tenant.dial, false)
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if c.ahead, e = c.plan(gone); e != nil {
		t.Fatal(e)
	}
	c.patience(0)
	c.ahead.announce()
	if err := c.out.flush(); err != nil {
		t.Fatal(err)
	}
	w := &waiter{msg: gone, ready: make(chan *Conn, 1)}
	if !tenant.Pool.pass(c, w) {
		t.Fatal("not passed")
	}
	tenant.Pool.leave(w)
	if _, err := tenant.Submit(t.Context(), letter, lined("mine", false), Options{}); err != nil {
		t.Fatal(err)
	}
	if came(s, "gone") != 0 || came(s, "mine") != 1 || s.Sessions() != 2 {
		t.Errorf("contents %q in %d sessions", s.Contents(), s.Sessions())
	}
}

// TestRetryIsNotPutOff: a message that met a dead connection dials at its next
// turn, and does not go to the end of the queue each time.
func TestRetryIsNotPutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := new(mailertest.Script)
		tenant := plainTenant(s)
		tenant.Server.Dial = func(context.Context, string, string) (net.Conn, error) { // each reply takes its time
			client, server := mailertest.Pipe(time.Second)
			go s.Serve(server)
			return client, nil
		}
		tenant.Pool = &Pool{Max: 1}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						submit(t, tenant)
					}
				}
			})
		}
		time.Sleep(time.Minute)
		before := s.Sessions()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := tenant.Pool.get(ctx, nil, tenant.dial, true)
		if err == nil {
			tenant.Pool.put(c)
		}
		if err != nil || s.Sessions() > before+1 {
			t.Errorf("%v, and it took %d connections", err, s.Sessions()-before)
		}
		close(stop)
		wg.Wait()
		tenant.Pool.Close()
	})
}

// TestDoubtLasts: a message that cannot be sent at all leaves a connection as
// doubtful as it was.
func TestDoubtLasts(t *testing.T) {
	t.Parallel()
	s := &mailertest.Script{Offer: []string{"PIPELINING", "CHUNKING", "SIZE 1000"}}
	tenant, clock := pooled(s, new(Pool))
	submit(t, tenant)
	clock.add(doubtAfter + time.Second)
	_, err := tenant.Submit(t.Context(), letter, bigger, Options{})
	wantError(t, err, StageMail, KindRejected)
	submit(t, tenant)
	if s.Said("RSET") != 1 {
		t.Errorf("said %q", s.Lines())
	}
}

// TestBadContentIsNotTriedAgain: no new connection makes it better.
func TestBadContentIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		s := &mailertest.Script{Offer: shape.offer}
		tenant, _ := pooled(s, new(Pool))
		submit(t, tenant)
		_, err := tenant.Submit(t.Context(), letter, wireContent{text: "a\nb\r\n"}, Options{})
		if e := wantError(t, err, StageData, KindInvalid); e.Code != "not_canonical" {
			t.Errorf("%s: code %q", shape.name, e.Code)
		}
		if s.Sessions() != 1 || len(s.Contents()) != 1 {
			t.Errorf("%s: %d sessions, %d contents", shape.name, s.Sessions(), len(s.Contents()))
		}
	}
}

// TestEnvelopeLostBehindContent: where an envelope travels behind a content, it
// is lost without the message before it being sent twice.
func TestEnvelopeLostBehindContent(t *testing.T) {
	t.Parallel()
	for _, offer := range [][]string{{"PIPELINING"}, {"PIPELINING", "CHUNKING"}} {
		synctest.Test(t, func(t *testing.T) {
			s := &mailertest.Script{Offer: offer}
			tenant := plainTenant(s)
			tenant.Pool = &Pool{Max: 1}
			var once sync.Once
			dial := tenant.Server.Dial
			tenant.Server.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := dial(ctx, network, addr)
				once.Do(func() { nc = &cutting{Conn: nc} })
				return nc, err
			}
			submit(t, tenant)
			blocked := make(chan struct{})
			var errs [2]error
			var wg sync.WaitGroup
			wg.Go(func() {
				_, errs[0] = tenant.Submit(t.Context(), letter, waitingContent{lined("first", false), blocked}, Options{})
			})
			synctest.Wait()
			wg.Go(func() { // all wanted: it does not travel along with its content
				_, errs[1] = tenant.Submit(t.Context(), letter, lined("second", false), Options{AllRecipients: true})
			})
			synctest.Wait()
			close(blocked)
			wg.Wait()
			for i, name := range []string{"first", "second"} {
				kind := KindNone
				if errs[i] != nil {
					kind = asError(errs[i]).Kind
				}
				if n := came(s, name); n > 1 || n == 0 && kind == KindNone || n == 1 && kind.Outcome() != Done && kind != KindUnknown {
					t.Errorf("%v: %s came %d times, and ended: %v", offer, name, n, errs[i])
				}
			}
			submit(t, tenant)
			tenant.Pool.Close()
		})
	}
}

// cutting is a connection that is lost right behind the end of the content that
// is called first.
type cutting struct {
	net.Conn
	cut bool
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.cut {
		return 0, net.ErrClosed
	}
	text := string(p)
	at := strings.Index(text, "Subject: first")
	if at < 0 {
		return c.Conn.Write(p)
	}
	end := at + strings.Index(text[at:], "dot\r\n") + len("dot\r\n")
	if strings.HasPrefix(text[end:], ".\r\n") {
		end += len(".\r\n")
	}
	if end == len(p) {
		return c.Conn.Write(p)
	}
	c.cut = true
	n, err := c.Conn.Write(p[:end])
	if err == nil {
		err = net.ErrClosed
	}
	return n, err
}
