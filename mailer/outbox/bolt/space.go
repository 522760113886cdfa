package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// reserveSize is the room that is kept for outcomes on a full disk.
const reserveSize = 4 << 20

// inUse is what the database takes without its free pages.
func inUse(tx *bbolt.Tx) int64 {
	s := tx.DB().Stats()
	return tx.Size() - int64(s.FreePageN+s.PendingPageN)*int64(tx.DB().Info().PageSize)
}

// recordRoom is what the index takes for a message, about.
const recordRoom = 1024

// room takes room for a message in the database.
func (b *batch) room(n int64) error {
	n += recordRoom
	if b.e.used.Load()+b.e.filling.Load()+b.grown+n > b.e.options.MaxBytes {
		return b.e.full()
	}
	b.grown += n
	return nil
}

// full is the error for a message too much.
func (e *Engine) full() error {
	return fmt.Errorf("%w: it may take %d octets; give it more or look why messages wait", outbox.ErrFull, e.options.MaxBytes)
}

// makeReserve writes a file that can be given up for outcomes.
func (e *Engine) makeReserve() error {
	name := filepath.Join(e.folder, reserveFile)
	size := min(reserveSize, e.options.MaxBytes/8)
	if info, err := os.Stat(name); err == nil && info.Size() == size {
		return nil
	}
	err := writeZeros(name, size)
	if err != nil {
		_ = os.Remove(name)
	}
	return err
}

func writeZeros(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for ; size > 0 && err == nil; size -= int64(len(zeros)) {
		_, err = f.Write(zeros[:min(size, int64(len(zeros)))])
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// dropReserve makes room on a full disk.
func (e *Engine) dropReserve(now time.Time) {
	_ = os.Remove(filepath.Join(e.folder, reserveFile))
	e.reserved = false
	e.retryAt = now.Add(calmTime)
}
