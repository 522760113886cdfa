package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// durable returns a storage whose Store is durable when it returns. Caddy's
// file storage writes and renames but leaves the directory to the operating
// system: a power cut soon after could bring back the old refresh token, which
// the provider may have ended.
func durable(s certmagic.Storage) tokens.Storage {
	if files, ok := s.(*certmagic.FileStorage); ok {
		return durableFiles{files}
	}
	return s
}

type durableFiles struct{ *certmagic.FileStorage }

func (d durableFiles) Store(ctx context.Context, key string, value []byte) error {
	file := d.Filename(key)
	// New folders must be on the disk, too; note them before they are made.
	fresh := missingFolders(filepath.Dir(file))
	if err := d.FileStorage.Store(ctx, key, value); err != nil {
		return err
	}
	for _, dir := range append(fresh, filepath.Dir(file)) {
		if err := syncFolder(dir); err != nil {
			return fmt.Errorf("flushing %s: %w", dir, err)
		}
	}
	return nil
}

// Delete leaves no record to a power cut either: a disconnected account stays
// disconnected.
func (d durableFiles) Delete(ctx context.Context, key string) error {
	if err := d.FileStorage.Delete(ctx, key); err != nil {
		return err
	}
	dir := filepath.Dir(d.Filename(key))
	if err := syncFolder(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("flushing %s: %w", dir, err)
	}
	return nil
}

// missingFolders returns the folders whose entries change when dir is made: the
// parents of all that do not exist.
func missingFolders(dir string) []string {
	var parents []string
	for {
		if _, err := os.Stat(dir); err == nil {
			return parents
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return parents
		}
		parents = append(parents, parent)
		dir = parent
	}
}

// syncFolder brings a folder's entries to the disk, as far as its file system
// can: Windows cannot, and some network file systems refuse.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
