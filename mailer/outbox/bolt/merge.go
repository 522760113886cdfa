package bolt

import (
	"bytes"
	"time"

	bbolt "go.etcd.io/bbolt"
)

// mergeTime is how long changes are in a journal alone, if nobody reads.
const mergeTime = time.Second

// merge is what became of one.
type merge struct {
	number int   // of the last generation that the database has now
	used   int64 // octets in use then
	err    error
}

// apply makes the changes of a layer in a transaction, which refers to them.
func (l *layer) apply(tx *bbolt.Tx) error {
	var to *bbolt.Bucket
	letter := byte(0)
	for c := range l.all {
		if c.bucket != letter {
			letter, to = c.bucket, tx.Bucket(nameOf(c.bucket))
			if letter == inMessages || letter == inContents {
				to.FillPercent = 0.9 // ids grow
			}
		}
		var err error
		if c.effect == isRemoved {
			err = to.Delete(c.key)
		} else {
			err = to.Put(c.key, c.value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mergeInto stores generations in the database, and the salt of the journal that comes
// after them; none for nil.
func (e *Engine) mergeInto(db *bbolt.DB, next *salt, all ...*generation) (m merge) {
	m.err = shield(func() error {
		tx, err := db.Begin(true)
		if err != nil {
			return err
		}
		for _, g := range all {
			m.number = g.number
			if err = g.apply(tx); err != nil {
				break
			}
		}
		meta := tx.Bucket(bucketMeta)
		switch {
		case err != nil:
		case next == nil:
			err = meta.Delete(keyJournal)
		default:
			err = meta.Put(keyJournal, next[:])
		}
		if err == nil {
			m.used = number(tx.Bucket(bucketIndex).Get(keyFiles))
			db.NoFreelistSync = db.Stats().FreePageN > e.maxFreeList
			err = e.flush(tx.Commit)
		}
		if err != nil {
			_ = tx.Rollback() // it may have ended already
			return err
		}
		return db.View(func(tx *bbolt.Tx) error {
			m.used += inUse(tx)
			return nil
		})
	})
	return m
}

// unmerged reports whether there are changes that are in the journals alone.
func (e *Engine) unmerged() bool { return e.behind.Load() }

// flush makes changes durable, and counts.
func (e *Engine) flush(write func() error) error {
	e.flushes.Add(1)
	return e.commit(write)
}

// rotate makes the young generation the old one, and has it merged. There must be no old one.
// While journals are full one after the other, generations take turns with their memory, too.
func (e *Engine) rotate(full bool) {
	e.old, e.young = e.young, newGeneration(e.young.number+1)
	if e.old.full = full; full && e.past != nil {
		e.beforeLend(e.past)
		e.young = e.past.successor(e.young.number)
	}
	e.past = nil
	e.journals.next()
	e.mergeAt = time.Time{}
	e.startMerge()
}

// startMerge has the old generation merged aside.
func (e *Engine) startMerge() {
	db, old, next, before := e.db, e.old, e.journals.salt, e.beforeMerge
	e.merging = true
	go func() {
		before()
		e.merges <- e.mergeInto(db, &next, old)
	}()
}

// endMerge takes note of a merge that was made aside.
func (e *Engine) endMerge(m merge) error {
	e.merging = false
	if m.err == nil {
		if e.old.full {
			e.past = e.old
		}
		e.old = nil
		e.merged(m)
		return nil
	}
	e.mergeAt = time.Now().Add(calmTime)
	return m.err
}

// awaitMerge waits for the merge that is under way, if there is one.
func (e *Engine) awaitMerge() error {
	if !e.merging {
		return nil
	}
	return e.endMerge(<-e.merges)
}

// drain has the old generation merged, if there is one.
func (e *Engine) drain() error {
	if err := e.awaitMerge(); err != nil || e.old == nil {
		return err
	}
	e.startMerge()
	return e.awaitMerge()
}

// mergeAll stores all generations, in the young one of which are changes that are in no
// journal, so that the journals begin anew. The last one leaves none.
func (e *Engine) mergeAll(last bool) error {
	if err := e.awaitMerge(); err != nil && !isFull(err) {
		return err
	}
	var next *salt
	if e.journals != nil {
		e.journals.spent = true // until there is a salt again that is known
		if !last {
			s := newSalt()
			next = &s
		}
	}
	all := []*generation{e.young}
	if e.old != nil {
		all = []*generation{e.old, e.young}
	}
	m := e.mergeInto(e.db, next, all...)
	if m.err != nil {
		if next != nil {
			e.journals.tried = next
		}
		return m.err
	}
	e.old, e.past, e.young = nil, nil, newGeneration(e.young.number+1)
	if next != nil {
		e.journals.restart(*next)
	}
	e.merged(m)
	return nil
}

// noticeMade looks whether a merge was made that failed at its very end. What was to be
// stored with it is in the database then, too, and not in the generations.
func (e *Engine) noticeMade(tx *bbolt.Tx) {
	j := e.journals
	if j == nil || j.tried == nil {
		return
	}
	if bytes.Equal(tx.Bucket(bucketMeta).Get(keyJournal), j.tried[:]) {
		m := merge{number: e.young.number, used: inUse(tx) + number(tx.Bucket(bucketIndex).Get(keyFiles))}
		e.old, e.past, e.young = nil, nil, newGeneration(e.young.number+1)
		e.merged(m)
	}
	j.tried = nil
}

// merged notes what the database has.
func (e *Engine) merged(m merge) {
	e.used.Store(m.used + e.young.grown)
	clear(e.floors)
	e.behind.Store(e.young.filled)
	switch {
	case !e.young.filled:
		e.mergeAt = time.Time{}
	case e.mergeAt.IsZero():
		e.mergeAt = time.Now()
	}
	e.answerReaders(m.number)
}

// mergeFailed decides what comes after a merge that could not be made aside. The changes
// are in the journals still.
func (e *Engine) mergeFailed(err error, now time.Time) {
	switch {
	case !isFull(err):
		e.fail(nil, err, now)
		e.reopen(err)
	case e.reserved:
		e.noteFull()
		e.dropReserve(now)
		e.startMerge()
	default:
		e.refuseReaders(fullError(err))
	}
}

// tend begins a merge if it is time for that, or somebody reads.
func (e *Engine) tend(now time.Time) {
	late := !e.mergeAt.IsZero() && !now.Before(e.mergeAt)
	switch {
	case e.db == nil || e.merging || e.journals == nil || e.journals.spent:
	case e.old != nil && (late || len(e.readers) > 0):
		e.mergeAt = time.Time{}
		e.startMerge()
	case e.old == nil && e.young.filled && (late || len(e.readers) > 0):
		e.rotate(false)
	}
}

// mergeLast leaves nothing in the journals, before the database is closed.
func (e *Engine) mergeLast() {
	if err := e.awaitMerge(); err != nil && !isFull(err) {
		e.mergeFailed(err, time.Now())
	}
	if e.db == nil || e.journals == nil {
		e.refuseReaders(errClosed)
		return
	}
	if err := e.mergeAll(true); err != nil {
		e.refuseReaders(errClosed)
		e.log().Warn("what is in the journals of the outbox stays there until it is opened again", "error", err)
	}
}
