package mailertest

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipeDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(10 * time.Millisecond)
		begin := time.Now()
		elapsed := func(want time.Duration) {
			t.Helper()
			if got := time.Since(begin); got != want {
				t.Errorf("at %v, want %v", got, want)
			}
		}
		read := func(c net.Conn, want string, at time.Duration) {
			t.Helper()
			buf := make([]byte, 100)
			if n, err := c.Read(buf); string(buf[:n]) != want || err != nil {
				t.Errorf("read %q, %v; want %q", buf[:n], err, want)
			}
			elapsed(at)
		}
		_, _ = a.Write([]byte("one"))
		_, _ = a.Write([]byte("two"))
		time.Sleep(3 * time.Millisecond)
		_, _ = a.Write([]byte("three"))
		elapsed(3 * time.Millisecond)
		read(b, "onetwo", 10*time.Millisecond)
		read(b, "three", 13*time.Millisecond)
		_, _ = b.Write([]byte("back"))
		read(a, "back", 23*time.Millisecond)

		big := strings.Repeat("x", 1<<20)
		if n, err := a.Write([]byte(big)); n != len(big) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		elapsed(23 * time.Millisecond)
		a.Close()
		got, err := io.ReadAll(b)
		if string(got) != big || err != nil {
			t.Errorf("read %d, %v", len(got), err)
		}
		elapsed(33 * time.Millisecond)
		if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write to a closed peer: %v", err)
		}
	})
}

func TestPipeEnd(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		act  func(a, b net.Conn) error
		want error
		at   time.Duration
	}{
		{"read, peer closes", func(a, b net.Conn) error {
			b.Close()
			_, err := a.Read(make([]byte, 1))
			return err
		}, io.EOF, 10 * time.Millisecond},
		{"read, closed meanwhile", func(a, _ net.Conn) error {
			time.AfterFunc(5*time.Millisecond, func() { a.Close() })
			_, err := a.Read(make([]byte, 1))
			return err
		}, io.ErrClosedPipe, 5 * time.Millisecond},
		{"read, deadline", func(a, _ net.Conn) error {
			_ = a.SetDeadline(time.Now().Add(7 * time.Millisecond))
			_, err := a.Read(make([]byte, 1))
			return err
		}, os.ErrDeadlineExceeded, 7 * time.Millisecond},
		{"read, deadline moved meanwhile", func(a, _ net.Conn) error {
			_ = a.SetDeadline(time.Now().Add(time.Hour))
			time.AfterFunc(time.Millisecond, func() { _ = a.SetDeadline(time.Now()) })
			_, err := a.Read(make([]byte, 1))
			return err
		}, os.ErrDeadlineExceeded, time.Millisecond},
		{"write, closed", func(a, _ net.Conn) error {
			a.Close()
			_, err := a.Write([]byte("x"))
			return err
		}, io.ErrClosedPipe, 0},
		{"write, deadline over", func(a, _ net.Conn) error {
			_ = a.SetDeadline(time.Now().Add(-1))
			_, err := a.Write([]byte("x"))
			return err
		}, os.ErrDeadlineExceeded, 0},
		{"write, peer closed long ago", func(a, b net.Conn) error {
			b.Close()
			if _, err := a.Write([]byte("x")); err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
			_, err := a.Write([]byte("x"))
			return err
		}, io.ErrClosedPipe, 10 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := Pipe(10 * time.Millisecond)
				begin := time.Now()
				if err := tt.act(a, b); !errors.Is(err, tt.want) || time.Since(begin) != tt.at {
					t.Errorf("%v after %v; want %v after %v", err, time.Since(begin), tt.want, tt.at)
				}
			})
		})
	}
}

// TestWindow has writes wait for their reader, and take back what it left.
func TestWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(newWay(0, 4), newWay(0, unbounded))
		if n, err := a.Write([]byte("1234")); n != 4 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		_ = a.SetWriteDeadline(time.Now().Add(time.Second))
		time.AfterFunc(time.Millisecond, func() { _, _ = b.Read(make([]byte, 3)) })
		if n, err := a.Write([]byte("567890")); n != 3 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d, %v", n, err)
		}
		a.Close()
		if got, err := io.ReadAll(b); string(got) != "4567" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestDelayProxy(t *testing.T) {
	t.Parallel()
	s := new(Script)
	host, port := s.Listen(t)
	addr := DelayProxy(t, net.JoinHostPort(host, strconv.Itoa(port)), 20*time.Millisecond)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := greeted(t, nc)
	begin := time.Now()
	c.ask("NOOP", "250 ")
	c.ask("QUIT", "221 ")
	if took := time.Since(begin); took < 80*time.Millisecond {
		t.Errorf("two round trips took %v", took)
	}
	c.want("EOF")
}
