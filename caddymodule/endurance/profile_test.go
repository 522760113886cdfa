//go:build endurance

package endurance

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var profiles = flag.String("profiles", "", "a folder for profiles of Caddy under load, which the benchmarks write when they are done")

// profile writes what Caddy does while work is done again and again: its processor
// profile, and what it has allocated.
func (c *Caddy) profile(b *testing.B, name string, work func()) {
	b.Helper()
	if *profiles == "" {
		return
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for _, of := range []string{"profile?seconds=10", "allocs"} {
			kind, _, _ := strings.Cut(of, "?")
			if err := os.WriteFile(filepath.Join(*profiles, name+"."+kind), c.Get("/debug/pprof/"+of), 0o600); err != nil {
				b.Error(err)
			}
		}
	}()
	for {
		select {
		case <-written:
			return
		default:
			work()
		}
	}
}
