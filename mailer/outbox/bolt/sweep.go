package bolt

import (
	"time"
)

// maxForget is how many messages are dropped in a transaction.
const maxForget = 128

// sweep drops final messages whose time has come.
func (b *batch) sweep() {
	for range maxForget {
		at, id, ok := b.first(forgetPrefix())
		if !ok {
			b.e.forget = b.now.Add(24 * time.Hour)
			return
		}
		b.e.forget = at
		if at.After(b.now) {
			return
		}
		old, _, err := b.get(id)
		if err != nil || !old.state.Final() {
			b.dangling(append(appendTime(forgetPrefix(), at), id...))
			continue
		}
		b.put(id, old, nil, nil)
	}
}

// dangling removes a key of the index that leads nowhere.
func (b *batch) dangling(key []byte) {
	b.e.log().Error("the index of the outbox has an entry for nothing; it is removed", "kind", string(key[:1]))
	b.remove(b.index, key)
}
