package bolt

import (
	"slices"
	"time"

	bbolt "go.etcd.io/bbolt"
)

// batch is what is stored at once. Several make one transaction of the database.
type batch struct {
	e   *Engine
	now time.Time

	buckets

	entry  []byte // of the journal
	dirty  bool
	merge  bool  // somebody wants to read what is in the journal alone
	err    error // why it cannot be committed
	counts map[counter]int
	files  int64
	// scheduled are the octets of scheduled messages that came or went
	scheduled int64
	touched   []*lane

	afterwards []func() // when it is durable
	undoings   []func() // when it is not
	launched   []string // ids of messages that are to be handed out
}

func (b *batch) after(f func()) { b.afterwards = append(b.afterwards, f) }

func (b *batch) undo(f func()) { b.undoings = append(b.undoings, f) }

// set stores a value, which is not changed any more.
func (b *batch) set(to *bbolt.Bucket, k, v []byte) {
	b.dirty = true
	b.entry = appendCounted(appendCounted(append(b.entry, b.letter(to)), k), v)
	if b.err == nil {
		b.err = to.Put(k, v)
	}
}

func (b *batch) remove(from *bbolt.Bucket, k []byte) {
	b.dirty = true
	b.entry = appendCounted(append(b.entry, b.letter(from)-removal), k)
	if b.err == nil {
		b.err = from.Delete(k)
	}
}

// grow notes that more octets are in use than when the transaction began.
func (b *batch) grow(n int64) {
	b.e.used.Add(n)
	b.undo(func() { b.e.used.Add(-n) })
}

// transact makes one transaction of ops and of whatever is due.
func (e *Engine) transact(ops []*op, now time.Time) error {
	b := &batch{e: e, now: now, counts: map[counter]int{}}
	if err := shield(func() error { return b.store(ops) }); err != nil {
		for _, undo := range slices.Backward(b.undoings) {
			undo()
		}
		if !isFull(err) {
			e.doubt(ops, b.launched)
		}
		return err
	}
	for _, f := range b.afterwards {
		f()
	}
	for _, o := range ops {
		o.finish(o.err)
	}
	return nil
}

// store applies ops and makes them durable. Where it panics the transaction does not
// end.
func (b *batch) store(ops []*op) error {
	e := b.e
	tx, err := e.begin()
	if err != nil {
		e.rollback()
		return err
	}
	b.buckets, b.entry = bucketsOf(tx), e.journal.entry()
	b.messages.FillPercent, b.contents.FillPercent = 0.9, 0.9 // ids grow
	b.repair()
	b.shift()
	for _, o := range ops {
		o.err = o.apply(b)
	}
	b.sweep()
	b.fill()
	b.storeCounts()
	if b.dirty {
		b.check()
	}
	late := e.unmerged() && !b.now.Before(e.mergeAt)
	switch err = b.err; {
	case err != nil:
	case b.dirty && !b.merge && e.journal.takes(b.entry):
		err = e.journalize(b.entry, b.now)
	case b.dirty, late, b.merge && e.unmerged():
		err = e.merge(false)
	}
	if err != nil || !e.unmerged() {
		e.rollback()
	}
	return err
}
