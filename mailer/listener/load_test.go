package listener

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestCrowd: while a crowd of idle and slow clients from many addresses holds on,
// and comes again at once, and others knock all the time, regulars still get through.
// It needs all of 127.0.0.0/8 as addresses of clients.
func TestCrowd(t *testing.T) {
	crowd(t, 300, 1000, 3*time.Second)
}

// crowd has clients hold on from many addresses, so many attempts at connecting
// besides, and sends meanwhile.
func crowd(t *testing.T, clients, attempts int, limit time.Duration) {
	r := &recorder{}
	config := r.config()
	config.Limits.Connections = 100
	s := New(config)
	addr := listen(t, s)
	dial := func(i int) (net.Conn, error) {
		from := net.TCPAddr{IP: net.IPv4(127, 1, byte(i/200), byte(1+i%200))}
		d := net.Dialer{LocalAddr: &from, Timeout: 10 * time.Second}
		return d.Dial("tcp", addr)
	}
	for i := range 10 { // regulars
		if err := sendFrom(addr, i); err != nil {
			t.Fatal(err)
		}
	}
	before := inUse()
	var most atomic.Uint64
	stop := make(chan struct{})
	var all sync.WaitGroup
	var refused, let atomic.Int64
	for i := range clients {
		all.Go(func() {
			for { // whoever is sent away comes again
				nc, err := dial(i % 100)
				if err != nil {
					return
				}
				stay(nc, i%4, stop)
				nc.Close()
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	for worker := range 4 {
		all.Go(func() {
			for i := range attempts / 4 {
				nc, err := dial(100 + (i*4+worker)%1000)
				if err != nil {
					continue
				}
				nc.SetReadDeadline(time.Now().Add(5 * time.Second))
				b := make([]byte, 4)
				if _, err := io.ReadFull(nc, b); err == nil && string(b) == "421 " {
					refused.Add(1)
				} else if err == nil && string(b) == "220 " {
					let.Add(1)
				}
				nc.Close()
				if i%100 == 0 {
					most.Store(max(most.Load(), inUse()))
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { time.Sleep(300 * time.Millisecond); close(done) }()
	<-done
	var worst time.Duration
	for i := range 20 {
		begin := time.Now()
		if err := sendFrom(addr, i%10); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
		worst = max(worst, time.Since(begin))
	}
	most.Store(max(most.Load(), inUse()))
	close(stop)
	all.Wait()
	t.Logf("%d clients, %d attempts: %d let in, %d refused; slowest message %v; %d MB more in use", clients, attempts, let.Load(), refused.Load(), worst, (most.Load()-min(before, most.Load()))>>20)
	if worst > limit || most.Load()-min(before, most.Load()) > 150<<20 || len(r.sent()) < 30 {
		t.Errorf("slowest message %v, %d sent", worst, len(r.sent()))
	}
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// stay holds on to a connection in one of the ways that there are.
func stay(nc net.Conn, way int, stop <-chan struct{}) {
	gone := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, nc); close(gone) }()
	switch way {
	case 1:
		fmt.Fprint(nc, "EHLO x\r\n")
	case 2:
		fmt.Fprint(nc, "EHLO x\r\nAUTH LOGIN\r\n")
	case 3:
		for {
			if _, err := io.WriteString(nc, "N"); err != nil {
				return
			}
			select {
			case <-gone:
				return
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	select {
	case <-gone:
	case <-stop:
	}
}

// sendFrom sends one message from one of some addresses.
func sendFrom(addr string, i int) error {
	from := net.TCPAddr{IP: net.IPv4(127, 2, 0, byte(1+i))}
	d := net.Dialer{LocalAddr: &from, Timeout: 10 * time.Second}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	c := &talk{conn: nc, r: bufio.NewReader(nc)}
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	if reply, ok := c.try(""); !ok {
		return fmt.Errorf("greeted with %q", reply)
	}
	for _, line := range []string{"EHLO x", authPlain, "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA", letter + ".", "QUIT"} {
		if reply, ok := c.try(line + "\r\n"); !ok {
			return fmt.Errorf("%.20q: %q", strings.TrimSpace(line), reply)
		}
	}
	return nil
}
