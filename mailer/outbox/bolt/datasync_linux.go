package bolt

import (
	"fmt"
	"os"
	"syscall"
)

// syncData makes durable what was written to a file whose size has not changed.
func syncData(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			if err != nil {
				return fmt.Errorf("fdatasync %s: %w", f.Name(), err)
			}
			return nil
		}
	}
}
