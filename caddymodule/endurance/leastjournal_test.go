//go:build endurance

package endurance

import (
	"os"
	"runtime"
	"sync"
	"syscall"
)

// leastJournal is a file that texts are written to, with others, before anybody hears that
// they are stored. Nobody ever reads it: once its room, which is on the disk already, is
// used up, it begins anew.
type leastJournal struct {
	file *os.File
	at   int64

	mu      sync.Mutex
	pending []byte
	flushed chan struct{} // closed when pending is on the disk
	wanted  chan struct{}
}

// leastRoom is as much as the engine of the outbox has in its journals.
const leastRoom = 8 << 20

func newLeastJournal(name string) (*leastJournal, error) {
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if _, err := file.Write(make([]byte, leastRoom)); err != nil {
		return nil, err
	}
	if err := file.Sync(); err != nil {
		return nil, err
	}
	j := &leastJournal{file: file, flushed: make(chan struct{}), wanted: make(chan struct{}, 1)}
	go j.store()
	return j, nil
}

// store flushes what has come together while it flushed what came before.
func (j *leastJournal) store() {
	var spare []byte
	for range j.wanted {
		runtime.Gosched() // who is ready to run may bring something, too
		j.mu.Lock()
		batch, done := j.pending, j.flushed
		j.pending, j.flushed = spare[:0], make(chan struct{})
		j.mu.Unlock()
		if j.at+int64(len(batch)) > leastRoom {
			j.at = 0
		}
		_, err := j.file.WriteAt(batch, j.at)
		j.at += int64(len(batch))
		if err == nil {
			err = syscall.Fdatasync(int(j.file.Fd()))
		}
		if err != nil {
			panic(err)
		}
		close(done)
		spare = batch
	}
}

// add has texts stored with others. The result is closed when they are.
func (j *leastJournal) add(texts ...[]byte) <-chan struct{} {
	j.mu.Lock()
	for _, t := range texts {
		j.pending = append(j.pending, t...)
	}
	done := j.flushed
	j.mu.Unlock()
	select {
	case j.wanted <- struct{}{}:
	default:
	}
	return done
}
