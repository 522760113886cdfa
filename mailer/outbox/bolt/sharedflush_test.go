package bolt

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSharedFlush: each who asks has a flush that began after he asked; those who ask
// during one share the next.
func TestSharedFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sharedFlush
		var begun atomic.Int64
		flush := func() error {
			n := begun.Add(1)
			time.Sleep(time.Second)
			if n == 2 {
				return errIO
			}
			return nil
		}
		var group sync.WaitGroup
		failed := 0
		var mu sync.Mutex
		for i := range 10 {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				before := begun.Load()
				err := s.flush(flush)
				if begun.Load() == before {
					t.Error("no flush began after this one was asked for")
				}
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, errIO) {
					failed++
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if n := begun.Load(); n != 2 || failed != 9 {
			t.Errorf("%d flushes, %d failed", n, failed)
		}
		if err := s.flush(flush); err != nil || begun.Load() != 3 {
			t.Errorf("later: %v, %d flushes", err, begun.Load())
		}
	})
}
