package bolt

import (
	"os"
	"path/filepath"
	"testing"
)

// TestExists: a fresh file system has a folder of its own in it, and is no outbox.
func TestExists(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if Exists(folder) || Exists(filepath.Join(folder, "none")) {
		t.Error("an empty folder is an outbox")
	}
	if err := os.Mkdir(filepath.Join(folder, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if Exists(folder) {
		t.Error("a mount point is an outbox")
	}
	if err := os.WriteFile(filepath.Join(folder, databaseFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !Exists(folder) {
		t.Error("an outbox is none")
	}
}
