package bolt

import "bytes"

// floors tell below which key of the index there is none with a prefix. Messages that
// wait leave their keys at the beginning of those of their lane, and whoever looks for the
// next would pass over all that the layers know to be removed.
type floors map[string][]byte

const (
	// manyPassed is after how many removed keys a floor is worth it.
	manyPassed = 16
	// maxFloors bounds how many there are.
	maxFloors = 16
)

// from is where to look for the first key with a prefix.
func (f floors) from(prefix []byte) []byte {
	if k, ok := f[string(prefix)]; ok {
		return k
	}
	return prefix
}

// raise notes the first key that there is at the prefix or behind it; nil for none.
func (f floors) raise(prefix, k []byte) {
	if len(f) >= maxFloors {
		clear(f)
	}
	if !bytes.HasPrefix(k, prefix) {
		k = append(bytes.Clone(prefix), 0xff) // above all times
	}
	f[string(prefix)] = bytes.Clone(k)
}

// lower notes that a key comes into the index.
func (f floors) lower(k []byte) {
	for prefix, floor := range f {
		if bytes.Compare(k, floor) < 0 && bytes.HasPrefix(k, []byte(prefix)) {
			f[prefix] = bytes.Clone(k)
		}
	}
}
