package bolt

import "time"

// gathering is how the goroutine that commits waits for company, as PostgreSQL does with
// commit_delay and commit_siblings: of clients that post at the same time, those who were
// answered last bring their next message a moment after the others. A flush for most of
// them costs as much as one for half.
//
// It never waits for a client that is alone, nor longer than a flush takes.
type gathering struct {
	crowd int           // how many bring something at the same time, as was seen of late
	flush time.Duration // how long one takes, about
	timer *time.Timer
}

const (
	// maxGather is the longest that a change waits for company.
	maxGather = time.Millisecond
	// maxCrowd bounds the crowd: a batch of so many is cheap enough.
	maxCrowd = 64
)

// note tells how many waited for a batch, and how many more did when it had been flushed,
// and how long that took. A crowd that has gone is forgotten within a few batches.
func (g *gathering) note(seen int, took time.Duration) {
	g.crowd = min(max(seen, g.crowd*3/4), maxCrowd)
	if g.flush == 0 {
		g.flush = took
	}
	g.flush += (took - g.flush) / 8
}

// wait returns when three of four of the crowd wait in the queue, or something does that
// is not to wait, or the time is over.
func (g *gathering) wait(q *queue) {
	if !q.expect(g.crowd * 3 / 4) {
		return
	}
	limit := min(g.flush, maxGather)
	if g.timer == nil {
		g.timer = time.NewTimer(limit)
	} else {
		g.timer.Reset(limit)
	}
	select {
	case <-q.wake:
	case <-g.timer.C:
	}
	g.timer.Stop()
}
