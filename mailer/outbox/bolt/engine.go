package bolt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
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
	commit     func(*bbolt.Tx) error
	syncFile   func(*os.File) error
	syncFolder func(string) error
	// maxFreeList is from how many free pages on a commit does not write the list of
	// them. A database that was full once would write megabytes each time. Without the
	// list, opening takes a look at all pages in use, which are few then.
	maxFreeList int

	mu   sync.RWMutex // is held for reading while db is read
	db   *bbolt.DB    // nil while it cannot be opened again
	file *os.File     // that of db

	broken atomic.Pointer[damageError] // db is damaged

	queue queue
	ended chan struct{} // closed when the goroutine that commits has ended
	aside sync.WaitGroup
	ran   atomic.Bool

	used    atomic.Int64 // octets in use at the last commit, about
	filling atomic.Int64 // octets of files that no record tells of yet

	// The rest belongs to the goroutine that commits.
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
}

var _ outbox.Engine = (*Engine)(nil)

var errClosed = errors.New("the outbox is closed")

func newEngine(folder string, o Options) *Engine {
	return &Engine{
		folder: folder, options: o, syncFile: (*os.File).Sync, syncFolder: syncFolder,
		commit: (*bbolt.Tx).Commit, maxFreeList: 1 << 15,
		queue: newQueue(), ended: make(chan struct{}),
		lanes: newLanes(), flights: map[string]*flight{},
	}
}

func (e *Engine) log() *slog.Logger { return e.options.Logger }

// view reads the database.
func (e *Engine) view(f func(*bbolt.Tx) error) error {
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

// Accept implements [outbox.Engine].
func (e *Engine) Accept(ctx context.Context, m *outbox.Message, c mailer.Content) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkMessage(m); err != nil {
		return err
	}
	for {
		if err := e.duplicate(ctx, m); err != nil {
			return err
		}
		err := e.accept(m, c)
		if !errors.Is(err, errKnown) {
			return err
		}
	}
}

// errKnown: the digest came into the index while the message was prepared.
var errKnown = errors.New("known")

// duplicate returns the error for a message that was accepted before.
func (e *Engine) duplicate(ctx context.Context, m *outbox.Message) error {
	if len(m.Idempotency) == 0 {
		return nil
	}
	var id string
	err := e.view(func(tx *bbolt.Tx) error {
		id = string(tx.Bucket(bucketIndex).Get(digestKey(m.Idempotency)))
		return nil
	})
	if err != nil || id == "" {
		return err
	}
	prior, err := e.Get(ctx, id)
	if errors.Is(err, outbox.ErrNotFound) { // dropped this moment
		return nil
	}
	if err != nil {
		return err
	}
	return &outbox.DuplicateError{Prior: prior}
}

// accept stores a message and its content.
func (e *Engine) accept(m *outbox.Message, c mailer.Content) error {
	stored := *m
	switch {
	case stored.State != "" && stored.State != outbox.StateSending:
	case stored.Due.After(time.Now()):
		stored.State = outbox.StateScheduled
	default:
		stored.State = outbox.StateQueued
	}
	if stateOctet(stored.State) == 0 {
		return fmt.Errorf("the outbox knows no state %q", stored.State)
	}
	if stored.Due.IsZero() && !stored.State.Final() {
		stored.Due = time.Now().UTC()
	}
	plain, sealed, err := e.seal(&stored)
	if err != nil {
		return err
	}
	k, err := e.keep(stored.ID, c)
	if err != nil {
		return err
	}
	h := newHeader(&stored, k.where, k.size)
	f := &flight{id: stored.ID, tenant: stored.Tenant, plain: plain, content: k.source, kept: k.where, size: k.size}
	o := &op{accept: true, id: stored.ID, size: len(sealed) + len(k.sealed)}
	o.apply = func(b *batch) error { return b.accept(f, h, sealed, k) }
	err = e.do(o)
	if err != nil {
		k.undo()
	}
	k.done()
	return err
}

// accept adds a message to a transaction.
func (b *batch) accept(f *flight, h header, sealed []byte, k *kept) error {
	if b.messages.Get([]byte(f.id)) != nil {
		return fmt.Errorf("there is a message %s in the outbox already", f.id)
	}
	if h.knows() && b.index.Get(digestKey(h.digest)) != nil {
		return errKnown
	}
	if h.state == outbox.StateScheduled {
		if err := b.roomScheduled(&h); err != nil {
			return err
		}
	}
	if err := b.room(int64(len(sealed) + len(k.sealed))); err != nil {
		return err
	}
	l := b.lane(h.tenant)
	direct := h.waits() && b.mayHand(l, h.due)
	if direct {
		h.state, h.sweep = outbox.StateSending, time.Time{}
	}
	b.put(f.id, nil, &h, sealed)
	if k.where == keptInline {
		b.set(b.contents, []byte(f.id), k.sealed)
	}
	if direct {
		f.due = h.due
		b.launch(l, f)
		return nil
	}
	b.touch(l)
	return nil
}

// Get implements [outbox.Engine].
func (e *Engine) Get(ctx context.Context, id string) (*outbox.Message, error) {
	m, err := e.read(ctx, id)
	if err == nil && m.State == outbox.StateSending { // its outcome may lie
		o := &op{apply: func(*batch) error { return nil }, done: make(chan error, 1)}
		if e.queue.add(o) && e.wait(ctx, o) == nil {
			return e.read(ctx, id)
		}
	}
	return m, err
}

// read returns a message as it is stored.
func (e *Engine) read(ctx context.Context, id string) (*outbox.Message, error) {
	record, _, err := e.load(ctx, id, false)
	if err != nil {
		return nil, err
	}
	m, _, err := e.open(id, record)
	return m, err
}

// load reads a record and, if it is in the database and wanted, the sealed content.
func (e *Engine) load(ctx context.Context, id string, content bool) (record, sealed []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if !goodID(id) {
		return nil, nil, outbox.ErrNotFound
	}
	err = e.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMessages).Get([]byte(id))
		if v == nil {
			return outbox.ErrNotFound
		}
		record = append([]byte(nil), v...)
		if content {
			sealed = append([]byte(nil), tx.Bucket(bucketContents).Get([]byte(id))...)
		}
		return nil
	})
	return record, sealed, err
}

// Content implements [outbox.Engine].
func (e *Engine) Content(ctx context.Context, id string) (mailer.Content, error) {
	record, sealed, err := e.load(ctx, id, true)
	if err != nil {
		return nil, err
	}
	m, h, err := e.open(id, record)
	if err != nil {
		return nil, err
	}
	s, err := e.source(id, &h, sealed)
	if err != nil {
		return nil, err
	}
	return m.Content(s), nil
}

// Change implements [outbox.Engine]. The goroutine that commits calls f.
func (e *Engine) Change(ctx context.Context, id string, f func(*outbox.Message) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.do(&op{apply: func(b *batch) error { return b.change(id, f) }})
}

func (b *batch) change(id string, f func(*outbox.Message) error) error {
	m, old, err := b.waiting(id)
	if err != nil {
		return err
	}
	if err := guard(func() error { return f(m) }); err != nil {
		return err
	}
	m.ID, m.Tenant = id, old.tenant
	if stateOctet(m.State) == 0 || m.State == outbox.StateSending {
		return fmt.Errorf("a message cannot be made %q", m.State)
	}
	if err := checkMessage(m); err != nil {
		return err
	}
	_, sealed, err := b.e.seal(m)
	if err != nil {
		return err
	}
	now := newHeader(m, old.kept, old.size)
	if m.State == outbox.StateSent {
		now.kept = keptNowhere
	}
	b.put(id, old, &now, sealed)
	b.touch(b.lane(now.tenant))
	return nil
}

// waiting opens a message that is not being sent.
func (b *batch) waiting(id string) (*outbox.Message, *header, error) {
	old, _, err := b.get(id)
	if err != nil {
		return nil, nil, err
	}
	if old.state == outbox.StateSending {
		return nil, nil, outbox.ErrSending
	}
	m, _, err := b.e.open(id, b.messages.Get([]byte(id)))
	return m, old, err
}

// Drop implements [outbox.Engine].
func (e *Engine) Drop(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.do(&op{apply: func(b *batch) error {
		old, _, err := b.get(id)
		if err != nil {
			return err
		}
		if old.state == outbox.StateSending {
			return outbox.ErrSending
		}
		b.put(id, old, nil, nil)
		b.touch(b.lane(old.tenant))
		return nil
	}})
}

// get returns the header of a message, in memory of its own, and what is sealed
// behind it, which is not.
func (b *batch) get(id string) (*header, []byte, error) {
	if !goodID(id) {
		return nil, nil, outbox.ErrNotFound
	}
	v := b.messages.Get([]byte(id))
	if v == nil {
		return nil, nil, outbox.ErrNotFound
	}
	h, sealed, err := parse(v)
	if err != nil {
		return nil, nil, fmt.Errorf("message %s: %w", id, err)
	}
	h.digest = append([]byte(nil), h.digest...)
	return &h, sealed, nil
}

// guard makes an error of a panic in what belongs to others.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// Close implements [outbox.Engine].
func (e *Engine) Close() error {
	e.queue.close()
	<-e.ended
	e.aside.Wait()
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
