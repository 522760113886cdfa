package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	bbolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// damageError says that the database cannot be used as it is.
type damageError struct{ what string }

func (e *damageError) Error() string {
	return "the database of the outbox is damaged (" + e.what + "); stop the server, then restore the folder of the outbox, or move it away and lose the messages in it"
}

// shield makes a *damageError of a panic: on damaged pages bbolt does that, and a file
// that was cut off faults where it is read.
func shield(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &damageError{fmt.Sprint(p)}
		}
	}()
	return f()
}

// breaks notes damage that was met. The database is not used again.
func (e *Engine) breaks(err error) {
	d, ok := errors.AsType[*damageError](err)
	if ok && e.broken.CompareAndSwap(nil, d) {
		e.log().Error("the outbox is closed until a restart", "folder", e.folder, "error", err)
		e.queue.stir()
	}
}

// abandon gives up a damaged database. To end its transactions or to close it would
// make bbolt read it once more; what it has mapped stays so.
func (e *Engine) abandon() {
	_ = e.awaitMerge()
	e.journals.close()
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.file.Close()
	e.db = nil
}

// openFile opens the database with bbolt.
func (e *Engine) openFile(o bbolt.Options) (db *bbolt.DB, f *os.File, err error) {
	o.Timeout = e.options.LockTimeout
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err = os.OpenFile(name, flag, mode)
		return f, err
	}
	err = shield(func() error {
		db, err = bbolt.Open(filepath.Join(e.folder, databaseFile), 0o600, &o)
		return err
	})
	if _, ok := errors.AsType[*damageError](err); ok {
		_ = f.Close()
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = fmt.Errorf("the outbox in %s is in use by another process, and still was after %v; end that one, or give each a folder of its own", e.folder, e.options.LockTimeout)
	}
	return db, f, err
}

// maxInspect is up to which size a database is inspected though it was closed in order:
// with a million messages it takes 9 s.
const maxInspect = 256 << 20

// inspect looks at all pages of a database before it is opened to be used: from a
// goroutine of its own bbolt may panic on them.
func (e *Engine) inspect() error {
	db, f, err := e.openFile(bbolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	err = shield(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			info, err := f.Stat()
			if err != nil {
				return err
			}
			if info.Size() < tx.Size() {
				return &damageError{fmt.Sprintf("it has %d octets of %d", info.Size(), tx.Size())}
			}
			if meta := tx.Bucket(bucketMeta); info.Size() > maxInspect && meta != nil && meta.Get(keyJournal) == nil {
				return nil // it was closed in order
			}
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return inspect(b) })
		})
	})
	return errors.Join(err, db.Close())
}

// inspect reports whether the keys of a bucket rise. To see them is to see its pages.
func inspect(b *bbolt.Bucket) error {
	var before []byte
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if before != nil && bytes.Compare(before, k) >= 0 {
			return &damageError{"its keys are out of order"}
		}
		before = k
	}
	return nil
}
