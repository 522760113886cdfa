package listener

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestAdmission: nobody takes all the room, and whoever has not said who it is makes
// room for others.
func TestAdmission(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		config.Limits = Limits{Connections: 6, PerAddress: 3}
		s := New(config)
		l := serveMemory(t, s)
		for range 3 {
			newTalk(t, l.dial("192.0.2.1")).hear("220")
		}
		newTalk(t, l.dial("192.0.2.1")).hear("421 4.7.0 Too many connections from this address")
		known := newTalk(t, l.dial("192.0.2.2")).signedIn()
		for i := range 2 {
			newTalk(t, l.dial(fmt.Sprintf("192.0.2.%d", 3+i))).hear("220")
		}

		// All six are there. The address with most makes room, twice; then all have one,
		// in its first moments.
		for i := range 2 {
			newTalk(t, l.dial(fmt.Sprintf("192.0.2.%d", 10+i))).hear("220")
		}
		newTalk(t, l.dial("192.0.2.30")).hear("421 4.3.2 Too many connections")
		time.Sleep(firstMoments)
		for i := range 5 {
			newTalk(t, l.dial(fmt.Sprintf("192.0.2.%d", 20+i))).hear("220")
		}
		newTalk(t, l.dial("192.0.2.30")).hear("421 4.3.2 Too many connections")

		// Regulars come in at once, at first from where somebody signed in.
		regular := newTalk(t, l.dial("192.0.2.2"))
		regular.hear("220")
		newTalk(t, l.dial("192.0.2.31")).hear("421 4.3.2 Too many connections")
		time.Sleep(firstMoments)
		for i := range 4 {
			newTalk(t, l.dial(fmt.Sprintf("192.0.2.%d", 40+i))).hear("220")
		}
		newTalk(t, l.dial("192.0.2.44")).hear("421 4.3.2 Too many connections")
		regular.say("NOOP", "250")
		known.say("NOOP", "250")
		synctest.Wait()
		if !slices.Equal(r.away, []string{"per_address", "full", "full", "full", "full"}) || len(s.room) != 6 {
			t.Errorf("turned away %q, %d there", r.away, len(s.room))
		}
		made := 0
		for _, x := range r.sessions() {
			if x.End == "made_room" {
				made++
			}
		}
		if made != 2+5+1+4 {
			t.Errorf("%d made room: %+v", made, r.sessions())
		}
	})
}

// TestRoomAtOneAddress: where many are behind one address, strangers make room, once
// they had the time to sign in.
func TestRoomAtOneAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		config.Limits.PerAddress = 3
		l := serveMemory(t, New(config))
		first := newTalk(t, l.dial("192.0.2.1")).signedIn()
		for range 2 {
			newTalk(t, l.dial("192.0.2.1")).hear("220")
		}
		newTalk(t, l.dial("192.0.2.1")).hear("421 4.7.0 Too many connections from this address")
		time.Sleep(firstMoments)
		for range 2 {
			newTalk(t, l.dial("192.0.2.1")).signedIn()
		}
		time.Sleep(firstMoments)
		newTalk(t, l.dial("192.0.2.1")).hear("421 4.7.0 Too many connections from this address")
		first.say("NOOP", "250")
		synctest.Wait()
	})
}

// TestAdmissionOfKnown: those who are known do not have to make room.
func TestAdmissionOfKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := trusting(r.config())
		config.Limits = Limits{Connections: 3, PerAddress: 2}
		s := New(config)
		l := serveMemory(t, s)
		for i := range 3 {
			newTalk(t, l.dial(fmt.Sprintf("2001:db8:0:%d::1", i))).hear("220")
		}
		time.Sleep(30 * time.Second)
		c := newTalk(t, l.dial("2001:db8:0:9::1"))
		c.hear("421 4.3.2 ")
		c.gone()
		time.Sleep(31 * time.Second) // they were idle
		for i := range 2 {           // the address of one subscriber
			newTalk(t, l.dial(fmt.Sprintf("2001:db8:0:1:%d::1", i))).hear("220")
		}
		newTalk(t, l.dial("2001:db8:0:1:ffff::1")).hear("421 4.7.0 ")
		synctest.Wait()
	})
}

// TestStanding: a client that was never seen gets in at once while those hold on of
// whom it is known that nothing comes of them. They do not push it out.
func TestStanding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		config.Limits = Limits{Connections: 4}
		s := New(config)
		l := serveMemory(t, s)
		idler := func(i int) *talk { return newTalk(t, l.dial(fmt.Sprintf("198.51.100.%d", i))) }
		for i := range 8 { // four of them make room for the others
			idler(i).hear("220")
			time.Sleep(firstMoments)
		}
		idler(0).hear("421 4.3.2 ") // of the others that is not known yet
		time.Sleep(time.Minute)
		for i := range 4 {
			idler(i).hear("220") // these are young
		}
		first := newTalk(t, l.dial("192.0.2.1"))
		first.hear("220")
		synctest.Wait()
		if got := s.ledger.standing(netip.MustParseAddr("198.51.100.0"), time.Now()); got != suspect {
			t.Errorf("who made room is %d", got)
		}
		second := newTalk(t, l.dial("192.0.2.2"))
		second.hear("220")
		newTalk(t, l.dial("192.0.2.3")).hear("220")
		newTalk(t, l.dial("192.0.2.4")).hear("220")
		time.Sleep(30 * time.Second)
		idler(0).hear("421 4.3.2 ") // it has to wait until they go
		second.say("NOOP", "250")
		first.say("EHLO x", "250", authPlain, "235", "QUIT", "221")
		synctest.Wait()
		idler(0).hear("220")

		// Wrong passwords make suspect, a right one regular.
		c := newTalk(t, l.dial("192.0.2.5")).greeted()
		synctest.Wait()
		c.say(plainWith("a", "b"), "535")
		addr := netip.MustParseAddr("192.0.2.5")
		if got := s.ledger.standing(addr, time.Now()); got != suspect {
			t.Errorf("after a wrong password: %d", got)
		}
		c.say(authPlain, "235")
		if got := s.ledger.standing(addr, time.Now()); got != regular {
			t.Errorf("after a right one: %d", got)
		}
		if got := s.ledger.standing(netip.MustParseAddr("198.51.100.7"), time.Now().Add(10*time.Minute)); got != stranger {
			t.Errorf("after ten minutes: %d", got)
		}
	})
}

// TestKnownByNetwork: who is known by its network gets in at once, too.
func TestKnownByNetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		config.Limits = Limits{Connections: 2}
		config.Network = func(c Client) *Identity {
			if c.Addr.Addr().String() != "10.0.0.1" {
				return nil
			}
			return &Identity{Kind: "network", Name: "10.0.0.1", Tenant: "office"}
		}
		l := serveMemory(t, New(config))
		for i := range 2 {
			newTalk(t, l.dial(fmt.Sprintf("192.0.2.%d", i))).hear("220")
		}
		newTalk(t, l.dial("10.0.0.1")).greeted().send(letter+".\r\n", "250")
	})
}

// TestDeaf: a client that reads nothing does not stay for long once it has to go.
func TestDeaf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		config := everywhere(r.config())
		config.Limits = Limits{Connections: 1}
		s := New(config)
		l := newMemory()
		go s.Serve(l)
		deaf, server := net.Pipe() // nothing is written that is not read
		defer deaf.Close()
		l.conns <- remote{server, "192.0.2.1"}
		time.Sleep(firstMoments)
		newTalk(t, l.dial("192.0.2.2")).hear("220")
		time.Sleep(lastWords)
		synctest.Wait()
		if got := r.sessions(); len(got) != 1 || got[0].Addr.Addr().String() != "192.0.2.1" {
			t.Errorf("ended %+v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = s.Shutdown(ctx)
	})
}
