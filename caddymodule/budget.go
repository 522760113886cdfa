package caddymodule

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/semaphore"
)

const (
	// defaultMaxBody and defaultMaxInFlight are those of an App that says nothing of them.
	defaultMaxBody     = 36 << 20
	defaultMaxInFlight = 256 << 20
	// minMaxBody is the least App.MaxBody: below it, its unit was forgotten.
	minMaxBody = 64 << 10
	// maxMemory is what the requests under way may take in memory.
	maxMemory = 128 << 20
	// leastShare is what a request takes of that at least. While it waits for what
	// becomes of its message it takes nearly that, without any body.
	leastShare = 64 << 10
	// textCost is how often a text of a mail is in memory while it is made a message.
	textCost = 4
)

// budget bounds what requests take at a time. It is safe for concurrent use.
type budget struct {
	// largest is the most octets that a request may have, unpacked, and all the most of
	// all together whose messages are not in the outbox yet. What is large lies in files.
	largest, all int64
	bodies       *semaphore.Weighted
	memory       *semaphore.Weighted

	mu sync.Mutex
	// storing has the shares of messages that are on their way into the outbox, by the
	// id of the message. Guarded by mu.
	storing map[string]*share
}

func newBudget(largest, all int64) *budget {
	return &budget{largest: largest, all: all, bodies: semaphore.NewWeighted(all), memory: semaphore.NewWeighted(maxMemory), storing: make(map[string]*share)}
}

// budget is what the configuration allows requests. One that began before a reload
// keeps to that of its own configuration.
func (a *App) budget() (*budget, error) {
	largest := cmp.Or(a.MaxBody, defaultMaxBody)
	all := cmp.Or(a.MaxInFlight, max(defaultMaxInFlight, largest))
	switch {
	case largest < minMaxBody:
		return nil, fmt.Errorf("max_body: %d octets are too few; it must be 64KiB or more, such as 36MiB", largest)
	case all < largest:
		return nil, fmt.Errorf("max_in_flight: %s are less than one request may have (max_body, %s); it must be that or more", octets(all), octets(largest))
	}
	return newBudget(largest, all), nil
}

// octets tells a size in a unit that it is a round number of.
func octets(n int64) string {
	size := uint64(n) //nolint:gosec // never negative
	text := humanize.IBytes(size)
	if again, err := humanize.ParseBytes(text); err != nil || again != size {
		return fmt.Sprintf("%d octets", n)
	}
	return strings.Replace(text, ".0 ", " ", 1)
}

// share is what one request has of a budget. It belongs to the goroutine that serves
// the request.
type share struct {
	of       *budget
	body     int64
	memory   int64
	message  string // the id it is known by in of.storing; empty for none
	accepted func()
}

// acquire reserves room for a request's body, as large as it says to be, or may be. A
// request beyond the budget is sent away at once: a caller that waits would only
// add to the load.
func (b *budget) acquire(r *http.Request) (*share, error) {
	size := r.ContentLength
	switch {
	case size > b.largest:
		return nil, errTooLarge(b.largest)
	case size < 0 || r.Header.Get("Content-Encoding") != "":
		size = b.largest
	}
	if !b.memory.TryAcquire(leastShare) {
		return nil, errBusy()
	}
	if !b.bodies.TryAcquire(size) {
		b.memory.Release(leastShare)
		return nil, busy("This server has " + octets(b.all) + " of requests under way, all that it takes at a time.")
	}
	return &share{of: b, body: size, memory: leastShare}, nil
}

func errBusy() error { return busy("This server is busy with other requests.") }

func busy(why string) error {
	p := refuse(http.StatusServiceUnavailable, nameApplication, "busy", why+" Nothing was sent; try again in a moment.")
	p.retryAfter = time.Second
	return p
}

// read notes how much of the body is still kept, in memory or in files.
func (s *share) read(size int64) {
	if size < s.body {
		s.of.bodies.Release(s.body - size)
		s.body = size
	}
}

// hold takes memory for a text.
func (s *share) hold(text int) error {
	n := int64(text)*textCost - s.memory
	if n <= 0 {
		return nil
	}
	if !s.of.memory.TryAcquire(n) {
		return errBusy()
	}
	s.memory += n
	return nil
}

// untilAccepted has the share shrink when the outbox has accepted a message, and calls
// what gives its content back.
func (s *share) untilAccepted(id string, then func()) {
	s.message, s.accepted = id, then
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.of.storing[id] = s
}

// accepted notes that a message is in the outbox, and its content not needed any more.
// It is called on the goroutine that serves the request.
func (b *budget) accepted(id string) {
	s := b.stored(id)
	if s == nil {
		return
	}
	s.accepted()
	s.read(0)
	if s.memory > leastShare {
		b.memory.Release(s.memory - leastShare)
		s.memory = leastShare
	}
}

// stored ends the way of a message into the outbox, and returns its share; nil where
// that has ended.
func (b *budget) stored(id string) *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.storing[id]
	delete(b.storing, id)
	return s
}

// release gives back all. It may be called more than once.
func (s *share) release() {
	if s.message != "" {
		s.of.stored(s.message)
	}
	s.of.bodies.Release(s.body)
	s.of.memory.Release(s.memory)
	s.body, s.memory = 0, 0
}

// turnAway sees to it that a client reads why its body is not wanted, which was not begun.
func (b *budget) turnAway(w http.ResponseWriter, r *http.Request) {
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") { // RFC 9110, section 10.1.1
		// It writes nothing before it has an answer. net/http would wait for it all the
		// same, since the body is Caddy's by now.
		w.Header().Set("Connection", "close")
		return
	}
	b.discard(r)
}

// discard reads a body that is not wanted, within reason: a client that is cut
// off while it writes does not read the answer.
func (b *budget) discard(r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 2*b.largest))
}
