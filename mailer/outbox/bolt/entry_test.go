package bolt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestLargeEntry: what no journal has room for is stored all the same, and what comes
// before and behind it, too.
func TestLargeEntry(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{MaxBytes: 1 << 20}) // journals of an eighth
	huge := strings.Repeat(small, (200<<10)/len(small))
	var all []*outbox.Message
	for range 2 {
		for _, octets := range []string{small, huge, small, small} {
			all = append(all, b.accept("lab", octets))
			opens(t, b.crashed(), all, nil)
		}
	}
	for _, name := range journalFiles {
		if info, err := os.Stat(filepath.Join(b.folder, name)); err != nil || info.Size() != 1<<17 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestRefusedEntry: behind an entry that may be in the journal though it was refused comes
// no other.
func TestRefusedEntry(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{"full": syscall.ENOSPC, "bad": errIO} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			all := []*outbox.Message{b.accept("lab", small), b.accept("lab", small)}
			b.plug.set(func() { b.plug.late = failure })
			refused, c := letter("lab", small)
			if err := b.e.Accept(t.Context(), refused, c); !errors.Is(err, failure) {
				t.Errorf("accept: %v", err)
			}
			b.plug.set(func() { b.plug.late = nil })
			b.drop(all[1].ID)
			opens(t, b.crashed(), all[:1], []*outbox.Message{all[1], refused})
		})
	}
}
