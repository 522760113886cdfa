package caddymodule

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// keyUses are what is remembered of keys while configurations come and go.
var keyUses = caddy.NewUsagePool() // keyUseKey → *keyUse

// keyUseKey identifies a key by its name and its hash.
type keyUseKey [sha256.Size]byte

// keyUse is when a key was last used, and how many messages it has brought of late.
// Its methods may be called concurrently, and on nil, which has no limit.
type keyUse struct {
	now func() time.Time

	mu   sync.Mutex
	last time.Time
	// window is what the counts are of, which are those of its parts: the last one
	// began at part*window/keySlices. Total is their sum.
	window time.Duration
	counts [keySlices]int
	part   int64
	total  int
}

// keySlices is how many parts a window is counted in. A message counts until the part
// that it came in has left the window, so never are more let in than the limit says.
const keySlices = 60

// Destruct does nothing: there is memory only.
func (*keyUse) Destruct() error { return nil }

// keyUse returns what is remembered of a key.
func (h *holdings) keyUse(k *apiKey) (*keyUse, error) {
	return take(&h.keys, keyUses, keyUseKey(digest("key", k.name, k.hash)),
		func() *keyUse { return &keyUse{now: time.Now} }, func(u *keyUse) *keyUse { return u })
}

// used notes that the key was used now.
func (u *keyUse) used() {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = u.now()
}

// lastUsed is when the key was last used since this process began; zero: not.
func (u *keyUse) lastUsed() time.Time {
	if u == nil {
		return time.Time{}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last
}

// allowance is how much of a limit is left.
type allowance struct {
	// most is the limit; zero for none.
	most, left int
	// reset is when messages leave the window next, or, where more were asked for than
	// is left, when those may come.
	reset time.Duration
}

// take counts n messages, all of them or none, and returns what is left of the most
// that may come in any window. With zero it only looks.
func (u *keyUse) take(n, most int, window time.Duration) (left allowance, ok bool) {
	if u == nil || most == 0 {
		return allowance{}, true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if window != u.window {
		u.counts, u.total, u.part, u.window = [keySlices]int{}, 0, 0, window
	}
	slice := max(1, window/(keySlices-1))
	now := u.now().UnixNano()
	u.forgetLocked(now / int64(slice))
	if ok = u.total+n <= most; ok {
		u.counts[u.part%keySlices] += n
		u.total += n
	}
	left = allowance{most: most, left: max(0, most-u.total)}
	room := left.left
	for i := range int64(keySlices) { // the oldest part first
		at := u.part - keySlices + 1 + i
		c := u.counts[(at+keySlices)%keySlices]
		if c == 0 {
			continue
		}
		left.reset = time.Duration((at+keySlices)*int64(slice) - now)
		if room += c; ok || room >= n {
			break
		}
	}
	return left, ok
}

// forgetLocked drops the parts that have left the window.
func (u *keyUse) forgetLocked(part int64) {
	for gone := max(u.part+1, part-keySlices+1); gone <= part; gone++ {
		u.total -= u.counts[gone%keySlices]
		u.counts[gone%keySlices] = 0
	}
	if part-u.part >= keySlices {
		u.counts, u.total = [keySlices]int{}, 0
	}
	u.part = max(u.part, part)
}
