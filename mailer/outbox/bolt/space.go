package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// reserveSize is the room that is kept for outcomes on a full disk: enough to merge what both
// journals have.
const reserveSize = 2 * journalSize

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
	over := b.e.used.Load() + b.e.filling.Load() + n - b.e.options.MaxBytes
	if over > 0 {
		over -= b.spare(over)
	}
	if over > 0 {
		return b.e.full()
	}
	b.grow(n)
	return nil
}

// roomScheduled reports whether there is room for a message that is scheduled. Others
// find the rest of the space, whoever fills it for months.
func (b *batch) roomScheduled(h *header) error {
	most := b.e.options.MaxBytes / 2
	if number(b.index.Get(keyScheduled))+b.scheduled+h.octets() > most {
		return fmt.Errorf("%w for scheduled messages: they may take half of it, %d octets", outbox.ErrFull, most)
	}
	return nil
}

const (
	// spareAge is the least age of a message that is forgotten early though a repeat
	// may come with its idempotency key.
	spareAge = time.Hour
	// maxSpare is how many messages are looked at in search of those, and spareEvery
	// the pause after a search in vain.
	maxSpare   = 4096
	spareEvery = 10 * time.Second
)

// spare forgets messages early that were sent or canceled, those whose time comes next
// first, until they have freed so many octets, and returns how many it were.
func (b *batch) spare(over int64) (freed int64) {
	if b.now.Before(b.e.spareAt) {
		return 0
	}
	var ids []string
	c, n := b.index.Cursor(forgetPrefix()), 0
	for k, _ := c.Seek(forgetPrefix()); k != nil && n < maxSpare && freed < over; k, _ = c.Next() {
		n++
		_, id, ok := timed(k[1:])
		if !ok {
			continue
		}
		old, sealed, err := b.get(id)
		if err != nil || old.state != outbox.StateSent && old.state != outbox.StateCanceled {
			continue
		}
		if old.knows() && b.now.Sub(old.accepted) < spareAge {
			continue
		}
		ids = append(ids, id)
		freed += int64(len(sealed)+len(b.contents.Get([]byte(id)))) + recordRoom + old.fileSize()
	}
	for _, id := range ids {
		if old, _, err := b.get(id); err == nil {
			b.put(id, old, nil, nil)
		}
	}
	if freed < over {
		b.e.spareAt = b.now.Add(spareEvery)
	}
	b.grow(-freed)
	return freed
}

// fill takes room for a file of a content, if there is any.
func (e *Engine) fill(n int64) error {
	for {
		over := e.filling.Add(n) + e.used.Load() - e.options.MaxBytes
		if over <= 0 {
			return nil
		}
		e.filling.Add(-n)
		var freed int64
		err := e.do(&op{apply: func(b *batch) error {
			freed = b.spare(over)
			return nil
		}})
		if err != nil {
			return err
		}
		if freed == 0 {
			return e.full()
		}
	}
}

// full is the error for a message too much.
func (e *Engine) full() error {
	return fmt.Errorf("%w: it may take %d octets; give it more or look why messages wait", outbox.ErrFull, e.options.MaxBytes)
}

// makeReady makes the reserve and the journals, where they are missing and there is room.
func (e *Engine) makeReady() {
	e.reserved = e.makeReserve() == nil
	if !e.reserved || e.journals != nil || e.unjournaled {
		return
	}
	j, err := openJournals(e.folder, int(min(journalSize, e.options.MaxBytes/8)))
	if err != nil {
		e.log().Warn("the outbox has no journal, without which it is slow", "error", err)
		return
	}
	e.journals = j
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
