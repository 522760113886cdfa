package listener

import (
	"net"
	"net/netip"
	"time"
)

const (
	// firstMoments are for a stranger to begin to sign in.
	firstMoments = 2 * time.Second
	// turnAwayTime is for the words to one that is not let in.
	turnAwayTime = 100 * time.Millisecond
)

// accept runs a session, if there is room for it. It may have to wait for the address
// of a client behind a proxy.
func (s *Server) accept(nc net.Conn) {
	c := s.config.Load()
	t := newSession(s, c, nc)
	why, words := s.admit(t)
	if why == "" {
		t.run()
		return
	}
	t.cancel()
	if told := c.Hooks.TurnedAway; told != nil {
		told(t.client, why)
	}
	if !c.Implicit {
		_ = nc.SetWriteDeadline(time.Now().Add(turnAwayTime))
		_, _ = nc.Write([]byte(words))
	}
	_ = nc.Close()
}

// admit makes a session count, or tells why not.
func (s *Server) admit(t *session) (why, words string) {
	addr, l := t.client.Addr.Addr(), t.config.Limits
	t.standing = s.ledger.standing(addr, time.Now())
	if t.known.Load() { // by its network
		t.standing = regular
	}
	if addr.IsValid() && s.ledger.banned(addr, time.Now()) > 0 {
		return "banned", "421 4.7.0 " + bannedText + "\r\n"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isClosed():
		return "shutdown", "421 4.3.2 This server is being restarted; try again in a moment\r\n"
	case addr.IsValid() && s.from[network(addr)] >= l.PerAddress && !s.makeRoomLocked(t, network(addr)):
		return "per_address", "421 4.7.0 Too many connections from this address: close some, or try again later\r\n"
	case len(s.room) >= l.Connections && !s.makeRoomLocked(t, netip.Addr{}):
		return "full", "421 4.3.2 Too many connections: try again later\r\n"
	}
	s.sessions[t] = struct{}{}
	s.room[t] = struct{}{}
	s.from[network(addr)]++
	return "", ""
}

// makeRoomLocked has a client end of whom it is not known who it is: of those of the
// worst standing, one from the address with most connections, and of these the oldest.
// Only is the address to look at, if it is valid.
func (s *Server) makeRoomLocked(guest *session, only netip.Addr) bool {
	var found *session
	most := 0
	for t := range s.room {
		addr := network(t.client.Addr.Addr())
		k := s.from[addr]
		switch {
		case t.known.Load(), t.checking.Load():
		case only.IsValid() && (addr != only || time.Since(t.begin) < firstMoments):
		case !only.IsValid() && !s.givesWayLocked(t, guest):
		case found == nil, t.standing > found.standing,
			t.standing == found.standing && (k > most || k == most && t.begin.Before(found.begin)):
			found, most = t, k
		}
	}
	if found == nil {
		return false
	}
	s.leaveRoomLocked(found)
	found.interrupt("made_room")
	return true
}

// givesWayLocked reports whether a client that has not signed in has to make room for
// one of another address: at once if that one's standing is better, never if it is
// worse, and otherwise after its first moments, or if its address has more
// connections. Regulars do not have to.
func (s *Server) givesWayLocked(t, guest *session) bool {
	switch {
	case t.standing == regular, t.standing < guest.standing:
		return false
	case t.standing > guest.standing:
		return true
	}
	more := s.from[network(t.client.Addr.Addr())] > s.from[network(guest.client.Addr.Addr())]+1
	return more || time.Since(t.begin) >= firstMoments
}

func (s *Server) leaveRoomLocked(t *session) {
	if _, ok := s.room[t]; !ok {
		return
	}
	delete(s.room, t)
	addr := network(t.client.Addr.Addr())
	if s.from[addr]--; s.from[addr] == 0 {
		delete(s.from, addr)
	}
}

// leave forgets a session that has ended.
func (s *Server) leave(t *session) {
	if !t.known.Load() && t.why() != "shutdown" {
		s.ledger.fruitless(t.client.Addr.Addr(), time.Now(), t.config.Limits)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveRoomLocked(t)
	delete(s.sessions, t)
	if s.isClosed() && len(s.sessions) == 0 {
		close(s.empty)
	}
}
