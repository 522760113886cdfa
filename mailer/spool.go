package mailer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

const (
	// spoolChunk is in what pieces a text is kept in memory, and written to a file.
	spoolChunk = 64 << 10
	// spoolStart is what a text takes at first, as many are short.
	spoolStart = 4 << 10
	// spoolMemory is how much of a text stays in memory before the rest goes to a file.
	spoolMemory = 256 << 10
	// spoolShared is how much all texts of a spool may have in memory, beside a chunk
	// of each.
	spoolShared = 16 << 20

	codeSpoolFull   = "spool_full"
	codeSpoolFailed = "spool_failed"
)

// Spool keeps texts that are too large for memory: up to 256 KiB of each stay in
// memory, or 64 KiB while others have 16 MiB there, and more goes to a temporary
// file. Files vanish with the process, however it ends,
// where the system lets an open file be removed; elsewhere when they are closed.
// The zero value uses the system's folder for temporary files and has no limit.
// It is safe for concurrent use, and must not be copied after the first.
type Spool struct {
	// Folder is where the files are. Empty means the system's own.
	Folder string
	// MaxBytes limits what all texts together have at a time, in octets, in files
	// and in memory. Zero: no limit.
	MaxBytes int64

	used   atomic.Int64
	shared atomic.Int64 // of spoolShared
}

// Used is how many octets are taken at the moment.
func (s *Spool) Used() int64 { return s.used.Load() }

// reserve takes n octets of the budget.
func (s *Spool) reserve(n int64) error {
	if used := s.used.Add(n); s.MaxBytes > 0 && used > s.MaxBytes {
		s.used.Add(-n)
		return &Error{
			Stage: StageAccept, Kind: KindTemporary, Code: codeSpoolFull,
			Err: fmt.Errorf("the messages that are being received have %d octets together, the most that the spool may hold is %d: try again later, or give it more", used-n, s.MaxBytes),
		}
	}
	return nil
}

var (
	spoolChunks = sync.Pool{New: func() any { return new([spoolChunk]byte) }}
	spoolStarts = sync.Pool{New: func() any { return new([spoolStart]byte) }}
)

func newSpoolChunk() []byte { return spoolChunks.Get().(*[spoolChunk]byte)[:0] }

// freeSpoolChunk takes a chunk back, or what a text took at first. What is neither, it
// leaves alone.
func freeSpoolChunk(b []byte) {
	switch cap(b) {
	case spoolChunk:
		spoolChunks.Put((*[spoolChunk]byte)(b[:spoolChunk]))
	case spoolStart:
		spoolStarts.Put((*[spoolStart]byte)(b[:spoolStart]))
	}
}

// spooled is a text that is written once, front to back, and then read any
// number of times, also by several goroutines at once.
type spooled struct {
	spool *Spool // nil: all in memory
	size  int64

	// chunks are in memory and full, and come first; then the file; then last.
	chunks [][]byte
	last   []byte

	mu       sync.RWMutex // guards file against Close while it is read
	file     *os.File
	name     string // of the file, where it could not be removed while open
	inFile   int64
	reserved int64
	closed   bool
}

// Write appends p. After an error the text is good for nothing but Close.
func (t *spooled) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if len(t.last) == cap(t.last) {
			if err := t.grow(); err != nil {
				return 0, err
			}
		}
		n := min(len(rest), cap(t.last)-len(t.last))
		t.last = append(t.last, rest[:n]...)
		rest = rest[n:]
	}
	t.size += int64(len(p))
	return len(p), nil
}

// grow makes room in t.last, which is full.
func (t *spooled) grow() error {
	switch {
	case t.last == nil:
		t.last = spoolStarts.Get().(*[spoolStart]byte)[:0]
		return nil
	case cap(t.last) < spoolChunk:
		start := t.last
		t.last = append(newSpoolChunk(), start...)
		freeSpoolChunk(start)
		return nil
	}
	return t.flush()
}

// flush empties t.last, which is a chunk.
func (t *spooled) flush() error {
	if err := t.reserve(int64(len(t.last))); err != nil {
		return err
	}
	if t.file == nil && t.mayKeep() {
		t.chunks = append(t.chunks, t.last)
		t.last = newSpoolChunk()
		return nil
	}
	if t.file == nil {
		if err := t.create(); err != nil {
			return spoolFailed(err)
		}
	}
	n, err := t.file.Write(t.last)
	t.inFile += int64(n)
	if err != nil {
		return spoolFailed(err)
	}
	t.last = t.last[:0]
	return nil
}

// mayKeep reports whether one more chunk may stay in memory, which then counts.
func (t *spooled) mayKeep() bool {
	switch {
	case t.spool == nil:
		return true
	case len(t.chunks)+1 == spoolMemory/spoolChunk:
		return false
	case t.spool.shared.Add(spoolChunk) > spoolShared:
		t.spool.shared.Add(-spoolChunk)
		return false
	}
	return true
}

func (t *spooled) reserve(n int64) error {
	if t.spool == nil {
		return nil
	}
	if err := t.spool.reserve(n); err != nil {
		return err
	}
	t.reserved += n
	return nil
}

func (t *spooled) create() error {
	f, err := os.CreateTemp(t.spool.Folder, "oauth-mail-*.spool")
	if err != nil {
		return err
	}
	t.file = f
	if os.Remove(f.Name()) != nil { // the system keeps what is open
		t.name = f.Name()
	}
	return nil
}

// done ends the writing.
func (t *spooled) done() error {
	if t.file == nil {
		return t.reserve(int64(len(t.last)))
	}
	if err := t.flush(); err != nil {
		return err
	}
	freeSpoolChunk(t.last)
	t.last = nil
	return nil
}

// WriteTo writes the whole text.
func (t *spooled) WriteTo(w io.Writer) (int64, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return 0, spoolFailed(os.ErrClosed)
	}
	var n int64
	for _, c := range t.chunks {
		m, err := w.Write(c)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	if t.file != nil {
		m, err := t.writeFile(w)
		n += m
		if err != nil {
			return n, err
		}
	}
	m, err := w.Write(t.last)
	return n + int64(m), err
}

// writeFile tells trouble with the file from trouble with w.
func (t *spooled) writeFile(w io.Writer) (n int64, err error) {
	b := make([]byte, min(t.inFile, 32<<10))
	for n < t.inFile {
		m, err := t.file.ReadAt(b[:min(int64(len(b)), t.inFile-n)], n)
		if m == 0 {
			return n, spoolFailed(err)
		}
		m, err = w.Write(b[:m])
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Close gives everything back. It waits for those that are reading.
func (t *spooled) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	for _, c := range append(t.chunks, t.last) {
		freeSpoolChunk(c)
	}
	var err error
	if t.file != nil {
		err = t.file.Close()
		if t.name != "" {
			err = errors.Join(err, os.Remove(t.name))
		}
	}
	if t.spool != nil {
		t.spool.used.Add(-t.reserved)
		t.spool.shared.Add(int64(-len(t.chunks) * spoolChunk))
	}
	t.chunks, t.last = nil, nil
	if err != nil {
		return spoolFailed(err)
	}
	return nil
}

func spoolFailed(err error) error {
	return &Error{Stage: StageAccept, Kind: KindTemporary, Code: codeSpoolFailed, Err: fmt.Errorf("spooling the message: %w", err)}
}
