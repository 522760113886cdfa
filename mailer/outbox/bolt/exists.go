package bolt

import (
	"os"
	"path/filepath"
)

// Exists reports whether the folder holds an outbox, whoever may open it.
func Exists(folder string) bool {
	_, err := os.Lstat(filepath.Join(folder, databaseFile))
	return err == nil
}
