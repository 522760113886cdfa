package bolt

import (
	"bytes"

	bbolt "go.etcd.io/bbolt"
)

// maxLayers is how many layers may lie on the database.
const maxLayers = 2

// bucket is one of the database with what the layers make of it.
type bucket struct {
	letter byte
	layers []*layer // the newest first
	stored *bbolt.Bucket
}

// buckets are all of them.
type buckets struct {
	messages, contents, index, lanes, meta *bucket
}

// The letters of the buckets in a journal.
const (
	inMessages = 'm'
	inContents = 'c'
	inIndex    = 'i'
	inLanes    = 'l'
	inMeta     = 't'
)

// nameOf returns the name of the bucket with a letter, or nil.
func nameOf(letter byte) []byte {
	switch letter {
	case inMessages:
		return bucketMessages
	case inContents:
		return bucketContents
	case inIndex:
		return bucketIndex
	case inLanes:
		return bucketLanes
	case inMeta:
		return bucketMeta
	}
	return nil
}

func bucketsOf(tx *bbolt.Tx, layers ...*layer) buckets {
	of := func(letter byte) *bucket { return &bucket{letter, layers, tx.Bucket(nameOf(letter))} }
	return buckets{of(inMessages), of(inContents), of(inIndex), of(inLanes), of(inMeta)}
}

// Get returns a value, or nil.
func (b *bucket) Get(k []byte) []byte {
	for _, l := range b.layers {
		if c := l.get(b.letter, k); c != nil {
			if c.effect == isRemoved {
				return nil
			}
			return c.value
		}
	}
	return b.stored.Get(k)
}

// ascent goes through keys upwards.
type ascent interface {
	Seek(from []byte) (k, v []byte)
	Next() (k, v []byte)
}

// cursor is an [ascent] through a bucket, which is not changed meanwhile.
type cursor struct {
	letter byte
	layers []*layer
	within []byte             // the beginning of all keys that it meets
	heads  [maxLayers]*change // what comes next in each layer
	stored *bbolt.Cursor
	k, v   []byte // what comes next in the database
	passed int    // keys that were removed
}

// Cursor returns a cursor through the keys with a prefix, which is nowhere yet.
func (b *bucket) Cursor(prefix []byte) *cursor {
	return &cursor{letter: b.letter, layers: b.layers, within: prefix, stored: b.stored.Cursor()}
}

// Seek goes to the first key that is not less, and returns it, or nil.
func (c *cursor) Seek(from []byte) (k, v []byte) {
	for i, l := range c.layers {
		c.heads[i] = l.seek(c.letter, from, nil)
	}
	c.k, c.v = c.stored.Seek(from)
	return c.Next()
}

// Next goes on to the next key.
func (c *cursor) Next() (k, v []byte) {
	for {
		k, v = c.k, c.v
		var top *change // in the newest layer that has the least key
		for i, h := range c.heads {
			for h != nil && h.effect == undone {
				h = h.next[0]
			}
			if h != nil && h.bucket != c.letter {
				h = nil
			}
			c.heads[i] = h
			if h == nil {
				continue
			}
			if order := bytes.Compare(h.key, k); k == nil || order < 0 || order == 0 && top == nil {
				k, v, top = h.key, h.value, h
			}
		}
		if k == nil || !bytes.HasPrefix(k, c.within) {
			return nil, nil
		}
		for i, h := range c.heads {
			if h != nil && bytes.Equal(h.key, k) {
				c.heads[i] = h.next[0]
			}
		}
		if bytes.Equal(c.k, k) {
			c.k, c.v = c.stored.Next()
		}
		if top == nil || top.effect == isSet {
			return k, v
		}
		c.passed++
	}
}
