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
	bolterrors "go.etcd.io/bbolt/errors"

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
	e.reserved = e.makeReserve() == nil
	go e.commits()
	if err := e.do(&op{apply: (*batch).check}); err != nil {
		e.log().Warn("the outbox could not note the key that it seals with", "error", err)
	}
	return e, nil
}

// openDatabase opens the file, or makes it, and looks whether it can be used.
func (e *Engine) openDatabase(make bool) error {
	file := filepath.Join(e.folder, databaseFile)
	_, err := os.Stat(file)
	isNew := errors.Is(err, fs.ErrNotExist)
	if isNew && !make { // its disk is not mounted, say
		return fmt.Errorf("opening the outbox: %w", err)
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{
		Timeout: e.options.LockTimeout, FreelistType: bbolt.FreelistMapType,
		NoFreelistSync: true, // else it may write
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("the outbox in %s is in use by another process, and still was after %v; end that one, or give each a folder of its own", e.folder, e.options.LockTimeout)
	case err != nil:
		return fmt.Errorf("opening the outbox %s: %w; if it is damaged, move it away and restore it", file, err)
	}
	if err = e.prepare(db); err == nil && isNew {
		err = e.syncFolder(e.folder)
	}
	if err != nil {
		_ = db.Close()
		return fmt.Errorf("opening the outbox %s: %w", file, err)
	}
	e.mu.Lock()
	e.db = db
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
			return e.checkKey(b.Get(keyCheck))
		}
		if k, _ := tx.Cursor().First(); k != nil {
			return errors.New("this is the database of another program; give the outbox a folder of its own")
		}
		return nil
	})
	switch {
	case err != nil || found == format:
		return err
	case found != "":
		return fmt.Errorf("it has the format %q, which a newer version has made; use that version, or another folder", found)
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMessages, bucketContents, bucketIndex, bucketLanes, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte(format))
	})
}

// checkKey tells whether the sealer has the key that the outbox was sealed with when
// it was opened last.
func (e *Engine) checkKey(sealed []byte) error {
	if sealed == nil {
		return nil
	}
	if _, err := e.options.Sealer.Open(checkName, sealed); err != nil {
		return fmt.Errorf("the key that it was sealed with is missing: %w; bring that key back, as a further encryption_key, or move the folder of the outbox away and lose the messages in it", err)
	}
	return nil
}

// check stores what tells the next time whether the key is the same. All that is
// sealed until then is sealed with this key, or with one before it.
func (b *batch) check() error {
	sealed, err := b.e.options.Sealer.Seal(checkName, []byte(checkName))
	if err != nil {
		return err
	}
	b.set(b.meta, keyCheck, sealed)
	return nil
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
