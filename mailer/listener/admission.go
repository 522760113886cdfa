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
	t.regular = s.wrong.regular(addr)
	if addr.IsValid() && s.wrong.banned(addr, time.Now()) > 0 {
		return "banned", "421 4.7.0 " + bannedText + "\r\n"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
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

// makeRoomLocked has a stranger end, a client of whom it is not known who it is: one
// from the address with most connections, and of these the oldest. Only is the address
// to look at, if it is valid. Strangers are left their first moments, unless their
// address has more connections than the guest's would, or the guest is a regular.
// Regulars, from whose address somebody has signed in before, need not make room for
// other addresses.
func (s *Server) makeRoomLocked(guest *session, only netip.Addr) bool {
	var found *session
	most := 0
	n := s.from[network(guest.client.Addr.Addr())]
	for t := range s.room {
		addr := network(t.client.Addr.Addr())
		k := s.from[addr]
		young := time.Since(t.begin) < firstMoments
		switch {
		case t.known.Load(), t.checking.Load():
		case only.IsValid() && (addr != only || young):
		case !only.IsValid() && (t.regular || young && k <= n+1 && !guest.regular):
		case found == nil || k > most || k == most && t.begin.Before(found.begin):
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveRoomLocked(t)
	delete(s.sessions, t)
	if s.closed && len(s.sessions) == 0 {
		close(s.empty)
	}
}
