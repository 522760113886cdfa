package listener

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// ledger counts wrong passwords by address and by user, and remembers from which
// addresses came somebody who signed in, or nothing of use. It keeps nothing of either
// but a digest, and not more than so many.
type ledger struct {
	seed maphash.Seed

	mu     sync.Mutex
	counts map[uint64]tally
	// regulars are addresses from which somebody has signed in.
	regulars map[uint64]struct{}
}

// tally is how many were wrong lately.
type tally struct {
	n       int
	forget  time.Time // n does not count any more
	blocked time.Time // the address is turned away until then
	suspect time.Time // the address is suspect until then
}

// standing is what is known of an address. The lower, the better.
type standing int

const (
	regular standing = iota // somebody has signed in from there
	stranger
	suspect // wrong passwords came from there lately, or connections that led to nothing
)

const (
	mostTallies  = 20_000
	mostRegulars = 10_000
	firstDelay   = 500 * time.Millisecond
)

func newLedger() *ledger {
	return &ledger{seed: maphash.MakeSeed(), counts: map[uint64]tally{}, regulars: map[uint64]struct{}{}}
}

func (l *ledger) addr(a netip.Addr) uint64 {
	return maphash.Comparable(l.seed, network(a))
}

func (l *ledger) user(name string) uint64 { return maphash.String(l.seed, name) }

// network is what counts as one address: of IPv6, one subscriber has 64 bits.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}

// wrong counts a wrong password. It tells how long the answer takes, and whether the
// address is turned away from now on. One that is not known never is.
func (l *ledger) wrong(a netip.Addr, user string, now time.Time, limits Limits) (delay time.Duration, banned bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tidyLocked(now)
	byAddr := l.countLocked(l.addr(a), now, limits.Ban)
	byUser := l.countLocked(l.user(user), now, limits.Ban)
	if a.IsValid() && byAddr.n >= limits.WrongPerAddress {
		byAddr.blocked = now.Add(limits.Ban)
		byAddr.n = 0
		l.counts[l.addr(a)] = byAddr
		banned = true
	}
	n := max(byAddr.n, byUser.n)
	if banned {
		n = limits.WrongPerAddress
	}
	delay = limits.LongestDelay
	if n < 16 {
		delay = min(delay, firstDelay<<(n-1))
	}
	return delay, banned
}

func (l *ledger) countLocked(key uint64, now time.Time, forget time.Duration) tally {
	t := l.counts[key]
	if !now.Before(t.forget) {
		t.n = 0
	}
	t.n++
	t.forget = now.Add(forget)
	l.counts[key] = t
	return t
}

// tidyLocked makes room: by what does not count any more, and if that is not enough,
// by something, last of all by who is turned away.
func (l *ledger) tidyLocked(now time.Time) {
	if len(l.counts) < mostTallies {
		return
	}
	for key, t := range l.counts {
		if !now.Before(t.forget) && !now.Before(t.blocked) && !now.Before(t.suspect) {
			delete(l.counts, key)
		}
	}
	for _, all := range []bool{false, true} {
		for key, t := range l.counts {
			if len(l.counts) < mostTallies*9/10 {
				return
			}
			if all || !now.Before(t.blocked) {
				delete(l.counts, key)
			}
		}
	}
}

// right forgets the wrong passwords of an address and a user, and remembers the
// address.
func (l *ledger) right(a netip.Addr, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.counts, l.addr(a))
	delete(l.counts, l.user(user))
	for key := range l.regulars {
		if len(l.regulars) < mostRegulars {
			break
		}
		delete(l.regulars, key)
	}
	if a.IsValid() {
		l.regulars[l.addr(a)] = struct{}{}
	}
}

// fruitless enters that a connection of an address led to nothing.
func (l *ledger) fruitless(a netip.Addr, now time.Time, limits Limits) {
	if !a.IsValid() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tidyLocked(now)
	t := l.counts[l.addr(a)]
	t.suspect = now.Add(limits.Ban)
	l.counts[l.addr(a)] = t
}

// standing returns what is known of an address.
func (l *ledger) standing(a netip.Addr, now time.Time) standing {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := l.addr(a)
	if _, ok := l.regulars[key]; ok {
		return regular
	}
	if t := l.counts[key]; now.Before(t.forget) || now.Before(t.suspect) {
		return suspect
	}
	return stranger
}

// banned returns for how long an address is turned away yet.
func (l *ledger) banned(a netip.Addr, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, l.counts[l.addr(a)].blocked.Sub(now))
}
