package bolt

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	bbolt "go.etcd.io/bbolt"
)

// sweepOrphans removes files that no record tells of, such as those of accepts that
// a crash cut off.
func (e *Engine) sweepOrphans() error {
	folder := filepath.Join(e.folder, contentsFolder)
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(256)
		for _, entry := range entries {
			info, err := entry.Info()
			if err != nil || time.Since(info.ModTime()) < orphanAge || e.tells(entry.Name()) {
				continue
			}
			if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil {
				e.log().Warn("a left-over file could not be removed", "file", entry.Name(), "error", err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// tells reports whether a record tells of a file. What cannot be read may.
func (e *Engine) tells(id string) (yes bool) {
	err := e.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMessages).Get([]byte(id))
		if v == nil {
			return nil
		}
		h, _, err := parse(v)
		yes = h.kept == keptInFile
		return err
	})
	return yes || err != nil
}
