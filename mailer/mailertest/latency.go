package mailertest

import (
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Pipe is a connection in memory whose two directions each take delay: what is
// written, and the end of the connection, reach the other side that much later.
// No write waits. In a synctest bubble the delays are exact, so that the clock
// counts the round trips of a dialogue: one takes twice the delay.
func Pipe(delay time.Duration) (client, server net.Conn) {
	return newPipe(newWay(delay, unbounded), newWay(delay, unbounded))
}

// DelayProxy listens on loopback and carries connections to target, another
// address, as a [Pipe] does. It stops listening when the test ends. Setting a
// connection up takes no longer than without it.
func DelayProxy(t testing.TB, target string, delay time.Duration) (addr string) {
	t.Helper()
	host, port := Listen(t, func(nc net.Conn) {
		far, err := net.Dial("tcp", target)
		if err != nil {
			nc.Close()
			return
		}
		a, b := Pipe(delay)
		go relay(nc, a)
		go relay(a, nc)
		go relay(far, b)
		relay(b, far)
	})
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func relay(to, from net.Conn) {
	_, _ = io.Copy(onlyWriter{to}, onlyReader{from})
	to.Close()
}

// These hide the sendfile of TCP, which would allocate and gain nothing.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

const unbounded = -1

// pipe is one end of a connection in memory.
type pipe struct{ in, out *way }

func newPipe(out, in *way) (client, server net.Conn) {
	return &pipe{in: in, out: out}, &pipe{in: out, out: in}
}

func (p *pipe) Read(b []byte) (int, error)  { return p.in.read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.out.write(b) }

func (p *pipe) Close() error {
	p.in.change(func(w *way) {
		if !w.deaf {
			w.deaf, w.heard = true, time.Now().Add(w.delay)
		}
	})
	p.out.change(func(w *way) {
		if !w.ended {
			w.ended, w.end = true, time.Now().Add(w.delay)
		}
	})
	return nil
}

func (p *pipe) SetDeadline(t time.Time) error {
	_ = p.SetReadDeadline(t)
	return p.SetWriteDeadline(t)
}

func (p *pipe) SetReadDeadline(t time.Time) error {
	p.in.change(func(w *way) { w.readBy = t })
	return nil
}

func (p *pipe) SetWriteDeadline(t time.Time) error {
	p.out.change(func(w *way) { w.writeBy = t })
	return nil
}

func (p *pipe) LocalAddr() net.Addr  { return pipeAddr{} }
func (p *pipe) RemoteAddr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// way is one direction of a pipe.
type way struct {
	delay  time.Duration
	window int // octets that may stand unread before a write waits, or unbounded

	writing sync.Mutex // held for a whole write

	mu      sync.Mutex
	changed *sync.Cond
	parcels []parcel
	unread  int
	ended   bool // the writer closed; the reader sees it at end
	end     time.Time
	deaf    bool // the reader closed; the writer sees it at heard
	heard   time.Time
	readBy  time.Time
	writeBy time.Time
}

// parcel is what one write sent.
type parcel struct {
	at   time.Time // when it is there
	data []byte
}

func newWay(delay time.Duration, window int) *way {
	w := &way{delay: delay, window: window}
	w.changed = sync.NewCond(&w.mu)
	return w
}

func (w *way) change(f func(*way)) {
	w.mu.Lock()
	f(w)
	w.mu.Unlock()
	w.changed.Broadcast()
}

// waitLocked waits for a change, no longer than until the first of times.
func (w *way) waitLocked(times ...time.Time) {
	var first time.Time
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if !first.IsZero() {
		alarm := time.AfterFunc(time.Until(first), func() { w.change(func(*way) {}) })
		defer alarm.Stop()
	}
	w.changed.Wait()
}

func past(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

func (w *way) read(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case w.deaf:
			return 0, io.ErrClosedPipe
		case past(w.readBy, now):
			return 0, os.ErrDeadlineExceeded
		}
		if n := w.takeLocked(b, now); n > 0 || len(b) == 0 {
			w.changed.Broadcast()
			return n, nil
		}
		next := w.end // zero as long as nothing ends
		if len(w.parcels) > 0 {
			next = w.parcels[0].at
		} else if w.ended && past(w.end, now) {
			return 0, io.EOF
		}
		w.waitLocked(next, w.readBy)
	}
}

// takeLocked moves what is there now to b, the parcels that lie side by side
// together, as TCP does.
func (w *way) takeLocked(b []byte, now time.Time) int {
	n := 0
	for n < len(b) && len(w.parcels) > 0 && past(w.parcels[0].at, now) {
		p := &w.parcels[0]
		k := copy(b[n:], p.data)
		n += k
		if p.data = p.data[k:]; len(p.data) == 0 {
			w.parcels = w.parcels[1:]
		}
	}
	w.unread -= n
	return n
}

func (w *way) write(b []byte) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if err := w.writeFaultLocked(now); err != nil || len(b) == 0 {
		return 0, err
	}
	w.parcels = append(w.parcels, parcel{now.Add(w.delay), append([]byte(nil), b...)})
	w.unread += len(b)
	w.changed.Broadcast()
	for w.window != unbounded && w.unread > w.window {
		if err := w.writeFaultLocked(time.Now()); err != nil {
			return len(b) - w.withdrawLocked(min(len(b), w.unread-w.window)), err
		}
		w.waitLocked(w.heard, w.writeBy)
	}
	return len(b), nil
}

func (w *way) writeFaultLocked(now time.Time) error {
	switch {
	case w.ended || w.deaf && past(w.heard, now):
		return io.ErrClosedPipe
	case past(w.writeBy, now):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// withdrawLocked takes n octets back that found no room. They are the end of
// the last parcel.
func (w *way) withdrawLocked(n int) int {
	last := &w.parcels[len(w.parcels)-1]
	last.data = last.data[:len(last.data)-n]
	if len(last.data) == 0 {
		w.parcels = w.parcels[:len(w.parcels)-1]
	}
	w.unread -= n
	return n
}
