package bolt

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Engine is an [outbox.Engine] on a file.
//
// Its methods may be called concurrently, but not from the function given to Change
// nor from [outbox.Handler].Window: the goroutine that commits runs these.
type Engine struct {
	folder  string
	options Options

	// What tests put in the way.
	commit     func(func() error) error // makes changes durable
	syncFile   func(*os.File) error
	syncData   func(*os.File) error
	syncFolder func(string) error
	// maxFreeList is from how many free pages on a commit does not write the list of
	// them. A database that was full once would write megabytes each time. Without the
	// list, opening takes a look at all pages in use, which are few then.
	maxFreeList int
	unjournaled bool   // all changes are committed to the database
	beforeMerge func() // is called by the goroutine that merges
	beforeLend  func(*generation)

	mu   sync.RWMutex // is held for reading while db is read
	db   *bbolt.DB    // nil while it cannot be opened again
	file *os.File     // that of db

	contents sharedFlush // of the folder of contents

	broken atomic.Pointer[damageError] // db is damaged

	queue queue
	ended chan struct{} // closed when the goroutine that commits has ended
	aside sync.WaitGroup
	ran   atomic.Bool

	used    atomic.Int64 // octets in use, about
	filling atomic.Int64 // octets of files that no record tells of yet
	inline  atomic.Int64 // of sharedInline

	flushes atomic.Int64 // of the journals and of db

	behind atomic.Bool // some changes are in the journals and not in db

	// The rest belongs to the goroutine that commits.
	journals *journals   // nil: there are none
	young    *generation // takes the changes that are made
	old      *generation // is to be merged before it; nil for none
	merging  bool        // and is being merged
	past     *generation // was merged, and its memory serves for the next; nil for none
	merges   chan merge  // what became of that
	mergeAt  time.Time   // when it is time for the next; zero for none
	readers  []*op       // wait for merges
	crowd    gathering
	floors   floors
	reserved bool      // the reserve is on the disk
	retryAt  time.Time // when a reserve is made again
	calm     time.Time // nothing is handed out before, after trouble
	stuck    []*op     // outcomes that could not be stored
	lying    []*op     // outcomes that nobody waits for
	lieUntil time.Time // when they are stored, if nothing takes them along before
	repairs  []repair
	lanes    *lanes
	flights  map[string]*flight
	run      *run
	out      int // calls of Deliver under way
	stopped  chan struct{}
	forget   time.Time // when the next final message is dropped
	spareAt  time.Time // when it is looked again for messages to forget early
	clock    clock
	shift    *shift
	info     os.FileInfo     // of the file of db
	size     int64           // the least octets that the file has
	astray   bool            // that file is not in the folder any more
	checked  map[string]bool // ids of keys that are known to have been sealed with
	needless [][]byte        // values of keys that nothing needs any more
	// what is written of a message, and nothing that lasts
	stale, fresh keys
	head         []byte
}

var _ outbox.Engine = (*Engine)(nil)

var errClosed = errors.New("the outbox is closed")

func newEngine(folder string, o Options) *Engine {
	return &Engine{
		folder: folder, options: o, syncFile: (*os.File).Sync, syncData: syncData, syncFolder: syncFolder,
		commit: func(write func() error) error { return write() }, maxFreeList: 1 << 15,
		beforeMerge: func() {}, beforeLend: func(*generation) {}, queue: newQueue(), ended: make(chan struct{}),
		young: newGeneration(1), merges: make(chan merge, 1), floors: floors{},
		lanes: newLanes(), flights: map[string]*flight{},
	}
}

func (e *Engine) log() *slog.Logger { return e.options.Logger }

// view reads the database, with all changes until now. Where they cannot come into it for
// want of space, the goroutine that commits reads them for the caller.
func (e *Engine) view(f func(*bbolt.Tx) error) error {
	if e.behind.Load() {
		err := e.do(&op{reader: true})
		if errors.Is(err, outbox.ErrFull) {
			err = e.do(&op{look: f})
			if !errors.Is(err, errClosed) {
				return err
			}
		}
		if err != nil && !errors.Is(err, errClosed) {
			return err
		}
	}
	return e.glance(f)
}

// glance reads the database. The changes of the last moments may be missing.
func (e *Engine) glance(f func(*bbolt.Tx) error) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	switch {
	case e.broken.Load() != nil:
		return e.broken.Load()
	case e.db != nil:
		err := shield(func() error { return e.db.View(f) })
		e.breaks(err)
		return err
	case e.queue.isClosed():
		return errClosed
	}
	return errors.New("the outbox cannot be read until its disk can; the log tells why")
}

// Close implements [outbox.Engine].
func (e *Engine) Close() error {
	e.queue.close()
	<-e.ended
	e.aside.Wait()
	e.journals.close()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.db == nil {
		return nil
	}
	err := e.db.Close()
	e.db = nil
	if err != nil {
		return fmt.Errorf("closing the outbox: %w", err)
	}
	return nil
}
