package caddymodule

import (
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxInFlight is the most that the bodies of all requests under way may have
	// together. Reading one takes several times its size for a moment.
	maxInFlight = 128 << 20
	// leastShare is what a request is charged at least. While it waits for what becomes
	// of its message it takes nearly that, without any body.
	leastShare = 64 << 10
)

// budget bounds the memory that requests take at a time. It is safe for
// concurrent use.
type budget struct {
	bytes *semaphore.Weighted
	// storing has the shares of messages that are on their way into the outbox, by the
	// id of the message.
	storing sync.Map
}

func newBudget() *budget { return &budget{bytes: semaphore.NewWeighted(maxInFlight)} }

// share is what one request has of a budget. It belongs to the goroutine that serves
// the request.
type share struct {
	of      *budget
	size    int64
	message string // the id it is known by in of.storing; empty for none
}

// acquire reserves room for a request's body, as large as it says to be, or may be. A
// request beyond the budget is sent away at once: a caller that waits would only
// add to the load.
func (b *budget) acquire(r *http.Request) (*share, error) {
	size := max(r.ContentLength, leastShare)
	switch {
	case size > maxBody:
		discard(r)
		return nil, errTooLarge()
	case r.ContentLength < 0:
		size = maxBody
	}
	if !b.bytes.TryAcquire(size) {
		discard(r)
		p := refuse(http.StatusServiceUnavailable, nameApplication, "busy",
			"This server is busy with other requests. Nothing was sent; try again in a moment.")
		p.retryAfter = time.Second
		return nil, p
	}
	return &share{of: b, size: size}, nil
}

// shrink gives back what is more than a size, and leastShare.
func (s *share) shrink(size int) {
	if rest := max(int64(size), leastShare); rest < s.size {
		s.of.bytes.Release(s.size - rest)
		s.size = rest
	}
}

// untilAccepted has the share shrink when the outbox has accepted a message.
func (s *share) untilAccepted(id string) {
	s.message = id
	s.of.storing.Store(id, s)
}

// accepted notes that a message is in the outbox, and its content not in the memory any
// more. It is called on the goroutine that serves the request.
func (b *budget) accepted(id string) {
	if s, ok := b.storing.LoadAndDelete(id); ok {
		s.(*share).shrink(0)
	}
}

// release gives back all.
func (s *share) release() {
	if s.message != "" {
		s.of.storing.Delete(s.message)
	}
	s.of.bytes.Release(s.size)
}

// discard reads a body that is not wanted, within reason: a client that is cut
// off while it writes does not read the answer.
func discard(r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 2*maxBody))
}
