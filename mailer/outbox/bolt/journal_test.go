package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// crashed returns a copy of the folder as a crash would leave it.
func (b *bench) crashed() string {
	b.Helper()
	to := filepath.Join(b.TempDir(), "copy")
	copyFolder(b, b.folder, to)
	return to
}

// found is a journal in a folder.
type found struct {
	name    string
	salt    salt
	octets  []byte   // of the file
	entries [][]byte // that count
}

func (f *found) size() int { return len(bytes.Join(f.entries, nil)) + len(f.entries)*entryHeader }

// journalsOf reads the journals of a folder that count, the oldest first.
func journalsOf(t testing.TB, folder string) (all []found) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(folder, databaseFile), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var s salt
	_ = db.View(func(tx *bbolt.Tx) error {
		copy(s[:], tx.Bucket(bucketMeta).Get(keyJournal))
		return nil
	})
	for range journalFiles {
		f := found{salt: s}
		for _, name := range journalFiles {
			octets, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			for changes := range s.entries(octets) {
				f.name, f.octets, f.entries = name, octets, append(f.entries, changes)
			}
		}
		if f.entries == nil {
			break
		}
		all = append(all, f)
		s = s.following(f.size())
	}
	return all
}

// behind counts the entries of journals that count.
func (b *bench) behind() (n int) {
	b.Helper()
	for _, f := range journalsOf(b, b.crashed()) {
		n += len(f.entries)
	}
	return n
}

// TestJournal: what the journal alone has is there after a crash, up to an entry that is
// not whole.
func TestJournal(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	var all []*outbox.Message
	for i := range 5 {
		all = append(all, b.accept(fmt.Sprint("tenant ", i), fmt.Sprint(i, small)))
	}
	if err := b.e.Drop(t.Context(), all[0].ID); err != nil {
		t.Fatal(err)
	}
	whole := b.crashed()
	journals := journalsOf(t, whole)
	if len(journals) != 1 || len(journals[0].entries) != 6 {
		t.Fatalf("the journals have %v", journals)
	}
	octets, entries := journals[0].octets, journals[0].entries
	drop := len(entries[5])
	accepts := len(bytes.Join(entries[:5], nil)) + 5*entryHeader
	for name, tt := range map[string]struct {
		change func([]byte) []byte
		want   []int // of all
	}{
		"whole":               {func(j []byte) []byte { return j }, []int{1, 2, 3, 4}},
		"the drop is cut off": {func(j []byte) []byte { return j[:accepts+entryHeader+drop-1] }, []int{0, 1, 2, 3, 4}},
		"its header is":       {func(j []byte) []byte { return j[:accepts+3] }, []int{0, 1, 2, 3, 4}},
		"an octet of it":      {func(j []byte) []byte { j[accepts+entryHeader+drop/2]++; return j }, []int{0, 1, 2, 3, 4}},
		"its length":          {func(j []byte) []byte { j[accepts+saltSize]++; return j }, []int{0, 1, 2, 3, 4}},
		"its salt":            {func(j []byte) []byte { j[accepts]++; return j }, []int{0, 1, 2, 3, 4}},
		"an octet of the one before": {
			func(j []byte) []byte { j[accepts-1]++; return j }, []int{0, 1, 2, 3},
		},
		"nothing": {func([]byte) []byte { return nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "copy")
			copyFolder(t, whole, folder)
			if err := os.WriteFile(filepath.Join(folder, journals[0].name), tt.change(bytes.Clone(octets)), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // what was taken over once does not come again
				e, err := Open(folder, Options{Sealer: sealer()})
				if err != nil {
					t.Fatal(err)
				}
				var got []int
				for i, m := range all {
					if _, err := e.Get(t.Context(), m.ID); err == nil {
						got = append(got, i)
					} else if !errors.Is(err, outbox.ErrNotFound) {
						t.Error(err)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("there are %v, want %v", got, tt.want)
				}
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				check(t, folder)
			}
		})
	}
}

// TestJournalMissing: after a crash the journals are needed, after a stop they are not.
func TestJournalMissing(t *testing.T) {
	t.Parallel()
	for _, name := range journalFiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			b.accept("lab", small)
			m := b.accept("lab", small)
			crashed := b.crashed()
			if err := os.Remove(filepath.Join(crashed, name)); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(crashed, Options{Sealer: sealer()}); err == nil || !strings.Contains(err.Error(), "a journal of it is missing") {
				t.Errorf("after a crash: %v", err)
			}
			b.close()
			if err := os.Remove(filepath.Join(b.folder, name)); err != nil {
				t.Fatal(err)
			}
			b.open(Options{})
			b.get(m.ID)
			b.accept("lab", small)
			if _, err := os.Stat(filepath.Join(b.folder, name)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForeignJournal: changes that nobody understands are not passed over.
func TestForeignJournal(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string]string{
		"bucket":        "z\x01k\x01v",
		"key cut off":   "m\x05k",
		"value cut off": "m\x01k\x05v",
		"no value":      "m\x01k",
		"no length":     "m\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			b.accept("lab", small)
			b.accept("lab", small)
			folder := b.crashed()
			f := journalsOf(t, folder)[0]
			j := journals{limit: journalSize, salt: f.salt, size: f.size()}
			var err error
			if j.files[0], err = os.OpenFile(filepath.Join(folder, f.name), os.O_RDWR, 0); err != nil {
				t.Fatal(err)
			}
			if err := j.add(append(make([]byte, entryHeader), changes...), syncData); err != nil {
				t.Fatal(err)
			}
			j.close()
			if _, err := Open(folder, Options{Sealer: sealer()}); !errors.Is(err, errJournal) {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

// TestMerge: what is in the journals comes to the database when somebody reads, when
// there is no room in a journal, after a while, and when the outbox is closed.
func TestMerge(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{MaxBytes: 8 << 20})
	m := b.accept("lab", small)
	if n := b.behind(); n != 1 {
		t.Errorf("%d entries", n)
	}
	b.get(m.ID)
	if n := b.behind(); n != 0 {
		t.Errorf("%d entries after a look", n)
	}
	most := 0
	for range 60 {
		b.accept("lab", strings.Repeat(small, 20))
		most = max(most, b.behind())
	}
	if n := b.behind(); n == 60 || most < 5 {
		t.Errorf("%d entries, %d at most", n, most)
	}
	b.accept("lab", small)
	b.until("a while has passed", func() bool { return b.behind() == 0 })
	b.accept("lab", small)
	b.close()
	if n := b.behind(); n != 0 {
		t.Errorf("%d entries when it is closed", n)
	}
	b.open(Options{})
}

// TestReadFull: what the journal alone has can be read where there is no space to merge
// it, and is not tried without a pause.
func TestReadFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		m := b.accept("lab", small)
		tries := 0
		b.plug.set(func() { b.plug.fail = func() error { tries++; return syscall.ENOSPC } })
		if got := b.get(m.ID); got.State != outbox.StateQueued {
			t.Error(got.State)
		}
		if page, err := b.e.List(t.Context(), outbox.Filter{}); err != nil || len(page.Messages) != 1 {
			t.Errorf("list: %d, %v", len(page.Messages), err)
		}
		if stats, err := b.e.Stats(t.Context()); err != nil || stats.Tenants["lab"].Messages[outbox.StateQueued] != 1 {
			t.Errorf("stats: %v, %v", stats, err)
		}
		if c, err := b.e.Content(t.Context(), m.ID); err != nil {
			t.Error(err)
		} else if got, err := readAll(c); err != nil || got != small {
			t.Errorf("content: %.20q, %v", got, err)
		}
		b.plug.set(func() { tries = 0 })
		time.Sleep(time.Minute)
		b.plug.set(func() {
			if tries < 30 || tries > 180 { // two at once, the second without the reserve
				t.Errorf("%d tries in a minute", tries)
			}
			b.plug.fail = nil
		})
		time.Sleep(2 * calmTime)
		b.get(m.ID)
		if b.e.behind.Load() {
			t.Error("it is in the journal alone")
		}
	})
}

// TestRepeat: a message that is accepted again is found in the journal, at once.
func TestRepeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, begin := newBench(t, Options{}), time.Now()
		b.accept("lab", small)
		for range 2 {
			m, c := letter("lab", small)
			m.Idempotency = []byte("digest")
			err := b.e.Accept(t.Context(), m, c)
			if d, again := errors.AsType[*outbox.DuplicateError](err); again != (err != nil) || again && d.Prior.ID == m.ID {
				t.Error(err)
			}
		}
		if past := time.Since(begin); past != 0 {
			t.Errorf("it took %v", past)
		}
	})
}

// TestFaults: whatever fails and however often, what was acknowledged is there in the
// end, and the index is sound.
func TestFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { faults(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func faults(t *testing.T, r *rand.Rand) {
	b := newBench(t, Options{MaxBytes: 2 << 20}) // the journals take turns often
	b.plug.set(func() {
		b.plug.fail = func() error { // asked under the lock of the plug
			b.plug.late = nil
			switch n := r.IntN(100); {
			case n < 5:
				return errIO
			case n < 8:
				return syscall.ENOSPC
			case n < 15:
				b.plug.late = errIO
			}
			return nil
		}
	})
	var mu sync.Mutex
	kept, dropped := map[string]string{}, map[string]bool{}
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := range 60 {
				octets := fmt.Sprint(w, i, small)
				m, c := letter(fmt.Sprint("tenant ", w%2), octets)
				if b.e.Accept(t.Context(), m, c) != nil {
					time.Sleep(calmTime)
					continue
				}
				if i%7 == 0 {
					_, _ = b.e.Get(t.Context(), m.ID)
				}
				gone := i%3 == 0 && b.e.Drop(t.Context(), m.ID) == nil
				mu.Lock()
				if gone {
					dropped[m.ID] = true
				} else if i%3 != 0 { // else nobody knows
					kept[m.ID] = octets
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	b.plug.set(func() { b.plug.fail, b.plug.late = nil, nil })
	time.Sleep(2 * calmTime)
	b.accept("last", small)
	b.reopen()
	if len(kept) < 60 || len(dropped) < 30 {
		t.Fatalf("only %d accepted and %d dropped", len(kept), len(dropped))
	}
	for id, octets := range kept {
		c, err := b.e.Content(t.Context(), id)
		if err != nil {
			t.Fatalf("lost: %v", err)
		}
		if got, err := readAll(c); err != nil || got != octets {
			t.Errorf("content: %.20q, %v", got, err)
		}
	}
	for id := range dropped {
		if _, err := b.e.Get(t.Context(), id); !errors.Is(err, outbox.ErrNotFound) {
			t.Errorf("dropped, and there: %v", err)
		}
	}
	b.close()
	check(t, b.folder)
	b.open(Options{})
}

// TestNoJournal: where there can be no journal, there is an outbox all the same.
func TestNoJournal(t *testing.T) {
	t.Parallel()
	for _, name := range journalFiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			b.close()
			name := filepath.Join(b.folder, name)
			if err := errors.Join(os.Remove(name), os.Mkdir(name, 0o700)); err != nil {
				t.Fatal(err)
			}
			b.open(Options{})
			m := b.accept("lab", small)
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
			e, err := Open(b.crashed(), Options{Sealer: sealer()})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if _, err := e.Get(t.Context(), m.ID); err != nil {
				t.Error(err)
			}
		})
	}
}
