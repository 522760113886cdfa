package bolt

import (
	"sync"

	bbolt "go.etcd.io/bbolt"
)

// op is a change that waits to be stored.
type op struct {
	// apply, if set, makes the change, or says why it makes none. It may be called again where
	// the transaction failed.
	apply func(*batch) error
	// arrive, if set, is called once before, even where nothing can be stored. It reports
	// whether the op can lie for a while, since nobody waits for it.
	arrive func() (idle bool)
	// accept marks what takes space that others can do without.
	accept bool
	// keep marks what is tried until it is stored.
	keep bool
	// reader marks what ends when the database has all changes until then: those of
	// the generation until.
	reader bool
	until  int
	// look reads all changes without that, and without making any.
	look func(*bbolt.Tx) error
	id   string // of the message, with accept
	size int    // octets in memory
	err  error
	done chan error // nil: nobody waits
}

func (o *op) finish(err error) {
	if o.done != nil {
		o.done <- err
	}
}

// A batch takes so much, or more where one op alone is.
const (
	maxBatch      = 1024
	maxBatchBytes = journalSize / 4
)

// queue is where changes wait for the goroutine that commits.
type queue struct {
	wake chan struct{} // has an entry when there is something to do

	mu       sync.Mutex
	waiting  []*op
	accepts  int // of those
	hasty    int // others that somebody waits for
	expected int // accepts: fewer do not wake
	closed   bool
}

func newQueue() queue { return queue{wake: make(chan struct{}, 1)} }

func (q *queue) stir() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// add reports whether the op will be done.
func (q *queue) add(o *op) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, o)
	q.count(o, 1)
	if q.expected == 0 || q.complete() {
		q.stir()
	}
	return true
}

func (q *queue) count(o *op, n int) {
	switch {
	case o.accept:
		q.accepts += n
	case o.done != nil:
		q.hasty += n
	}
}

func (q *queue) complete() bool { return q.hasty > 0 || q.closed || q.accepts >= q.expected }

// expect has the queue wake who commits once so many accepts wait, or anything else that
// somebody waits for. It reports false where there is nothing to wait for, or no reason to.
// That ends with take.
func (q *queue) expect(accepts int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expected = accepts
	if q.accepts == 0 || q.complete() {
		return false
	}
	select { // what woke whoever commits is taken, too
	case <-q.wake:
	default:
	}
	return true
}

// waits is how many accepts do.
func (q *queue) waits() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.accepts
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.stir()
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// take returns what goes into one batch, and whether it was the last.
func (q *queue) take() (ops []*op, last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.waiting) && n < maxBatch && (n == 0 || bytes < maxBatchBytes) {
		bytes += q.waiting[n].size
		q.count(q.waiting[n], -1)
		n++
	}
	q.expected = 0
	ops = q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	if len(q.waiting) == 0 {
		q.waiting = nil
		return ops, q.closed
	}
	q.stir()
	return ops, false
}

// do has an op done and waits for that.
func (e *Engine) do(o *op) error {
	o.done = make(chan error, 1)
	if !e.queue.add(o) {
		return errClosed
	}
	return <-o.done
}

func (o *op) isReader() bool { return o.reader }
