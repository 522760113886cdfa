package bolt

import (
	"encoding/binary"
	"slices"
	"time"

	bbolt "go.etcd.io/bbolt"
)

// batch is what is stored at once. Several make one transaction of the database.
type batch struct {
	e   *Engine
	now time.Time

	buckets

	entry  []byte // of the journal; what is set lies there
	dirty  bool
	merge  bool  // somebody wants to read what is in the journal alone
	err    error // why it cannot be committed
	counts map[counter]int
	files  int64
	grown  int64 // octets in use, beside those when the transaction began
	// scheduled are the octets of scheduled messages that came or went
	scheduled int64
	touched   []*lane

	afterwards []func() // when it is durable
	undoings   []func() // when it is not
	launched   []string // ids of messages that are to be handed out
}

func (b *batch) after(f func()) { b.afterwards = append(b.afterwards, f) }

func (b *batch) undo(f func()) { b.undoings = append(b.undoings, f) }

// set stores a value that is made of parts. The transaction refers to the entry of the
// journal until it ends, and to nothing else.
func (b *batch) set(to *bbolt.Bucket, k []byte, parts ...[]byte) {
	b.dirty = true
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b.entry = binary.AppendUvarint(appendCounted(append(b.entry, b.letter(to)), k), uint64(n))
	begin := len(b.entry)
	for _, p := range parts {
		b.entry = append(b.entry, p...)
	}
	if b.err == nil {
		b.err = to.Put(k, b.entry[begin:len(b.entry):len(b.entry)])
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
	b.grown += n
}

// transact makes one transaction of ops and of whatever is due.
func (e *Engine) transact(ops []*op, now time.Time) error {
	b := &batch{e: e, now: now, counts: map[counter]int{}}
	if err := shield(func() error { return b.store(ops) }); err != nil {
		for _, undo := range slices.Backward(b.undoings) {
			undo()
		}
		e.used.Add(-b.grown)
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
