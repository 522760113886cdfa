package listener

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// TestShutdown: whoever waits for nothing is bidden good-bye at once, whoever is in
// the middle of a message may end it.
func TestShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		s := New(everywhere(r.config()))
		l := serveMemory(t, s)
		silent := newTalk(t, l.dial("192.0.2.1"))
		silent.hear("220")
		idle := newTalk(t, l.dial("192.0.2.2")).signedIn()
		inAuth := newTalk(t, l.dial("192.0.2.3")).greeted()
		inAuth.say("AUTH LOGIN", "334")
		begun := newTalk(t, l.dial("192.0.2.4")).signedIn()
		begun.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250")
		inData := newTalk(t, l.dial("192.0.2.5")).signedIn()
		inData.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
		inData.write(letter[:50])
		wrong := newTalk(t, l.dial("192.0.2.6")).greeted()
		wrong.write(plainWith("a", "b") + "\r\n")
		synctest.Wait()

		begin := time.Now()
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(context.Background()) }()
		for _, c := range []*talk{silent, idle, inAuth, begun} {
			c.hear("421 4.3.2 ")
			c.gone()
		}
		wrong.hear("535")
		wrong.hear("421 4.3.2 ")
		if took := time.Since(begin); took > 0 {
			t.Errorf("it took %v", took)
		}
		time.Sleep(20 * time.Second)
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		default:
		}
		inData.write(letter[50:] + ".\r\nMAIL FROM:<printer@example.com>\r\n")
		inData.hear("250 2.0.0 Ok: queued")
		inData.hear("421 4.3.2 ")
		inData.gone()
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := s.Serve(newMemory()); err != nil {
			t.Errorf("Serve afterwards: %v", err)
		}
		synctest.Wait()
		if got := r.sent(); len(got) != 1 || got[0].text != letter {
			t.Errorf("sent %+v", got)
		}
	})
}

// TestShutdownByForce: at the end of ctx, nobody stays.
func TestShutdownByForce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{answer: func(ctx context.Context, _ mailer.Submission) (mailer.Receipt, error) {
			<-ctx.Done()
			return mailer.Receipt{}, ctx.Err()
		}}
		s := New(trusting(r.config()))
		l := serveMemory(t, s)
		inData := newTalk(t, l.dial("192.0.2.5")).greeted()
		inData.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
		inData.write(letter[:50])
		inSend := newTalk(t, l.dial("192.0.2.6")).greeted()
		inSend.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
		inSend.write(letter + ".\r\n")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 5*time.Second {
			t.Errorf("Shutdown: %v after %v", err, time.Since(begin))
		}
		synctest.Wait()
		inData.gone()
		inSend.gone()
		if len(s.sessions) != 0 || len(s.room) != 0 || len(s.from) != 0 || len(r.sessions()) != 2 {
			t.Errorf("left: %v %v %v", s.sessions, s.room, s.from)
		}
	})
}

// TestUse: sessions end with the configuration that they began with, and no
// connection is refused meanwhile.
func TestUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before, after := &recorder{}, &recorder{}
		old := trusting(before.config())
		s := New(old)
		l := serveMemory(t, s)
		idle := newTalk(t, l.dial("192.0.2.1")).greeted()
		inData := newTalk(t, l.dial("192.0.2.2")).greeted()
		inData.say("MAIL FROM:<printer@example.com>", "250", "RCPT TO:<b@example.net>", "250", "DATA", "354")
		inData.write(letter[:50])
		config := after.config()
		config.Hostname = "new.example.com"
		s.Use(config)
		inData.write(letter[50:] + ".\r\n")
		inData.hear("250")
		idle.send(letter+".\r\n", "250")
		c := newTalk(t, l.dial("192.0.2.3"))
		c.hear("220 new.example.com ")
		c.say("EHLO x", "250", "MAIL FROM:<printer@example.com>", "530")
		if len(before.sent()) != 2 || len(after.sent()) != 0 {
			t.Errorf("sent %+v and %+v", before.sent(), after.sent())
		}
	})
}

// TestTwoListeners serves two, of which one is closed, as at a reload that takes an
// address away.
func TestTwoListeners(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	s := New(r.config())
	addr := listen(t, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c := dialTalk(t, l.Addr().String()).greeted()
	l.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	c.say("NOOP", "250")
	dialTalk(t, addr).greeted()
}

// failing is a listener that fails a few times.
type failing struct {
	*memory
	left int
}

func (l *failing) Accept() (net.Conn, error) {
	if l.left > 0 {
		l.left--
		return nil, errors.New("too many open files")
	}
	return l.memory.Accept()
}

// TestAcceptFailsForever: a listener that is broken does not keep Serve from ending.
func TestAcceptFailsForever(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New((&recorder{}).config())
		done := make(chan error, 1)
		go func() { done <- s.Serve(&failing{newMemory(), 1 << 20}) }()
		time.Sleep(time.Minute + 100*time.Millisecond) // it pauses
		begin := time.Now()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

// TestAcceptFails: trouble with accepting passes.
func TestAcceptFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		s := New(r.config())
		l := &failing{newMemory(), 12}
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		begin := time.Now()
		c := newTalk(t, l.dial("192.0.2.1")).greeted()
		if took := time.Since(begin); took < 5*time.Second || took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.conn.Close()
	})
}
