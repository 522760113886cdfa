package listener

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func plainWith(user, word string) string {
	return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+word))
}

// everywhere lets clients sign in without TLS from anywhere.
func everywhere(c *Config) *Config {
	c.PlaintextFrom = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	return c
}

// TestWrongPasswords: a thousand in a row are slowed, then refused. Nobody else is.
func TestWrongPasswords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var checked atomic.Int64
		r := &recorder{}
		config := everywhere(r.config())
		check := config.Authenticate
		config.Authenticate = func(ctx context.Context, c Client, user, word string) (*Identity, error) {
			checked.Add(1)
			return check(ctx, c, user, word)
		}
		var told, banned int
		config.Hooks.WrongPassword = func(_ Client, user string, delay time.Duration, ban bool) {
			told++
			if ban {
				banned++
			}
			if user != "user??name" || delay < firstDelay || delay > 10*time.Second {
				t.Errorf("told of %q, %v", user, delay)
			}
		}
		l := serveMemory(t, New(config))
		begin := time.Now()
		tries, away := 0, 0
		for tries+away < 1000 {
			c := newTalk(t, l.dial("192.0.2.66"))
			line, err := c.r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(line, "421 4.7.0 Too many wrong passwords") {
				away++
				c.gone()
				continue
			}
			c.say("EHLO x", "250")
			for i := range 3 {
				tries++
				c.write(plainWith("user\r\nname", fmt.Sprint("guess", tries)) + "\r\n")
				line, err := c.r.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				want := "535 5.7.8 "
				if i == 2 || tries == 20 {
					want = "421 4.7.0 "
				}
				if !strings.HasPrefix(line, want) {
					t.Fatalf("try %d: %q", tries, line)
				}
				if want[0] == '4' {
					c.gone()
					break
				}
			}
		}
		if took := time.Since(begin); tries != 20 || took < 2*time.Minute || took > 5*time.Minute || told != 20 || banned != 1 || checked.Load() != 20 {
			t.Errorf("%d tries, %d turned away, in %v; told %d and %d, checked %d", tries, away, took, told, banned, checked.Load())
		}

		// The same user from elsewhere, with the right password, at once.
		begin = time.Now()
		newTalk(t, l.dial("192.0.2.67")).signedIn().say("QUIT", "221")
		if took := time.Since(begin); took > 0 {
			t.Errorf("another address waited %v", took)
		}
		time.Sleep(10 * time.Minute)
		newTalk(t, l.dial("192.0.2.66")).signedIn().say("QUIT", "221")
	})
}

// TestBannedWhileConnected: connections that were there before do not help.
func TestBannedWhileConnected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		config.Limits = Limits{WrongPasswords: 100, WrongPerAddress: 5}
		l := serveMemory(t, New(config))
		other := newTalk(t, l.dial("2001:db8::1")).greeted()
		c := newTalk(t, l.dial("2001:db8::2")).greeted() // the same network
		for range 4 {
			c.say(plainWith("a", "b"), "535")
		}
		c.say(plainWith("a", "b"), "421")
		c.gone()
		other.say(authPlain, "421 4.7.0 Too many wrong passwords")
		other.gone()
	})
}

// TestDelay: it grows with the wrong passwords of an address or a user, and is
// forgotten.
func TestDelay(t *testing.T) {
	t.Parallel()
	l := newLedger()
	limits := Limits{}.withDefaults()
	now := time.Unix(1e9, 0)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i, want := range []time.Duration{500, 1000, 2000, 4000, 8000, 10_000, 10_000} {
		if got, banned := l.wrong(a, fmt.Sprint("user", i), now, limits); got != want*time.Millisecond || banned {
			t.Errorf("the %d. by an address: %v, %v", i+1, got, banned)
		}
	}
	for i, want := range []time.Duration{500, 1000, 2000} {
		addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		if got, _ := l.wrong(addr, "victim", now, limits); got != want*time.Millisecond {
			t.Errorf("the %d. for a user: %v", i+1, got)
		}
	}
	l.right(b, "victim")
	if got, _ := l.wrong(b, "victim", now, limits); got != firstDelay {
		t.Errorf("after a right one: %v", got)
	}
	if got, _ := l.wrong(a, "new", now.Add(10*time.Minute), limits); got != firstDelay {
		t.Errorf("after ten minutes: %v", got)
	}
	for range 100 { // one that is not known cannot be turned away
		if _, banned := l.wrong(netip.Addr{}, "x", now, limits); banned || l.banned(netip.Addr{}, now) > 0 {
			t.Fatal("banned")
		}
	}
}

// TestLedgerIsBounded: whoever tries a million names gets no more memory for it, and
// those that are turned away stay so where they can.
func TestLedgerIsBounded(t *testing.T) {
	t.Parallel()
	l := newLedger()
	limits := Limits{}.withDefaults()
	now := time.Unix(1e9, 0)
	for i := range 45_000 {
		l.wrong(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), fmt.Sprint(i), now, limits)
		if i == mostTallies {
			now = now.Add(11 * time.Minute)
			for range 20 {
				l.wrong(netip.MustParseAddr("192.0.2.1"), "x", now, limits)
			}
		}
	}
	for i := range 45_000 {
		l.fruitless(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), now, limits)
	}
	if n := len(l.counts); n > mostTallies+2 || l.banned(netip.MustParseAddr("192.0.2.1"), now) == 0 {
		t.Errorf("%d kept, turned away for %v", n, l.banned(netip.MustParseAddr("192.0.2.1"), now))
	}
}

// TestSignInTurns: no more passwords are checked at once than there are processors.
func TestSignInTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		var now, most atomic.Int64
		config.Authenticate = func(context.Context, Client, string, string) (*Identity, error) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return &Identity{Name: "x"}, nil
		}
		s := New(config)
		s.checks = newTurns(2)
		l := serveMemory(t, s)
		var clients []*talk
		for i := range 8 {
			c := newTalk(t, l.dial(fmt.Sprintf("192.0.2.%d", i))).greeted()
			c.write(authPlain + "\r\n")
			clients = append(clients, c)
		}
		begin := time.Now()
		for _, c := range clients {
			c.hear("235")
		}
		if took := time.Since(begin); took != 4*time.Second || most.Load() != 2 {
			t.Errorf("%d at once, in %v", most.Load(), took)
		}
		s.checks.free = 0
		newTalk(t, l.dial("192.0.2.99")).greeted().say(authPlain, "454 4.7.0 ")
		if w := s.checks.waiting; len(w[0])+len(w[1]) > 0 {
			t.Errorf("still in line: %v", w)
		}
	})
}

// TestTurnsOfSuspects: they wait behind all others, whoever is recognized waits for
// nobody, and whoever has to go does not stay in line.
func TestTurnsOfSuspects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		check := config.Authenticate
		var checked []string
		config.Authenticate = func(ctx context.Context, c Client, user, word string) (*Identity, error) {
			checked = append(checked, c.Addr.Addr().String())
			time.Sleep(5 * time.Second)
			return check(ctx, c, user, word)
		}
		config.Recognize = func(_ Client, user, word string) *Identity {
			if user == "known" && word == password {
				return &Identity{Kind: "user", Name: user, Tenant: "office"}
			}
			return nil
		}
		s := New(config)
		s.checks = newTurns(1)
		l := serveMemory(t, s)
		begin := time.Now()
		at := func(want time.Duration) {
			t.Helper()
			if took := time.Since(begin); took != want {
				t.Errorf("after %v, want %v", took, want)
			}
		}
		bad := netip.MustParseAddr("198.51.100.1")
		s.ledger.fruitless(bad, time.Now(), config.Limits.withDefaults())
		ask := func(from, line string) *talk {
			c := newTalk(t, l.dial(from)).greeted()
			c.write(line + "\r\n")
			synctest.Wait()
			return c
		}
		running := ask("192.0.2.1", authPlain)
		suspicious := ask(bad.String(), authPlain)
		gone := ask("192.0.2.2", authPlain)
		next := ask("192.0.2.3", authPlain)
		ask("192.0.2.4", plainWith("known", password)).hear("235")
		at(0)
		for x := range s.sessions {
			if x.client.Addr.Addr().String() == "192.0.2.2" {
				x.interrupt("made_room")
			}
		}
		gone.hear("454 4.7.0 ")
		gone.hear("421 4.7.0 ")
		gone.gone()
		at(0)
		running.hear("235")
		at(5 * time.Second)
		next.hear("235")
		at(10 * time.Second)
		suspicious.hear("235")
		at(15 * time.Second)
		if got := strings.Join(checked, " "); got != "192.0.2.1 192.0.2.3 198.51.100.1" || s.checks.free != 1 {
			t.Errorf("checked %s, %d turns free", got, s.checks.free)
		}
	})
}

// TestIdle: clients that say nothing, or not who they are, are bidden good-bye.
func TestIdle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		lead  func(*talk)
		words string
		end   string
		after time.Duration
	}{
		{"says nothing", func(*talk) {}, "421 4.4.2 ", "idle", time.Minute},
		{"greets", func(c *talk) { c.say("EHLO x", "250") }, "421 4.4.2 ", "idle", time.Minute},
		{"a line that has no end", func(c *talk) { go drip(c, "N", time.Second) }, "421 4.4.2 ", "idle", time.Minute},
		{"chats", func(c *talk) { go drip(c, "NOOP\r\n", 50*time.Second) }, "421 4.7.0 Nobody signed in", "sign_in", 2 * time.Minute},
		{"within AUTH", func(c *talk) { c.say("EHLO x", "250", "AUTH LOGIN", "334") }, "421 4.4.2 ", "idle", time.Minute},
		{"signed in", func(c *talk) { time.Sleep(50 * time.Second); c.say("EHLO x", "250", authPlain, "235") }, "421 4.4.2 ", "idle", 110 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &recorder{}
				l := serveMemory(t, New(everywhere(r.config())))
				c := newTalk(t, l.dial("192.0.2.1"))
				begin := time.Now()
				c.hear("220")
				tt.lead(c)
				rest, err := io.ReadAll(c.r)
				took := time.Since(begin)
				lines := strings.Split(strings.TrimSpace(string(rest)), "\r\n")
				if last := lines[len(lines)-1]; err != nil || !strings.HasPrefix(last, tt.words) || took != tt.after {
					t.Errorf("%q, %v, after %v", rest, err, took)
				}
				c.conn.Close()
				time.Sleep(time.Minute)
				if got := r.sessions(); len(got) != 1 || got[0].End != tt.end {
					t.Errorf("ended %+v", got)
				}
			})
		})
	}
}

// drip says something again and again.
func drip(c *talk, s string, every time.Duration) {
	for {
		if _, err := io.WriteString(c.conn, s); err != nil {
			return
		}
		time.Sleep(every)
	}
}
