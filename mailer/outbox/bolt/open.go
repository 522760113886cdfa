package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

const (
	databaseFile   = "outbox.db"
	contentsFolder = "contents"
	reserveFile    = "reserve"

	format = "1"

	defaultMaxBytes    = 2 << 30
	defaultLockTimeout = 10 * time.Second
)

// Options say how an engine is opened.
type Options struct {
	// Sealer seals messages, contents and the reasons why lanes rest. It is needed.
	Sealer outbox.Sealer
	// MaxBytes is the most that messages and contents may take, in octets: 2 GiB.
	// Above it no message is accepted. Outcomes are still recorded.
	MaxBytes int64
	// Logger is told of damage and of trouble with the disk. Nil: nobody is.
	Logger *slog.Logger
	// LockTimeout is how long Open waits for another process to let go of the
	// folder: 10 s.
	LockTimeout time.Duration
}

// Open opens the outbox in a folder, and makes it where there is none. Only one
// engine has it open at a time.
func Open(folder string, o Options) (*Engine, error) { return open(folder, o, nil) }

// open lets tests change the engine before it begins.
func open(folder string, o Options, change func(*Engine)) (*Engine, error) {
	if o.Sealer == nil {
		return nil, errors.New("an outbox needs a sealer")
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = defaultLockTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := newEngine(folder, o)
	if change != nil {
		change(e)
	}
	if err := makeFolder(filepath.Join(folder, contentsFolder)); err != nil {
		return nil, fmt.Errorf("making the folder of the outbox: %w", err)
	}
	if err := e.openDatabase(true); err != nil {
		return nil, err
	}
	err := e.readLanes()
	if err == nil {
		err = e.sweepOrphans()
	}
	if err != nil {
		_ = e.db.Close()
		return nil, fmt.Errorf("reading the outbox in %s: %w", folder, err)
	}
	e.makeReady()
	go e.commits()
	if err := e.do(&op{apply: (*batch).opened}); err != nil {
		e.log().Warn("the outbox could not note the key that it seals with", "error", err)
	}
	return e, nil
}

// openDatabase opens the file, or makes it, and looks whether it can be used.
func (e *Engine) openDatabase(make bool) error {
	if err := e.broken.Load(); err != nil {
		return err
	}
	file := filepath.Join(e.folder, databaseFile)
	info, err := os.Stat(file)
	isNew := errors.Is(err, fs.ErrNotExist)
	switch {
	case isNew && make, err == nil && info.Size() == 0:
		if err = e.mayMake(); err != nil {
			return fmt.Errorf("opening the outbox %s: %w", file, err)
		}
	case err != nil: // its disk is not mounted, say
		return fmt.Errorf("opening the outbox: %w", err)
	case e.info != nil && !os.SameFile(e.info, info):
		return fmt.Errorf("opening the outbox again: %s is another file than before; put that back, or restart", file)
	default:
		if err := e.inspect(); err != nil {
			return fmt.Errorf("opening the outbox %s: %w", file, err)
		}
	}
	db, f, err := e.openFile(bbolt.Options{
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true, // else it may write
	})
	if err != nil {
		return fmt.Errorf("opening the outbox: %w", err)
	}
	if err = shield(func() error { return e.prepare(db) }); err == nil && isNew {
		err = e.syncFolder(e.folder)
	}
	if err == nil {
		err = e.journals.reopen(e.folder)
	}
	if err == nil {
		info, err = f.Stat()
	}
	if err != nil {
		_ = db.Close()
		return fmt.Errorf("opening the outbox %s: %w", file, err)
	}
	e.mu.Lock()
	e.db, e.file, e.info = db, f, info
	e.mu.Unlock()
	return nil
}

// prepare makes the buckets, or refuses what a newer version has made or another key
// has sealed.
func (e *Engine) prepare(db *bbolt.DB) error {
	found := ""
	err := db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketMeta); b != nil {
			if found = string(b.Get(keyFormat)); found != format {
				return nil
			}
			return nil
		}
		if k, _ := tx.Cursor().First(); k != nil {
			return errors.New("this is the database of another program; give the outbox a folder of its own")
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case found == format:
		if e.journals == nil { // else what they have is in memory
			if err := e.recover(db); err != nil {
				return err
			}
		}
		return db.View(func(tx *bbolt.Tx) (err error) {
			e.used.Store(inUse(tx) + number(tx.Bucket(bucketIndex).Get(keyFiles)) + e.young.grown)
			e.needless, err = e.checkKeys(tx)
			return err
		})
	case found != "":
		return fmt.Errorf("it has the format %q, which a newer version has made; use that version, or another folder", found)
	}
	if err := e.mayMake(); err != nil {
		return err
	}
	e.checked, e.needless = map[string]bool{}, nil
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMessages, bucketContents, bucketIndex, bucketLanes, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte(format))
	})
}

// makeFolder makes a folder and what is missing above it, durably.
func makeFolder(folder string) error {
	if info, err := os.Stat(folder); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(folder)
	if parent != folder {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

// syncFolder makes durable which files there are in a folder.
func syncFolder(folder string) error {
	if runtime.GOOS == "windows" { // it cannot, and need not for files of NTFS
		return nil
	}
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
