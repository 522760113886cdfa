package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bbolt "go.etcd.io/bbolt"
)

// mergeTime is how long changes are in the journal alone, if nobody reads.
const mergeTime = time.Second

// A change in the journal is the letter of a bucket, the key and the value, each after
// its length as a varint. With the letter in upper case the key is removed, and there is
// no value.
const (
	inMessages = 'm'
	inContents = 'c'
	inIndex    = 'i'
	inLanes    = 'l'
	inMeta     = 't'
	removal    = 'a' - 'A'
)

var errJournal = errors.New("the journal of the outbox has a change that nobody understands")

func appendCounted(b, what []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(what))), what...)
}

// buckets are those of a transaction.
type buckets struct {
	messages, contents, index, lanes, meta *bbolt.Bucket
}

func bucketsOf(tx *bbolt.Tx) buckets {
	return buckets{
		tx.Bucket(bucketMessages), tx.Bucket(bucketContents), tx.Bucket(bucketIndex),
		tx.Bucket(bucketLanes), tx.Bucket(bucketMeta),
	}
}

// letter names a bucket in the journal.
func (b *buckets) letter(of *bbolt.Bucket) byte {
	switch of {
	case b.messages:
		return inMessages
	case b.contents:
		return inContents
	case b.index:
		return inIndex
	case b.lanes:
		return inLanes
	default:
		return inMeta
	}
}

func (b *buckets) named(letter byte) *bbolt.Bucket {
	switch letter {
	case inMessages:
		return b.messages
	case inContents:
		return b.contents
	case inIndex:
		return b.index
	case inLanes:
		return b.lanes
	case inMeta:
		return b.meta
	}
	return nil
}

// redo makes the changes of an entry of the journal. The transaction refers to it.
func (b *buckets) redo(changes []byte) error {
	next := func() (what []byte, ok bool) {
		n, width := binary.Uvarint(changes)
		if width <= 0 || n > uint64(len(changes)-width) {
			return nil, false
		}
		end := width + int(n)
		what, changes = changes[width:end:end], changes[end:]
		return what, true
	}
	for len(changes) > 0 {
		letter := changes[0]
		changes = changes[1:]
		k, ok := next()
		if !ok {
			return errJournal
		}
		if to := b.named(letter + removal); to != nil {
			if err := to.Delete(k); err != nil {
				return err
			}
			continue
		}
		v, ok := next()
		to := b.named(letter)
		if !ok || to == nil {
			return errJournal
		}
		if err := to.Put(k, v); err != nil {
			return err
		}
	}
	return nil
}

// begin returns the transaction with all changes that are durable: the open one, or a
// new one to which what the journal has is done again.
func (e *Engine) begin() (*bbolt.Tx, error) {
	if e.tx != nil {
		return e.tx, nil
	}
	tx, err := e.db.Begin(true)
	if err != nil {
		return nil, err
	}
	e.tx = tx
	b := bucketsOf(tx)
	if e.unmerged() && !bytes.Equal(b.meta.Get(keyJournal), e.journal.salt[:]) {
		e.merged() // by a merge that failed at its very end
		e.journal.spent = true
	}
	e.size = tx.Size()
	e.used.Store(inUse(tx) + number(b.index.Get(keyFiles)))
	if e.unmerged() {
		for changes := range e.journal.entries() {
			if err := b.redo(changes); err != nil {
				return nil, err
			}
			e.used.Add(int64(len(changes)))
		}
	}
	return tx, nil
}

// unmerged reports whether there are changes that are in the journal alone.
func (e *Engine) unmerged() bool { return e.behind.Load() }

// rollback gives up the open transaction.
func (e *Engine) rollback() {
	if e.tx != nil {
		_ = e.tx.Rollback()
		e.tx = nil
	}
}

// flush makes changes durable, and counts.
func (e *Engine) flush(write func() error) error {
	e.flushes.Add(1)
	return e.commit(write)
}

// journalize makes an entry durable in the journal.
func (e *Engine) journalize(entry []byte, now time.Time) error {
	if err := e.flush(func() error { return e.journal.add(entry, e.syncData) }); err != nil {
		e.journal.spent = true
		return err
	}
	if !e.unmerged() {
		e.mergeAt = now.Add(mergeTime)
		e.behind.Store(true)
	}
	return nil
}

// merge commits the open transaction, so that the journal begins anew. The last one
// leaves none.
func (e *Engine) merge(last bool) error {
	tx := e.tx
	var salt []byte
	meta := tx.Bucket(bucketMeta)
	var err error
	switch {
	case e.journal == nil:
	case last:
		err = meta.Delete(keyJournal)
	default:
		salt = newSalt()
		err = meta.Put(keyJournal, salt)
	}
	if err == nil {
		tx.DB().NoFreelistSync = tx.DB().Stats().FreePageN > e.maxFreeList
		err = e.flush(tx.Commit)
	}
	e.rollback() // it may have ended already
	if err != nil {
		return err
	}
	e.merged()
	if salt != nil {
		e.journal.restart(salt)
	}
	return nil
}

// merged notes that the database has all changes.
func (e *Engine) merged() {
	e.mergeAt = time.Time{}
	e.behind.Store(false)
}

// recover has the database make up for what is in the journal alone, after a crash.
func (e *Engine) recover(db *bbolt.DB) error {
	var salt []byte
	err := db.View(func(tx *bbolt.Tx) error {
		salt = bytes.Clone(tx.Bucket(bucketMeta).Get(keyJournal))
		return nil
	})
	if err != nil || salt == nil {
		return err
	}
	j, err := openJournal(e.folder, false)
	switch {
	case err != nil:
		return err
	case j == nil:
		return &damageError{"its journal is missing, which has the messages that were accepted last"}
	}
	if err = j.load(salt); err == nil && len(j.image) > 0 {
		if err = redo(db, j); isFull(err) {
			_ = os.Remove(filepath.Join(e.folder, reserveFile))
			err = redo(db, j)
		}
	}
	if err != nil {
		j.close()
		return fmt.Errorf("storing what is in the journal: %w", err)
	}
	e.journal = j
	return nil
}

// redo makes the changes of a journal. The next merge is the first thing that is done
// after that, so that they are never made once more on top of others.
func redo(db *bbolt.DB, j *journal) error {
	return db.Update(func(tx *bbolt.Tx) error {
		b := bucketsOf(tx)
		for changes := range j.entries() {
			if err := b.redo(changes); err != nil {
				return err
			}
		}
		return nil
	})
}

// mergeLast leaves nothing in the journal, before the database is closed.
func (e *Engine) mergeLast() {
	if e.db == nil || e.journal == nil {
		return
	}
	err := shield(func() error {
		if _, err := e.begin(); err != nil {
			return err
		}
		return e.merge(true)
	})
	if err != nil {
		e.rollback()
		e.log().Warn("what is in the journal of the outbox stays there until it is opened again", "error", err)
	}
}
