package bolt

// generation is the changes that lie in one journal, and in no other. The goroutine that
// commits adds to the young one. The old one is being merged into the database, by another
// goroutine, or waits for that.
type generation struct {
	*layer
	number int
	filled bool  // some of its changes are durable in the journal
	full   bool  // its journal is
	grown  int64 // octets that it takes, about, beside those in the database
	blocks pieces[byte]
	tail   []byte // where the next entry is made: nothing refers to it yet
	block  int    // how large the last one was
}

func newGeneration(number int) *generation {
	return &generation{layer: newLayer(), number: number}
}

// successor returns an empty generation in the memory of one that nobody refers to any more:
// it was merged, and no transaction reads what it was merged by.
func (g *generation) successor(number int) *generation {
	n := newGeneration(number)
	n.blocks, n.slabs, n.steps = g.blocks.again(maxLent), g.slabs.again(maxLentChanges), g.steps.again(2*maxLentChanges)
	n.log, n.block = g.log[:0], g.block
	return n
}

// Entries are made in blocks of memory, which grow as many come.
const (
	firstBlock = 32 << 10
	maxBlock   = 1 << 20

	// What a successor takes over at most is what a journal can fill, about.
	maxLent        = journalSize + maxBlock
	maxLentChanges = 1 << 15
)

// entry returns where an entry is made that is going to have so many octets, about.
func (g *generation) entry(size int) []byte {
	if size += entryHeader + firstBlock/16; cap(g.tail) < size {
		g.block = max(min(2*g.block, maxBlock), firstBlock)
		g.tail = g.blocks.next(size, g.block)
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
