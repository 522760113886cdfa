package bolt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// errNoDatabase: the folder has contents of messages, and nothing tells of them.
var errNoDatabase = errors.New("it is missing or empty, and there are contents of messages beside it; restore it, or move the folder of the outbox away and lose the messages in it")

// mayMake reports why no database is made in the folder.
func (e *Engine) mayMake() error {
	f, err := os.Open(filepath.Join(e.folder, contentsFolder))
	if err != nil {
		return err
	}
	defer f.Close()
	switch _, err := f.Readdirnames(1); {
	case err == nil:
		return errNoDatabase
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// watch looks whether the open database still lies in its folder: what is stored in one
// that was removed, or hidden by another disk, is gone with the process.
func (e *Engine) watch() error {
	info, err := os.Stat(filepath.Join(e.folder, databaseFile))
	switch {
	case err != nil:
	case !os.SameFile(info, e.info):
		err = errors.New("another file lies in its place")
	case info.Size() < e.size:
		err = &damageError{fmt.Sprintf("it has %d octets of %d", info.Size(), e.size)}
		e.breaks(err)
		return err
	}
	switch {
	case err == nil && e.astray:
		e.log().Info("the database of the outbox is back in its place: messages are accepted again", "folder", e.folder)
	case err != nil && !e.astray:
		e.log().Error("the database of the outbox was removed or replaced while it was open: no message is accepted; put it back, or restart", "folder", e.folder, "error", err)
	}
	if e.astray = err != nil; e.astray {
		return fmt.Errorf("the database of the outbox is no longer in its folder, which the operator must put back: %w", err)
	}
	return nil
}
