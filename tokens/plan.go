package tokens

import (
	"sync"
	"time"
)

// plan is when the sources of a refresher are to be looked at next: a heap of
// times, without a goroutine or a timer for each. What makes a source due
// earlier pokes it; what makes it due later is found when its turn comes.
type plan struct {
	mu sync.Mutex
	// turns is a heap, the next turn first. A source's place in it stands in
	// [Source.place].
	turns []turn
	// wake tells who waits for the next turn that an earlier one has come up.
	wake chan struct{}
}

// turn is when a source is looked at next, in Unix nanoseconds of the wall
// clock.
type turn struct {
	at int64
	s  *Source
}

// never is a turn that only a poke brings on.
const never = int64(1<<63 - 1)

func newPlan(room int) *plan {
	return &plan{turns: make([]turn, 0, room), wake: make(chan struct{}, 1)}
}

// put plans a source's next turn; one that is planned is moved.
func (p *plan) put(s *Source, at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.poked {
		s.poked, at = false, 0
	}
	if s.place > 0 {
		p.moveLocked(s, at)
		return
	}
	p.turns = append(p.turns, turn{})
	p.upLocked(len(p.turns)-1, turn{at, s})
}

// poke brings a source's turn on. One that is being looked at has its next turn
// planned when that is done, and at once if that was about to be.
func (p *plan) poke(s *Source) {
	p.mu.Lock()
	moved := s.place > 0
	s.poked = !moved
	if moved {
		p.moveLocked(s, 0)
	}
	p.mu.Unlock()
	if moved {
		select {
		case p.wake <- struct{}{}:
		default: // it is being woken already
		}
	}
}

// pop takes the source out whose turn has come. Without one it returns nil, and
// when the next one comes.
func (p *plan) pop(now int64) (s *Source, next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.turns) == 0 {
		return nil, never
	}
	if first := p.turns[0]; first.at > now {
		return nil, first.at
	}
	s = p.turns[0].s
	p.removeLocked(s)
	return s, 0
}

// settle forgets the pokes of a source that has none planned: its next turn is
// about to be found out.
func (p *plan) settle(s *Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.poked = false
}

// remove takes a source out.
func (p *plan) remove(s *Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.place > 0 {
		p.removeLocked(s)
	}
	s.poked = false
}

func (p *plan) removeLocked(s *Source) {
	i := int(s.place) - 1
	s.place, s.poked = 0, false
	last := len(p.turns) - 1
	moved := p.turns[last]
	p.turns[last] = turn{}
	p.turns = p.turns[:last]
	if i < last {
		p.fillLocked(i, moved)
	}
}

// spread gives every source that is planned a new turn, from a time on and a
// step apart.
func (p *plan) spread(from int64, step time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.turns { // what rises along the slice is a heap
		p.turns[i].at = from + int64(i)*int64(step)
	}
}

func (p *plan) moveLocked(s *Source, at int64) {
	p.fillLocked(int(s.place)-1, turn{at, s})
}

// fillLocked puts a turn in the place of another.
func (p *plan) fillLocked(i int, t turn) {
	if t.at < p.turns[i].at {
		p.upLocked(i, t)
	} else {
		p.downLocked(i, t)
	}
}

// upLocked puts a turn at a place that is free, or before it.
func (p *plan) upLocked(i int, t turn) {
	for i > 0 {
		parent := (i - 1) / 2
		if p.turns[parent].at <= t.at {
			break
		}
		p.setLocked(i, p.turns[parent])
		i = parent
	}
	p.setLocked(i, t)
}

// downLocked puts a turn at a place that is free, or behind it.
func (p *plan) downLocked(i int, t turn) {
	for {
		child := 2*i + 1
		if child >= len(p.turns) {
			break
		}
		if child+1 < len(p.turns) && p.turns[child+1].at < p.turns[child].at {
			child++
		}
		if t.at <= p.turns[child].at {
			break
		}
		p.setLocked(i, p.turns[child])
		i = child
	}
	p.setLocked(i, t)
}

func (p *plan) setLocked(i int, t turn) {
	p.turns[i] = t
	t.s.place = int32(i + 1)
}

// attach has a plan look after the source, from a time on.
func (s *Source) attach(p *plan, at int64) {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.plan != nil {
		return // it is another's
	}
	s.plan, s.nextView = p, c.views
	c.views = s
	s.queued = true // the times that they begin at are spaced already
	s.known = c.newest != nil && !c.newest.Revoked
	p.put(s, at)
}

// detach ends that.
func (s *Source) detach(p *plan) {
	c := s.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.plan != p {
		return
	}
	for at := &c.views; *at != nil; at = &(*at).nextView {
		if *at == s {
			*at = s.nextView
			break
		}
	}
	p.remove(s)
	s.plan, s.nextView = nil, nil
}

// line spaces out what many may want at once.
type line struct {
	every time.Duration
	next  time.Time
}

// lineSlack is how far a line that was empty lets the first ones through
// together.
const lineSlack = 100 * time.Millisecond

// join returns when it is one's turn: now, or later.
func (l *line) join(now time.Time) time.Time {
	if ready := now.Add(-lineSlack); l.next.Before(ready) {
		l.next = ready
	}
	l.next = l.next.Add(l.every)
	if l.next.Before(now) {
		return now
	}
	return l.next
}

// restart forgets who has joined. A clock that was set back would keep them
// waiting.
func (l *line) restart() { l.next = time.Time{} }
