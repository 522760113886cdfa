package caddymodule

import (
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

// maxInFlight is the most that the bodies of all requests under way may have
// together. Reading one takes several times its size for a moment.
const maxInFlight = 128 << 20

// budget bounds the memory that requests take at a time. It is safe for
// concurrent use.
type budget struct{ bytes *semaphore.Weighted }

func newBudget() budget { return budget{semaphore.NewWeighted(maxInFlight)} }

// acquire reserves room for a request's body, as large as it says to be. A
// request beyond the budget is sent away at once: a caller that waits would only
// add to the load.
func (b budget) acquire(r *http.Request) (release func(), err error) {
	size := r.ContentLength
	switch {
	case size > maxBody:
		discard(r)
		return nil, errTooLarge()
	case size < 0:
		size = maxBody
	}
	if !b.bytes.TryAcquire(size) {
		discard(r)
		p := refuse(http.StatusServiceUnavailable, nameApplication, "busy",
			"This server is busy with other requests. Nothing was sent; try again in a moment.")
		p.retryAfter = time.Second
		return nil, p
	}
	return func() { b.bytes.Release(size) }, nil
}

// discard reads a body that is not wanted, within reason: a client that is cut
// off while it writes does not read the answer.
func discard(r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 2*maxBody))
}
