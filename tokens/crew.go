package tokens

import (
	"slices"
	"sync"
)

// crew works on sources in the order in which they come, on a few at a time. It
// has goroutines only while there is work.
type crew struct {
	most int
	work func(*Source)

	mu    sync.Mutex
	queue []*Source
	hands int // at work
}

// add adds a source to the work.
func (c *crew) add(d *duty, s *Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, s)
	c.hireLocked(d)
}

// more makes room for another hand, while one waits.
func (c *crew) more(d *duty) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most++
	c.hireLocked(d)
}

// fewer ends that.
func (c *crew) fewer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most--
}

// hireLocked gets a hand for what is in the queue.
func (c *crew) hireLocked(d *duty) {
	if c.hands >= c.most || len(c.queue) == 0 {
		return
	}
	c.hands++
	d.wg.Go(func() {
		for {
			s := c.next(d)
			if s == nil {
				return
			}
			c.work(s)
		}
	})
}

// next takes the next source out of the queue; nil sends a hand home.
func (c *crew) next(d *duty) *Source {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 || d.ctx.Err() != nil {
		for _, s := range c.queue {
			s.store.intents.withdraw(s.account)
		}
		c.queue = nil
		c.hands--
		return nil
	}
	if c.hands > c.most {
		c.hands--
		return nil
	}
	s := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	return s
}

// peek returns the next sources in the queue.
func (c *crew) peek(n int) []*Source {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.queue[:min(n, len(c.queue))])
}
