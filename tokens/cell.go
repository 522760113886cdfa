package tokens

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// Cell is what is known of one account in memory. It has no goroutine and no
// handle of its own, so that it can be carried from one configuration to the
// next and serve both for a moment: their [Source]s refresh through it, one at
// a time. Its zero value is ready.
type Cell struct {
	// token is the newest token known; nil where none was read yet or the one
	// there was can't be used. It is all that a send looks at.
	token atomic.Pointer[Token]

	// mu guards the fields below.
	mu sync.Mutex
	// flight is the renewal under way; nil for none.
	flight *flight
	// failure is the last renewal's error, and notBefore the time until which
	// it answers for further ones.
	failure   error
	notBefore time.Time
	// failures counts renewals in a row that failed for a passing reason.
	failures int
	// refused is the fingerprint of an access token that a mail server refused,
	// and refusedAt when one was last acted upon.
	refused   [sha256.Size]byte
	refusedAt time.Time
	// unsaved is set while token is newer than what is stored.
	unsaved bool
	// lastUsed is when a token was last handed out for sending.
	lastUsed atomic.Int64
}

// flight is a renewal that any number of callers wait for.
type flight struct {
	done chan struct{} // closed when err is set
	err  error
}
