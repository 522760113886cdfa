package listener

import (
	"fmt"
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
