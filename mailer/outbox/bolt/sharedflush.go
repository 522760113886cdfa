package bolt

import "sync"

// sharedFlush flushes a folder for all who have come before the flush began. Its zero
// value is ready for use.
type sharedFlush struct {
	mu   sync.Mutex
	next *flushRound // the one that has not begun, if there is one
	last *flushRound // the newest
}

type flushRound struct {
	done chan struct{}
	err  error
}

// flush returns when a flush has ended that began after the call.
func (s *sharedFlush) flush(folder func() error) error {
	s.mu.Lock()
	if r := s.next; r != nil {
		s.mu.Unlock()
		<-r.done
		return r.err
	}
	r, before := &flushRound{done: make(chan struct{})}, s.last
	s.next, s.last = r, r
	s.mu.Unlock()

	if before != nil {
		<-before.done
	}
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	r.err = folder()
	close(r.done)
	return r.err
}
