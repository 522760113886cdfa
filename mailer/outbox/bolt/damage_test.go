package bolt

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// damages are ways to spoil a database, with pages of a size.
var damages = map[string]func(f *os.File, size, page int64) error{
	"cut in half": func(f *os.File, size, page int64) error { return f.Truncate(size / 2 / page * page) },
	"cut to the first pages": func(f *os.File, _, page int64) error {
		return f.Truncate(4 * page)
	},
	"zeros":           func(f *os.File, size, page int64) error { return overwrite(f, 0, 2*page, size, page, page) },
	"rubbish":         func(f *os.File, size, page int64) error { return overwrite(f, 0xa5, 2*page, size, page, page) },
	"rubbish in some": func(f *os.File, size, page int64) error { return overwrite(f, 0xa5, 20*page, size, page, 7*page) },
	"old pages": func(f *os.File, size, page int64) error { // the first half again, with the right numbers
		old := make([]byte, page)
		for at := size / 2 / page * page; at+page <= size; at += page {
			number := make([]byte, 8)
			if _, err := f.ReadAt(number, at); err != nil {
				return err
			}
			if _, err := f.ReadAt(old, at-size/2/page*page+4*page); err != nil {
				return err
			}
			if _, err := f.WriteAt(append(number, old[8:]...), at); err != nil {
				return err
			}
		}
		return nil
	},
}

// overwrite writes a page full of an octet at each step.
func overwrite(f *os.File, octet byte, from, to, page, step int64) error {
	for ; from+page <= to; from += step {
		if _, err := f.WriteAt(bytes.Repeat([]byte{octet}, int(page)), from); err != nil {
			return err
		}
	}
	return nil
}

func spoil(t *testing.T, folder string, damage func(f *os.File, size, page int64) error) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(folder, databaseFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(damage(f, info.Size(), int64(os.Getpagesize())), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestOpenDamaged: a damaged database is refused, with what to do, and left as it is.
func TestOpenDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		for list, most := range map[string]int{"list of free pages": 1 << 15, "no list": -1} {
			t.Run(name+", "+list, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, Options{})
				b.e.maxFreeList = most
				for i := range 300 {
					octets := small
					if i < 50 {
						octets = strings.Repeat(small, 20)
					}
					b.accept("lab", octets)
				}
				b.close()
				whole := filepath.Join(t.TempDir(), "whole")
				copyFolder(t, b.folder, whole)
				spoil(t, b.folder, damage)
				before := snapshot(t, b.folder)
				_, err := Open(b.folder, Options{Sealer: sealer()})
				if err == nil || !strings.Contains(err.Error(), "the database of the outbox is damaged") || !strings.Contains(err.Error(), b.folder) {
					t.Errorf("open: %v", err)
				}
				for path, now := range snapshot(t, b.folder) {
					if before[path] != now {
						t.Errorf("%s was changed", path)
					}
				}
				b.folder = whole
				b.open(Options{})
			})
		}
	}
}

// TestDamagedWhileOpen: the engine ends its work where its database is damaged while it
// is open. Nothing crashes, whoever asks hears of it, and the log does, once.
func TestDamagedWhileOpen(t *testing.T) {
	t.Parallel()
	for name, damage := range damages {
		if name == "old pages" { // are not always met
			continue
		}
		for _, first := range []string{"read", "write", "deliver"} {
			t.Run(name+", "+first, func(t *testing.T) {
				t.Parallel()
				var log logged
				b := newBench(t, Options{Logger: log.logger()})
				var all []*outbox.Message
				for range 50 {
					all = append(all, b.accept("lab", strings.Repeat(small, 20)))
				}
				b.get(all[0].ID) // so that the journals have nothing that the database has not
				spoil(t, b.folder, damage)
				broken := func(err error) bool {
					_, ok := errors.AsType[*damageError](err)
					return ok
				}
				read := func() (err error) {
					for _, m := range all {
						_, e := b.e.Content(t.Context(), m.ID)
						err = errors.Join(err, e)
					}
					return err
				}
				write := func() error {
					m, c := letter("other", strings.Repeat(small, 20))
					return b.e.Accept(t.Context(), m, c)
				}
				switch first {
				case "read":
					_ = read()
				case "write":
					_ = write()
				case "deliver":
					b.run(handler{window: 8})
				}
				b.until("it is noticed", func() bool { return broken(read()) || broken(write()) })
				if err := read(); !broken(err) {
					t.Errorf("read: %v", err)
				}
				if err := write(); !broken(err) {
					t.Errorf("accept: %v", err)
				}
				if n := log.count("closed until a restart"); n != 1 {
					t.Errorf("%d lines in the log", n)
				}
				if s := log.String(); !strings.Contains(s, "move it away") {
					t.Error(s)
				}
			})
		}
	}
}
