//go:build endurance

package endurance

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

var (
	crowd = flag.Int("crowd", 150, "how many clients hold on to the SMTP entrance, each from an address of its own; ten times as many attempts are made besides")
	hold  = flag.Duration("hold", 5*time.Second, "how long they do so while others send")
)

// S4: while a crowd of slow and idle clients holds on, and others knock all the time,
// devices send within a second: those that were here before, and new ones, too.
func TestCrowd(t *testing.T) {
	sink := &mailertest.Sink{Pipelining: true, Chunking: true}
	_, port := sink.Listen(t)
	tenant := Tenant{Name: "a", Port: port, Connections: 4}
	address := FreeAddress(t)
	caddy := New(t, Site(onBolt+"\nsmtp "+address+` {
			tls internal
			hostname smtp.internal.test
			plaintext_auth 127.0.0.0/8
			tenant a
			user printer {
				password `+tenant.Key()+`
			}
		}`, tenant))
	caddy.Start()
	idle := caddy.Memory("VmRSS")

	const regulars = 5
	for i := range regulars {
		if err := sendFrom(address, net.IPv4(127, 2, 0, byte(1+i)), tenant, false); err != nil {
			t.Fatal(err)
		}
	}

	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	c := &crowdOf{address: address}
	for i := range *crowd {
		all.Go(func() { c.hold(ctx, net.IPv4(127, 1, byte(i/200), byte(1+i%200)), i) })
	}
	for worker := range 4 {
		all.Go(func() {
			for i := worker; i < 10**crowd && ctx.Err() == nil; i += 4 {
				c.knock(net.IPv4(127, 4, byte(i%2000/200), byte(1+i%200)))
			}
			c.knocked.Add(1)
		})
	}

	began, fresh := time.Now(), 0
	newcomer := func() error {
		fresh++
		return sendFrom(address, net.IPv4(127, 3, byte(fresh/200), byte(1+fresh%200)), tenant, fresh%2 == 0)
	}
	// At first nobody knows who only holds on.
	failed, turnedAway := began, 0
	Eventually(t, 3*time.Minute, "no new device has to come again", func() bool {
		if newcomer() != nil {
			turnedAway++
			failed = time.Now()
		}
		return time.Since(failed) > 5*time.Second
	})
	var worst, worstNew time.Duration
	sent := 0
	for begin := time.Now(); time.Since(begin) < *hold || c.knocked.Load() < 4; sent++ {
		at := time.Now()
		if err := sendFrom(address, net.IPv4(127, 2, 0, byte(1+sent%regulars)), tenant, sent%2 == 0); err != nil {
			t.Errorf("a device that was here before: %v", err)
		}
		worst = max(worst, time.Since(at))
		at = time.Now()
		if err := newcomer(); err != nil {
			t.Errorf("a new device: %v", err)
		}
		worstNew = max(worstNew, time.Since(at))
		<-time.After(50 * time.Millisecond)
	}
	peak := caddy.Memory("VmHWM")
	stop()
	all.Wait()
	t.Logf("%d clients held on, %d more attempts, %d of all let in, %d told to come back, %d cut; new devices were turned away %d times, for %v; then %d messages of each: the slowest took %v, of new devices %v; memory %d MB idle, %d MB at most",
		*crowd, 10**crowd, c.let.Load(), c.refused.Load(), c.cut.Load(), turnedAway, failed.Sub(began).Round(time.Millisecond), sent, worst.Round(time.Millisecond), worstNew.Round(time.Millisecond), idle>>20, peak>>20)
	if worst > time.Second || worstNew > time.Second {
		t.Error("they waited too long")
	}
	if peak > 200<<20 {
		t.Errorf("memory %d MB", peak>>20)
	}
	if c.let.Load() == 0 || c.refused.Load() == 0 {
		t.Error("there was no crowd")
	}
}

// crowdOf are clients that bring nothing.
type crowdOf struct {
	address                    string
	let, refused, cut, knocked atomic.Int64
}

func (c *crowdOf) dial(from net.IP) (net.Conn, *bufio.Reader, bool) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 20 * time.Second}
	nc, err := d.Dial("tcp", c.address)
	if err != nil {
		return nil, nil, false
	}
	_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReaderSize(nc, 256)
	line, _ := r.ReadString('\n')
	_ = nc.SetReadDeadline(time.Time{})
	switch {
	case strings.HasPrefix(line, "220 "):
		c.let.Add(1)
		return nc, r, true
	case strings.HasPrefix(line, "421 "):
		c.refused.Add(1)
	default:
		c.cut.Add(1)
	}
	nc.Close()
	return nil, nil, false
}

// hold holds on to connections, one after the other, each in one of the ways that
// there are.
func (c *crowdOf) hold(ctx context.Context, from net.IP, way int) {
	for ctx.Err() == nil {
		if nc, r, ok := c.dial(from); ok {
			stay(ctx, nc, r, way)
			nc.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(250*time.Millisecond + rand.N(500*time.Millisecond)):
		}
	}
}

// knock comes, and goes at once.
func (c *crowdOf) knock(from net.IP) {
	if nc, _, ok := c.dial(from); ok {
		nc.Close()
	}
}

func stay(ctx context.Context, nc net.Conn, r *bufio.Reader, way int) {
	gone := make(chan struct{})
	say := ""
	switch way % 6 {
	case 1:
		say = "EHLO x\r\n"
	case 2:
		say = "EHLO x\r\nAUTH LOGIN\r\n"
	case 3:
		say = "EHLO x\r\nAUTH PLAIN AHByaW50ZXIAd3Jvbmc=\r\n" // a wrong password
	case 4:
		say = "STARTTLS\r\n"
	}
	_, _ = io.WriteString(nc, say)
	go func() { _, _ = io.Copy(io.Discard, r); close(gone) }()
	drip := make(<-chan time.Time)
	if way%6 >= 4 {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		drip = tick.C
	}
	for {
		select {
		case <-gone:
			return
		case <-ctx.Done():
			return
		case <-drip:
			b := byte('N')
			if way%6 == 4 {
				b = 0x16 // of a handshake
			}
			if _, err := nc.Write([]byte{b}); err != nil {
				return
			}
		}
	}
}

// sendFrom signs in and sends a message, with TLS or without, in one try.
func sendFrom(address string, from net.IP, tenant Tenant, secure bool) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 10 * time.Second}
	nc, err := d.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	var c *smtp.Client
	if secure {
		// What the certificate is worth others test.
		if c, err = smtp.NewClientStartTLS(nc, &tls.Config{InsecureSkipVerify: true}); err != nil {
			return err
		}
	} else {
		c = smtp.NewClient(nc)
	}
	text := letter(Sender, 0, content(0, 1<<10))
	return errors.Join(c.Auth(sasl.NewPlainClient("", "printer", tenant.Key())), c.SendMail(Sender, []string{"someone@example.net"}, strings.NewReader(text)), c.Quit())
}

// Memory is a figure of the process's memory, in octets: VmRSS for what it has now, or
// VmHWM for the most that it had.
func (c *Caddy) Memory(figure string) int64 {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid()))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				c.t.Fatal(err)
			}
			return kib << 10
		}
	}
	c.t.Fatalf("no %s in %s", figure, text)
	return 0
}
