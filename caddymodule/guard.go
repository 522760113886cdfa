package caddymodule

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// guard slows down addresses that try wrong keys. It is safe for concurrent use.
type guard struct {
	mu sync.Mutex
	// limiters count wrong keys per network.
	limiters map[netip.Prefix]*rate.Limiter
}

const (
	// wrongKeys may be tried at once, and one more every wrongKeyEvery.
	wrongKeys     = 10
	wrongKeyEvery = 6 * time.Second
	// guardSize bounds what is remembered. When it is full, all is forgotten:
	// whoever commands that many networks is not stopped by counting.
	guardSize = 10_000
)

func newGuard() *guard { return &guard{limiters: make(map[netip.Prefix]*rate.Limiter)} }

// network is what counts as one client: an IPv4 address, or the /64 that an IPv6
// client has to itself.
func network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // fails for the zero Addr only, which then counts as one
	return p
}

// wrong counts a wrong key. It reports whether the address has tried too many,
// and how long it should wait.
func (g *guard) wrong(addr netip.Addr) (wait time.Duration, slowed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := network(addr)
	l := g.limiters[n]
	if l == nil {
		if len(g.limiters) >= guardSize {
			clear(g.limiters)
		}
		l = rate.NewLimiter(rate.Every(wrongKeyEvery), wrongKeys)
		g.limiters[n] = l
	}
	return wrongKeyEvery, !l.Allow()
}
