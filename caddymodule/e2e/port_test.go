//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// reservePort returns a port on loopback that is free, and stays this test's
// until it ends, also while nothing listens there: servers are stopped and
// started again. Ports lie below those that the system hands out by itself, and
// a locked file keeps other runs of the suite away.
func reservePort(t testing.TB) int {
	t.Helper()
	dir := filepath.Join(os.TempDir(), "e2e-ports")
	if err := os.MkdirAll(dir, 0o755); err != nil { // shared by all runs
		t.Fatal(err)
	}
	for range 1000 {
		port := 20000 + rand.N(10000)
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(port)), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			f.Close()
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			f.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { f.Close() })
		return port
	}
	t.Fatal("there is no free port")
	return 0
}
