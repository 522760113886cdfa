package bolt

import (
	"encoding/binary"
	"errors"
)

// The changes of a batch are an entry of a journal. Each is the letter of a bucket, the
// key and the value, each after its length as a varint. With the letter in upper case the
// key is removed, and there is no value.
const removal = 'a' - 'A'

var errJournal = errors.New("the journal of the outbox has a change that nobody understands")

func appendCounted(b, what []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(what))), what...)
}

// redo makes the changes of an entry. The layer refers to them.
func (l *layer) redo(changes []byte) error {
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
		if nameOf(letter+removal) != nil {
			l.change(letter+removal, k, isRemoved, nil)
			continue
		}
		v, ok := next()
		if !ok || nameOf(letter) == nil {
			return errJournal
		}
		l.change(letter, k, isSet, v)
	}
	return nil
}
