package mailer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// spoolText puts n octets into s in uneven pieces.
func spoolText(t *testing.T, s *Spool, n int) (*spooled, string, error) {
	t.Helper()
	want := strings.Repeat("0123456789abcde\n", n/16+1)[:n]
	text := &spooled{spool: s}
	t.Cleanup(func() { _ = text.Close() })
	for rest := want; rest != ""; {
		piece := rest[:min(len(rest), 1+len(rest)/3)]
		if m, err := text.Write([]byte(piece)); err != nil || m != len(piece) {
			return text, want, err
		}
		rest = rest[len(piece):]
	}
	return text, want, text.done()
}

func TestSpool(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, spoolStart, spoolStart + 1, spoolChunk, spoolChunk + 1, spoolMemory, spoolMemory + 1, 5*spoolMemory + 17} {
		for _, s := range []*Spool{nil, {}, {Folder: t.TempDir(), MaxBytes: 5*spoolMemory + 17}} {
			text, want, err := spoolText(t, s, n)
			if err != nil || text.size != int64(n) {
				t.Fatalf("%d octets: size %d, %v", n, text.size, err)
			}
			if s != nil && s.Used() != int64(n) {
				t.Errorf("%d octets: %d are taken", n, s.Used())
			}
			if s != nil && (text.file != nil) != (n > spoolMemory) {
				t.Errorf("%d octets: file %v", n, text.file)
			}
			var all sync.WaitGroup
			for range 4 { // at once
				all.Go(func() {
					var b bytes.Buffer
					if m, err := text.WriteTo(&b); err != nil || m != int64(n) || b.String() != want {
						t.Errorf("%d octets: wrote %d, %v", n, m, err)
					}
				})
			}
			all.Wait()
			for range 2 {
				if err := text.Close(); err != nil {
					t.Errorf("%d octets: %v", n, err)
				}
			}
			if s != nil && (s.Used() != 0 || s.shared.Load() != 0) {
				t.Errorf("%d octets: %d are still taken, %d of them in memory", n, s.Used(), s.shared.Load())
			}
			if _, err := text.WriteTo(io.Discard); !errors.Is(err, os.ErrClosed) || asError(err).Kind != KindTemporary {
				t.Errorf("%d octets: %v after Close", n, err)
			}
		}
	}
}

// TestSpoolLeavesNothing: the file is gone while it is open, or at the latest
// when it is closed, as is the one that a refused message had.
func TestSpoolLeavesNothing(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	text, _, err := spoolText(t, &Spool{Folder: folder}, 2*spoolMemory)
	if err != nil || text.file == nil {
		t.Fatal(text.file, err)
	}
	empty := func(when string) {
		t.Helper()
		if names, err := filepath.Glob(filepath.Join(folder, "*")); err != nil || len(names) > 0 {
			t.Errorf("%s: %v, %v", when, names, err)
		}
	}
	if runtime.GOOS != "windows" {
		empty("while open")
	}
	_ = text.Close()
	empty("closed")
	in := Intake{Spool: &Spool{Folder: folder}}
	if _, _, err := take(t, in, whole+"\r\n"+strings.Repeat("x\r\n", spoolMemory)+"\r"); err == nil || in.Spool.Used() != 0 {
		t.Errorf("%v, %d octets are taken", err, in.Spool.Used())
	}
	empty("refused")
}

// TestSpoolKeptName is how it goes where the system lets no open file be removed.
func TestSpoolKeptName(t *testing.T) {
	t.Parallel()
	text, _, err := spoolText(t, &Spool{Folder: t.TempDir()}, 2*spoolMemory)
	if err != nil {
		t.Fatal(err)
	}
	text.name = text.file.Name()
	if err := os.WriteFile(text.name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := text.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(text.name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}

// TestSpoolBudget: messages share it, the one too many is told to come back, and
// what is given back can be used.
func TestSpoolBudget(t *testing.T) {
	t.Parallel()
	s := &Spool{Folder: t.TempDir(), MaxBytes: 3 * spoolMemory}
	first, _, err := spoolText(t, s, 2*spoolMemory)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{spoolMemory + 1, 2 * spoolMemory, 5 * spoolMemory} {
		text, _, err := spoolText(t, s, n)
		if e := asError(err); err == nil || e.Kind != KindTemporary || e.Code != "spool_full" {
			t.Errorf("%d octets: %v", n, err)
		}
		_ = text.Close()
		if s.Used() != 2*spoolMemory {
			t.Errorf("%d octets: %d are taken", n, s.Used())
		}
	}
	_ = first.Close()
	if _, _, err := spoolText(t, s, 3*spoolMemory); err != nil {
		t.Error(err)
	}
}

// TestSpoolTrouble: a folder that is not there, and a file that is broken.
func TestSpoolTrouble(t *testing.T) {
	t.Parallel()
	_, _, err := spoolText(t, &Spool{Folder: filepath.Join(t.TempDir(), "none")}, spoolMemory+1)
	if e := asError(err); !errors.Is(err, os.ErrNotExist) || e.Kind != KindTemporary || e.Code != "spool_failed" {
		t.Error(err)
	}
	text, _, err := spoolText(t, &Spool{Folder: t.TempDir()}, 3*spoolMemory)
	if err != nil {
		t.Fatal(err)
	}
	if err := text.file.Truncate(spoolChunk); err != nil {
		t.Fatal(err)
	}
	n, err := text.WriteTo(io.Discard)
	if e := asError(err); err == nil || n != spoolMemory || e.Code != "spool_failed" {
		t.Errorf("%d, %v", n, err)
	}
}

// TestSpoolShares: texts that would fill the memory go to files all the sooner.
func TestSpoolShares(t *testing.T) {
	t.Parallel()
	s := &Spool{Folder: t.TempDir()}
	const each = spoolMemory - spoolChunk // what a text has of the memory that is shared
	texts := make([]*spooled, spoolShared/each+1)
	for i := range texts {
		var err error
		if texts[i], _, err = spoolText(t, s, spoolMemory); err != nil {
			t.Fatal(err)
		}
		if first := i < len(texts)-1; (texts[i].file == nil) != first {
			t.Fatalf("text %d of %d: file %v with %d octets in memory", i, len(texts), texts[i].file, s.shared.Load())
		}
	}
	if s.shared.Load() > spoolShared {
		t.Errorf("%d octets are in memory", s.shared.Load())
	}
	_ = texts[0].Close()
	if again, _, err := spoolText(t, s, spoolMemory); err != nil || again.file != nil {
		t.Errorf("file %v, %v, though there is room again", again.file, err)
	}
}
