package bolt

// generation is the changes that lie in one journal, and in no other. The goroutine that
// commits adds to the young one. The old one is being merged into the database, by another
// goroutine, or waits for that.
type generation struct {
	*layer
	number int
	filled bool   // some of its changes are durable in the journal
	grown  int64  // octets that it takes, about, beside those in the database
	tail   []byte // where the next entry is made: nothing refers to it yet
	block  int    // how large the last one was
}

func newGeneration(number int) *generation {
	return &generation{layer: newLayer(), number: number}
}

// Entries are made in blocks of memory, which grow as many come.
const (
	firstBlock = 32 << 10
	maxBlock   = 1 << 20
)

// entry returns where an entry is made that is going to have so many octets, about.
func (g *generation) entry(size int) []byte {
	if size += entryHeader + firstBlock/16; cap(g.tail) < size {
		g.block = max(min(2*g.block, maxBlock), firstBlock)
		g.tail = make([]byte, 0, max(g.block, size))
	}
	return g.tail[:entryHeader]
}

// keep takes an entry for durable.
func (g *generation) keep(entry []byte) {
	g.layer.keep()
	g.tail = entry[len(entry):]
}

// undo takes an entry back. Its keys stay known, and nothing is written over them.
func (g *generation) undo() {
	g.layer.undo()
	g.tail = nil
}
