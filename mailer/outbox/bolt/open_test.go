package bolt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestOpenInUse: a second engine says what is the matter, and does no harm.
func TestOpenInUse(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	_, err := Open(b.folder, Options{Sealer: sealer(), LockTimeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), b.folder) {
		t.Errorf("a second engine: %v", err)
	}
	b.accept("lab", small)
	b.reopen() // nothing holds the file
}

// TestOpenRefuses: what is not ours, or newer, is left as it is.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		write func(*bbolt.Tx) error
		want  string
	}{
		"newer": {func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(bucketMeta)
			if err != nil {
				return err
			}
			return b.Put(keyFormat, []byte("2"))
		}, `format "2"`},
		"of another program": {func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("other"))
			return err
		}, "another program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			file := filepath.Join(folder, databaseFile)
			db, err := bbolt.Open(file, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(tt.write), db.Close()); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(file)
			if _, err := Open(folder, Options{Sealer: sealer()}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("open: %v", err)
			}
			if after, _ := os.ReadFile(file); len(before) == 0 || !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("no database", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		file := filepath.Join(folder, databaseFile)
		if err := os.WriteFile(file, bytes.Repeat([]byte("rubbish "), 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(folder, Options{Sealer: sealer()}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("open: %v", err)
		}
	})
}

// TestCapacity: above MaxBytes nothing is accepted, deliveries go on, and make room.
func TestCapacity(t *testing.T) {
	t.Parallel()
	for name, octets := range map[string]string{"small": strings.Repeat(small, 8), "large": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const most = 2 << 20
			b := newBench(t, Options{MaxBytes: most})
			n := 0
			for {
				m, c := letter("lab", octets)
				err := b.e.Accept(t.Context(), m, c)
				if errors.Is(err, outbox.ErrFull) {
					break
				}
				if n++; err != nil || n > 1000 {
					t.Fatalf("%d: %v", n, err)
				}
			}
			s, err := b.e.Stats(t.Context())
			if err != nil || s.MaxBytes != most || s.Bytes > most+most/20 || s.Bytes < most*3/4 {
				t.Errorf("%d of %d octets after %d messages, %v", s.Bytes, s.MaxBytes, n, err)
			}
			b.run(handler{window: 8})
			b.until("all are sent", func() bool {
				s, err := b.e.Stats(t.Context())
				return err == nil && s.Tenants["lab"].Messages[outbox.StateSent] == n
			})
			b.accept("lab", octets)
			b.close()
			check(t, b.folder)
			b.open(Options{})
		})
	}
}

// TestContentFile: a file is removed with its message, and what was done to it is
// noticed.
func TestContentFile(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	octets := strings.Repeat("0123456789abcdef", 5*chunkSize/16) + "end"
	m := b.accept("lab", octets)
	file := b.e.contentFile(m.ID)
	c, err := b.e.Content(t.Context(), m.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(c); err != nil || got != octets {
		t.Fatalf("%d octets, %v", len(got), err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	chunk := 4 + chunkSize + 28
	swapped := bytes.Clone(good)
	copy(swapped[:chunk], good[chunk:2*chunk])
	copy(swapped[chunk:], good[:chunk])
	flipped := bytes.Clone(good)
	flipped[chunk+100] ^= 1
	for name, bad := range map[string][]byte{
		"cut off": good[:3*chunk], "cut in a chunk": good[:2*chunk-5], "swapped": swapped, "flipped": flipped, "empty": nil,
		"long": append([]byte{0xff, 0xff, 0xff, 0xff}, good...),
	} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(c); err == nil {
			t.Errorf("%s: %d octets without an error", name, len(got))
		}
	}
	if err := os.WriteFile(file, good[:3*chunk], 0o600); err != nil {
		t.Fatal(err)
	}
	short, err := b.e.source(m.ID, &header{kept: keptInFile, size: 3 * chunkSize}, nil) // the header is not sealed
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(m.Content(short)); err == nil {
		t.Errorf("cut off, and the record tells so: %d octets without an error", len(got))
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.e.Drop(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	b.until("the file is gone", func() bool { _, err := os.Stat(file); return os.IsNotExist(err) })
}

// TestOrphans: only old files that no record tells of are removed.
func TestOrphans(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	kept := b.accept("lab", large)
	inline := b.accept("lab", small)
	old := time.Now().Add(-2 * time.Hour)
	for name, age := range map[string]time.Time{"old": old, "young": time.Now(), inline.ID: old} {
		file := b.e.contentFile(name)
		if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), os.Chtimes(file, age, age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(b.e.contentFile(kept.ID), old, old); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	for name, want := range map[string]bool{"old": false, "young": true, inline.ID: false, kept.ID: true} {
		if _, err := os.Stat(b.e.contentFile(name)); (err == nil) != want {
			t.Errorf("%s: is there: %v", name, err == nil)
		}
	}
}

// TestFolderFlush: the folder is flushed before the record tells of a file in it; a
// small message makes no file and needs no such flush.
func TestFolderFlush(t *testing.T) {
	t.Parallel()
	var flushed []string
	synced := 0
	p := &plug{}
	folder := t.TempDir()
	e, err := open(folder, Options{Sealer: sealer()}, func(e *Engine) {
		e.commit = p.commit
		e.syncFile = func(f *os.File) error {
			if len(flushed) > 0 {
				t.Error("the folder was flushed before the file")
			}
			synced++
			return f.Sync()
		}
		e.syncFolder = func(f string) error {
			flushed = append(flushed, filepath.Base(f))
			return syncFolder(f)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if strings.Join(flushed, " ") != filepath.Base(folder) {
		t.Errorf("flushed for a new database: %q", flushed)
	}
	flushed, synced = nil, 0
	m, c := letter("lab", small)
	if err := e.Accept(t.Context(), m, c); err != nil || flushed != nil {
		t.Errorf("for a small message: %q, %v", flushed, err)
	}
	p.set(func() {
		p.fail = func() error {
			if strings.Join(flushed, " ") != contentsFolder || synced != 1 {
				t.Errorf("flushed before the record: %q, and %d files", flushed, synced)
			}
			return nil
		}
	})
	m, c = letter("lab", large)
	if err := e.Accept(t.Context(), m, c); err != nil {
		t.Error(err)
	}
	flushed = nil
	e.syncFolder = func(string) error { return errIO }
	m, c = letter("lab", large)
	if err := e.Accept(t.Context(), m, c); !errors.Is(err, errIO) {
		t.Errorf("where the folder cannot be flushed: %v", err)
	}
	if _, err := os.Stat(e.contentFile(m.ID)); err == nil {
		t.Error("its file is left")
	}
	p.set(func() { p.fail = nil })
}

// TestClose: nothing is left of an engine, and what it is asked then it refuses.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	b := newBench(t, Options{})
	b.run(handler{window: 3, deliver: func(ctx context.Context, _ *outbox.Message, _ mailer.Content) outbox.Outcome {
		<-ctx.Done()
		return outbox.Outcome{}
	}})
	for range 10 {
		b.accept("lab", small)
	}
	m := b.accept("other", large)
	b.close()
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	_, getErr := b.e.Get(t.Context(), m.ID)
	other, c := letter("lab", small)
	for name, err := range map[string]error{
		"get": getErr, "accept": b.e.Accept(t.Context(), other, c), "drop": b.e.Drop(t.Context(), m.ID), "again": b.e.Run(t.Context(), handler{}),
	} {
		if !errors.Is(err, errClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.e.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	check(t, b.folder)
	b.open(Options{})
}

// TestIdleLanes: a tenant with nothing to do takes no memory.
func TestIdleLanes(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	b.run(handler{})
	for i := range 20 {
		b.untilState(b.accept(string(rune('a'+i)), small).ID, outbox.StateSent)
	}
	b.close()
	if n := len(b.e.lanes.byTenant); n != 0 {
		t.Errorf("%d lanes are in memory", n)
	}
	b.open(Options{})
}

// TestFreeList: a list of free pages is written unless it is long, and the database is
// sound with and without it.
func TestFreeList(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	b.close()
	p := &plug{}
	var err error
	b.e, err = open(b.folder, Options{Sealer: sealer()}, func(e *Engine) {
		e.commit, e.maxFreeList, e.unjournaled = p.commit, 10, true
	})
	if err != nil {
		t.Fatal(err)
	}
	b.plug = p
	var all []*outbox.Message
	written := map[bool]int{}
	p.set(func() {
		p.fail = func() error {
			written[!b.e.db.NoFreelistSync]++
			return nil
		}
	})
	for range 20 {
		all = append(all, b.accept("lab", strings.Repeat(small, 8)))
	}
	for _, m := range all[1:] {
		if err := b.e.Drop(t.Context(), m.ID); err != nil {
			t.Fatal(err)
		}
	}
	b.close()
	if written[true] == 0 || written[false] == 0 {
		t.Errorf("the list was written with %d commits, and not with %d", written[true], written[false])
	}
	check(t, b.folder)
	b.open(Options{})
	b.get(all[0].ID)
	b.accept("lab", small)
	b.close()
	check(t, b.folder)
	b.open(Options{})
}
