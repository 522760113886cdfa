//go:build !linux

package bolt

import "os"

// syncData makes durable what was written to a file whose size has not changed.
func syncData(f *os.File) error { return f.Sync() }
