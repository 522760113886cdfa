package bolt

import (
	"encoding/binary"
	"slices"
	"time"
)

// batch is what is stored at once.
type batch struct {
	e   *Engine
	now time.Time

	buckets

	entry   []byte // of the journal; what is set lies there
	dirty   bool
	accepts int // ops that store a message
	counts  map[counter]int
	files   int64
	grown   int64 // octets in use, beside those before
	// scheduled are the octets of scheduled messages that came or went
	scheduled int64
	touched   []*lane

	afterwards []func() // when it is durable
	undoings   []func() // when it is not
	launched   []string // ids of messages that are to be handed out
}

func (b *batch) after(f func()) { b.afterwards = append(b.afterwards, f) }

func (b *batch) undo(f func()) { b.undoings = append(b.undoings, f) }

// set stores a value that is made of parts. The young generation refers to the entry, and
// to nothing else.
func (b *batch) set(to *bucket, k []byte, parts ...[]byte) {
	b.dirty = true
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b.entry = binary.AppendUvarint(append(b.entry, to.letter), uint64(len(k)))
	begin := len(b.entry)
	b.entry = binary.AppendUvarint(append(b.entry, k...), uint64(n))
	value := len(b.entry)
	for _, p := range parts {
		b.entry = append(b.entry, p...)
	}
	b.e.young.change(to.letter, b.entry[begin:begin+len(k):begin+len(k)], isSet, b.entry[value:len(b.entry):len(b.entry)])
	if to == b.index {
		b.e.floors.lower(k)
	}
}

func (b *batch) remove(from *bucket, k []byte) {
	b.dirty = true
	b.entry = appendCounted(append(b.entry, from.letter-removal), k)
	b.e.young.change(from.letter, b.entry[len(b.entry)-len(k):len(b.entry):len(b.entry)], isRemoved, nil)
}

// grow notes that more octets are in use than before.
func (b *batch) grow(n int64) {
	b.e.used.Add(n)
	b.e.young.grown += n
	b.grown += n
}

// transact stores ops and whatever is due.
func (e *Engine) transact(ops []*op, now time.Time) error {
	b := &batch{e: e, now: now, counts: map[counter]int{}}
	if err := shield(func() error { return b.store(ops) }); err != nil {
		e.young.undo()
		clear(e.floors)
		for _, undo := range slices.Backward(b.undoings) {
			undo()
		}
		e.used.Add(-b.grown)
		e.young.grown -= b.grown
		if !isFull(err) {
			e.doubt(ops, b.launched)
		}
		return err
	}
	for _, f := range b.afterwards {
		f()
	}
	for _, o := range ops {
		if o.err == nil && o.reader {
			e.await(o)
			continue
		}
		o.finish(o.err)
	}
	return nil
}

// store applies ops and makes them durable. Where it panics a transaction does not end.
func (b *batch) store(ops []*op) error {
	e := b.e
	size := 0
	for _, o := range ops {
		size += o.size
		if o.accept {
			b.accepts++
		}
		if o.look != nil {
			err, lerr := e.look(o.look)
			if err != nil {
				return err
			}
			o.err = lerr
		}
	}
	tx, err := e.db.Begin(false)
	if err != nil {
		return err
	}
	e.noticeMade(tx)
	layers := []*layer{e.young.layer}
	if e.old != nil {
		layers = append(layers, e.old.layer)
	}
	b.buckets, b.entry = bucketsOf(tx, layers...), e.young.entry(size)
	e.size = tx.Size()
	b.apply(ops)
	if err := tx.Rollback(); err != nil { // a merge that must map the file anew waits for that
		return err
	}
	b.buckets = buckets{}
	if b.dirty || e.unmerged() && e.journals.spent && (!b.now.Before(e.mergeAt) || slices.ContainsFunc(ops, (*op).isReader)) {
		return b.commit()
	}
	return nil
}

func (b *batch) apply(ops []*op) {
	b.repair()
	b.shift()
	for _, o := range ops {
		if o.apply != nil {
			o.err = o.apply(b)
		}
	}
	b.sweep()
	b.fill()
	b.storeCounts()
	if b.dirty {
		b.check()
	}
}

// commit makes the changes durable: in the journal, or in the database where that cannot be.
func (b *batch) commit() error {
	e, j := b.e, b.e.journals
	if !j.usable(b.entry) {
		return e.mergeAll(false)
	}
	if j.full(b.entry) {
		e.young.undo()
		if err := e.drain(); err != nil {
			return err
		}
		e.rotate(true)
		b.entry = append(e.young.entry(len(b.entry))[:0], b.entry...)
		e.young.grown = b.grown
		if err := e.young.redo(b.entry[entryHeader:]); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := e.flush(func() error { return j.add(b.entry, e.syncData) }); err != nil {
		j.spent = true
		return err
	}
	e.crowd.note(b.accepts+e.queue.waits(), time.Since(begin))
	e.young.keep(b.entry)
	e.young.filled = true
	e.behind.Store(true)
	if e.mergeAt.IsZero() {
		e.mergeAt = b.now.Add(mergeTime)
	}
	return nil
}
