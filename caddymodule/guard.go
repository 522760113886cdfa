package caddymodule

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// guard slows down addresses that try wrong keys. It is safe for concurrent use.
type guard struct {
	// waiting bounds the answers that are held back at a time.
	waiting chan struct{}

	mu sync.Mutex
	// limiters count wrong keys per network.
	limiters map[netip.Prefix]*rate.Limiter
}

const (
	// wrongKeys may be tried at once, and one more every wrongKeyEvery.
	wrongKeys     = 10
	wrongKeyEvery = 6 * time.Second
	// wrongKeyDelay holds back the answers to more of them.
	wrongKeyDelay = time.Second
	// guardSize bounds what is remembered. When it is full, all is forgotten:
	// whoever commands that many networks is not stopped by counting.
	guardSize = 10_000
)

func newGuard() *guard {
	return &guard{waiting: make(chan struct{}, 100), limiters: make(map[netip.Prefix]*rate.Limiter)}
}

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

// wrong counts a wrong key. Where the address has tried too many it holds the
// caller back for a while, and reports how long it should wait.
func (g *guard) wrong(ctx context.Context, addr netip.Addr) (wait time.Duration, slowed bool) {
	if g.count(addr) {
		return 0, false
	}
	select {
	case g.waiting <- struct{}{}:
		defer func() { <-g.waiting }()
		select {
		case <-time.After(wrongKeyDelay):
		case <-ctx.Done():
		}
	default: // so many wait that one more does not slow them further
	}
	return wrongKeyEvery, true
}

// count reports whether one more wrong key is within the limit.
func (g *guard) count(addr netip.Addr) bool {
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
	return l.Allow()
}
