package listener

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves the sessions of one address, or of several that have the same
// configuration. It outlives configurations. Its methods may be called concurrently.
type Server struct {
	config atomic.Pointer[Config]
	ledger *ledger
	checks *turns

	// closed is closed by Shutdown, while it holds mu.
	closed    chan struct{}
	mu        sync.Mutex
	listeners map[*net.Listener]struct{}
	sessions  map[*session]struct{}
	// room holds the sessions that count, which those that make room do not.
	room map[*session]struct{}
	from map[netip.Addr]int // of them
	// empty is closed when the last session has ended after Shutdown.
	empty chan struct{}
}

// New returns a server whose sessions begin with c.
func New(c *Config) *Server {
	s := &Server{
		ledger: newLedger(), checks: checks,
		listeners: map[*net.Listener]struct{}{}, sessions: map[*session]struct{}{}, room: map[*session]struct{}{}, from: map[netip.Addr]int{},
		closed: make(chan struct{}), empty: make(chan struct{}),
	}
	s.Use(c)
	return s
}

// Use has new sessions begin with c. Those that are open end with the configuration
// that they began with.
func (s *Server) Use(c *Config) { s.config.Store(c.withDefaults()) }

// Serve serves the connections of l until l is closed, which Shutdown does, and
// returns nil then. Other errors of l pass, it is taken, as the lack of file
// descriptors does: a listener whose error after Close does not wrap
// [net.ErrClosed] keeps Serve waiting until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.add(&l) {
		return nil
	}
	defer s.remove(&l)
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			go s.accept(nc)
			continue
		case errors.Is(err, net.ErrClosed), s.isClosed():
			return nil
		}
		if pause == 0 {
			s.config.Load().Logger.Warn("accepting SMTP connections", slog.Any("error", err))
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-s.closed:
			return nil
		}
	}
}

func (s *Server) add(l *net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) remove(l *net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Shutdown closes the listeners and ends sessions: at once where a command is waited
// for; others when the message is done whose content is on its way, or at the end of
// ctx, by force. The error is that of ctx, if it came to that.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.isClosed()
	if first {
		close(s.closed)
	}
	for l := range s.listeners {
		_ = (*l).Close()
	}
	for t := range s.sessions {
		t.interrupt("shutdown")
	}
	if first && len(s.sessions) == 0 {
		close(s.empty)
	}
	s.mu.Unlock()

	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.sessions {
		t.cancel()
		_ = t.raw.Close()
	}
	return ctx.Err()
}
