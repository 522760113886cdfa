package bolt

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// logged keeps what is logged.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) count(s string) int { return strings.Count(l.String(), s) }

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// TestNoDatabase: contents without a database are left alone; without contents a
// database is made.
func TestNoDatabase(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(string) error{
		"missing": os.Remove,
		"empty":   func(file string) error { return os.Truncate(file, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			m := b.accept("lab", large)
			b.close()
			content := b.e.contentFile(m.ID)
			old := time.Now().Add(-2 * orphanAge)
			if err := errors.Join(spoil(filepath.Join(b.folder, databaseFile)), os.Chtimes(content, old, old)); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, b.folder)
			e, err := Open(b.folder, Options{Sealer: sealer()})
			if err == nil {
				_ = e.Close()
			}
			if !errors.Is(err, errNoDatabase) || !strings.Contains(err.Error(), b.folder) {
				t.Errorf("open: %v", err)
			}
			after := snapshot(t, b.folder)
			for path := range before {
				if before[path] != after[path] {
					t.Errorf("%s was changed", path)
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d files, %d before", len(after), len(before))
			}
			if err := os.Remove(content); err != nil {
				t.Fatal(err)
			}
			b.open(Options{})
			b.accept("lab", small)
		})
	}
}
