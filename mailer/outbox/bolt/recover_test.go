package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// opens opens a folder as it is after a crash, twice, and looks whether the messages that
// are in it are these.
func opens(t *testing.T, folder string, want, not []*outbox.Message) {
	t.Helper()
	for range 2 { // what was taken over once does not come again
		e, err := Open(folder, Options{Sealer: sealer()})
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range want {
			if _, err := e.Content(t.Context(), m.ID); err != nil {
				t.Errorf("message %d of %d: %v", i, len(want), err)
			}
		}
		for i, m := range not {
			if _, err := e.Get(t.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
				t.Errorf("message %d of %d that should not be there: %v", i, len(not), err)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		check(t, folder)
	}
}

// TestCrashWhileMerging: at whatever point of a merge a crash comes, and with how many
// entries in either journal, all is there afterwards that was acknowledged.
func TestCrashWhileMerging(t *testing.T) {
	t.Parallel()
	for _, later := range []int{0, 1, 5} {
		t.Run(fmt.Sprint(later), func(t *testing.T) {
			t.Parallel()
			b, s := stalled(t, Options{})
			var old, young []*outbox.Message
			for range 3 {
				old = append(old, b.accept("lab", small))
			}
			gone := b.accept("lab", small)
			read := b.look(old[0].ID)
			<-s.begun
			for range later {
				young = append(young, b.accept("lab", small))
			}
			if later > 0 {
				b.drop(gone.ID) // of the old journal, by the young one
			}
			all := append(old, young...)
			var copies []string
			inCopies := func(p *plug) { // each in the state of the moment
				p.fail = func() error { copies = append(copies, b.crashed()); return nil }
				p.late = nil
			}
			copies = append(copies, b.crashed()) // before the merge
			if n := len(journalsOf(t, copies[0])); n != min(2, 1+later) {
				t.Fatalf("%d journals count", n)
			}
			b.plug.set(func() { inCopies(b.plug) }) // before it is committed
			close(s.ended)
			if err := <-read; err != nil {
				t.Error(err)
			}
			b.plug.set(func() { b.plug.fail = nil })
			copies = append(copies, b.crashed()) // behind it
			for _, folder := range copies {
				if later == 0 {
					opens(t, folder, append(all, gone), nil)
				} else {
					opens(t, folder, all, []*outbox.Message{gone})
				}
			}
			if len(copies) < 3 {
				t.Errorf("only %d copies", len(copies))
			}
			b.set(func() { b.e.beforeMerge = func() {} })
		})
	}
}

// TestTornOlder: where the older journal has lost its end, the younger one does not come on
// top of the gap.
func TestTornOlder(t *testing.T) {
	t.Parallel()
	b, s := stalled(t, Options{})
	all := []*outbox.Message{b.accept("lab", small), b.accept("lab", small)}
	read := b.look(all[0].ID)
	<-s.begun
	all = append(all, b.accept("lab", small), b.accept("lab", small))
	whole := b.crashed()
	close(s.ended)
	if err := <-read; err != nil {
		t.Error(err)
	}
	b.set(func() { b.e.beforeMerge = func() {} })
	both := journalsOf(t, whole)
	if len(both) != 2 || len(both[0].entries) != 2 || len(both[1].entries) != 2 {
		t.Fatalf("the journals have %v", both)
	}
	end := both[0].size()
	first := entryHeader + len(both[0].entries[0])
	for name, tt := range map[string]struct {
		of     int
		change func([]byte)
		there  int // of all
	}{
		"nothing":                  {0, func([]byte) {}, 4},
		"the end of the older":     {0, func(j []byte) { j[end-1]++ }, 1},
		"its last entry":           {0, func(j []byte) { clear(j[first:]) }, 1},
		"its beginning":            {0, func(j []byte) { j[0]++ }, 0},
		"the end of the younger":   {1, func(j []byte) { j[both[1].size()-1]++ }, 3},
		"the younger":              {1, func(j []byte) { clear(j) }, 2},
		"rubbish behind the older": {0, func(j []byte) { copy(j[end:], "rubbish") }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "copy")
			copyFolder(t, whole, folder)
			f := both[tt.of]
			octets := append([]byte(nil), f.octets...)
			tt.change(octets)
			if err := os.WriteFile(filepath.Join(folder, f.name), octets, 0o600); err != nil {
				t.Fatal(err)
			}
			opens(t, folder, all[:tt.there], all[tt.there:])
		})
	}
}

// TestOneJournal: what a version left that had one journal is taken over, and not again.
func TestOneJournal(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	b.accept("lab", small)
	b.get(b.accept("lab", small).ID)
	var all []*outbox.Message
	for range 3 {
		all = append(all, b.accept("lab", small))
	}
	for name, also := range map[string]bool{"alone": false, "beside others": true} {
		t.Run(name, func(t *testing.T) {
			folder := b.crashed()
			f := journalsOf(t, folder)[0]
			if err := os.Rename(filepath.Join(folder, f.name), filepath.Join(folder, oneJournal)); err != nil {
				t.Fatal(err)
			}
			for _, name := range journalFiles {
				_ = os.Remove(filepath.Join(folder, name))
				if also { // of a newer version that was in use before
					if err := os.WriteFile(filepath.Join(folder, name), make([]byte, journalSize), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			opens(t, folder, all, nil)
			if _, err := os.Stat(filepath.Join(folder, oneJournal)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}
