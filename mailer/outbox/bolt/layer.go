package bolt

import (
	"bytes"
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// layer has changes in memory, in the order of their buckets and keys: a skip list. One
// goroutine changes it. Once nobody does any more, all may read it.
type layer struct {
	head   change // before all others
	slabs  pieces[change]
	steps  pieces[*change]
	free   []change  // of the last of slabs
	towers []*change // of the last of steps
	log    []before  // what was changed since the last call of keep
}

// change is what becomes of a key. What it refers to is not written to again before the
// generation has a successor.
type change struct {
	bucket     byte // its letter
	effect     effect
	key, value []byte
	next       []*change // on each level
}

type effect byte

const (
	undone effect = iota // as if it were not there
	isSet
	isRemoved
)

// before is what a change was before it was changed.
type before struct {
	c      *change
	effect effect
	value  []byte
}

const (
	// layerHeight is enough for some hundred thousand changes: each level has a fourth of
	// those of the one below.
	layerHeight = 10
	// layerSlab is for how many changes memory is taken at once.
	layerSlab = 128
)

func newLayer() *layer { return &layer{head: change{next: make([]*change, layerHeight)}} }

func (c *change) compare(bucket byte, k []byte) int {
	return cmp.Or(cmp.Compare(c.bucket, bucket), bytes.Compare(c.key, k))
}

// seek returns the first change at a key or behind it, of whatever bucket, or nil. With
// a path, that gets the last change before it on each level.
func (l *layer) seek(bucket byte, k []byte, path *[layerHeight]*change) *change {
	at := &l.head
	var seen *change // is not before k, as is known
	for level := layerHeight - 1; level >= 0; level-- {
		for {
			next := at.next[level]
			if next == nil || next == seen {
				break
			}
			if next.compare(bucket, k) >= 0 {
				seen = next
				break
			}
			at = next
		}
		if path != nil {
			path[level] = at
		}
	}
	return at.next[0]
}

// get returns what becomes of a key, or nil where nothing does.
func (l *layer) get(bucket byte, k []byte) *change {
	c := l.seek(bucket, k, nil)
	if c == nil || c.effect == undone || c.compare(bucket, k) != 0 {
		return nil
	}
	return c
}

// change says what becomes of a key.
func (l *layer) change(bucket byte, k []byte, to effect, v []byte) {
	var path [layerHeight]*change
	c := l.seek(bucket, k, &path)
	if c == nil || c.compare(bucket, k) != 0 {
		c = l.insert(&path, bucket, k)
	}
	l.log = append(l.log, before{c, c.effect, c.value})
	c.effect, c.value = to, v
}

func (l *layer) insert(path *[layerHeight]*change, bucket byte, k []byte) *change {
	height := 1 + min(bits.TrailingZeros32(rand.Uint32())/2, layerHeight-1) //nolint:gosec // how high a tower is
	if len(l.free) == 0 {
		l.free = l.slabs.next(1, layerSlab)
	}
	if len(l.towers) < height {
		l.towers = l.steps.next(height, 2*layerSlab)
	}
	c := &l.free[0]
	*c = change{bucket: bucket, key: k, next: l.towers[:height:height]}
	l.free, l.towers = l.free[1:], l.towers[height:]
	for level := range c.next {
		c.next[level] = path[level].next[level]
		path[level].next[level] = c
	}
	return c
}

// keep makes the changes until now those that undo leaves.
func (l *layer) keep() {
	clear(l.log)
	l.log = l.log[:0]
}

// undo takes back what was changed since the last call of keep.
func (l *layer) undo() {
	for _, b := range slices.Backward(l.log) {
		b.c.effect, b.c.value = b.effect, b.value
	}
	l.keep()
}

// all yields the changes in their order.
func (l *layer) all(yield func(*change) bool) {
	for c := l.head.next[0]; c != nil; c = c.next[0] {
		if c.effect != undone && !yield(c) {
			return
		}
	}
}
