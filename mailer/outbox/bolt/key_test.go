package bolt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// ringSealer seals with its first key and opens with all.
type ringSealer []testSealer

func (r ringSealer) AppendSeal(dst []byte, name string, plain []byte) ([]byte, error) {
	return r[0].AppendSeal(dst, name, plain)
}

func (r ringSealer) AppendOpen(dst []byte, name string, sealed []byte) (plain []byte, err error) {
	for _, s := range r {
		if plain, err = s.AppendOpen(dst, name, sealed); err == nil {
			return plain, nil
		}
	}
	return nil, err
}

// snapshot returns all there is in a folder: octets and times.
func snapshot(t *testing.T, folder string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		all[path] = info.ModTime().String()
		if !d.IsDir() {
			octets, err := os.ReadFile(path)
			all[path] += string(octets)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestOpenOtherKey: an outbox that another key has sealed is refused and left as it
// is. With the old key behind the new one it opens, and takes the new one.
func TestOpenOtherKey(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(t *testing.T, b *bench){
		"empty": func(*testing.T, *bench) {},
		"filled": func(_ *testing.T, b *bench) {
			b.accept("lab", small)
			b.accept("lab", large)
		},
		"no value": func(t *testing.T, b *bench) { // it is added
			b.close()
			db, err := bbolt.Open(filepath.Join(b.folder, databaseFile), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bbolt.Tx) error {
				if tx.Bucket(bucketMeta).Get(keyCheck) == nil {
					t.Error("there was none before")
				}
				return tx.Bucket(bucketMeta).Delete(keyCheck)
			})
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			b.open(Options{})
		},
		"no list of free pages": func(_ *testing.T, b *bench) { // bbolt likes to write one
			b.close()
			b.open(Options{})
			b.e.maxFreeList = -1
			b.accept("lab", small)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			fill(t, b)
			last := b.accept("lab", small)
			b.close()
			orphan := b.e.contentFile("orphan")
			old := time.Now().Add(-2 * orphanAge)
			if err := errors.Join(os.WriteFile(orphan, nil, 0o600), os.Chtimes(orphan, old, old), os.Remove(filepath.Join(b.folder, reserveFile))); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, b.folder)
			fresh := newSealer("fedcba9876543210")
			e, err := Open(b.folder, Options{Sealer: fresh})
			if err == nil {
				_ = e.Close()
				t.Fatal("it was opened")
			}
			for _, want := range []string{b.folder, "the key that it was sealed with is missing", "as a further encryption_key", "move the folder of the outbox away"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			after := snapshot(t, b.folder)
			for path := range after {
				if before[path] != after[path] {
					t.Errorf("%s was changed", path)
				}
			}
			if len(before) != len(after) {
				t.Errorf("%d files, %d before", len(after), len(before))
			}
			b.open(Options{})
			b.get(last.ID)
			b.close()
			b.open(Options{Sealer: ringSealer{fresh, sealer()}})
			b.get(last.ID)
			b.close()
			b.open(Options{Sealer: fresh})
		})
	}
}

// switchSealer is a ring whose keys may change while it is used.
type switchSealer struct{ ring *[]namedSealer }

type namedSealer struct {
	testSealer
	id string
}

func (s switchSealer) KeyID() string { return (*s.ring)[0].id }

func (s switchSealer) AppendSeal(dst []byte, name string, plain []byte) ([]byte, error) {
	return (*s.ring)[0].AppendSeal(dst, name, plain)
}

func (s switchSealer) AppendOpen(dst []byte, name string, sealed []byte) (plain []byte, err error) {
	for _, k := range *s.ring {
		if plain, err = k.AppendOpen(dst, name, sealed); err == nil {
			return plain, nil
		}
	}
	return nil, err
}

// TestChangeKey: a key that something was sealed with, also while the outbox was open,
// is needed as long as that is stored, and no longer.
func TestChangeKey(t *testing.T) {
	t.Parallel()
	k1, k2, k3 := namedSealer{sealer(), "1"}, namedSealer{newSealer("fedcba9876543210"), "2"}, namedSealer{newSealer("0011223344556677"), "3"}
	ring := func(keys ...namedSealer) Options { return Options{Sealer: switchSealer{&keys}} }
	for name, tt := range map[string]func(b *bench) (free func()){
		"small": func(b *bench) func() {
			m := b.accept("lab", small)
			return func() { b.drop(m.ID) }
		},
		"large, and its record is of the next key": func(b *bench) func() {
			m := b.accept("lab", large)
			b.close()
			b.open(ring(k3, k2, k1))
			if err := b.e.Change(b.Context(), m.ID, func(*outbox.Message) error { return nil }); err != nil {
				b.Fatal(err)
			}
			return func() { b.drop(m.ID) }
		},
		"a lane": func(b *bench) func() {
			b.setLane("lab", outbox.Lane{State: outbox.LanePaused, By: "x"})
			return func() { b.setLane("lab", outbox.Lane{}) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{Sealer: switchSealer{&[]namedSealer{k1}}})
			b.close()
			keys := []namedSealer{k1}
			b.open(Options{Sealer: switchSealer{&keys}})
			first := b.accept("lab", small)
			if err := b.e.do(&op{apply: func(*batch) error { keys = []namedSealer{k2, k1}; return nil }}); err != nil {
				t.Fatal(err)
			}
			free := tt(b) // sealed with the second
			b.drop(first.ID)
			b.close()
			for _, o := range []Options{ring(k1), ring(k3, k1), ring(k3)} {
				if e, err := Open(b.folder, o); err == nil {
					_ = e.Close()
					t.Error("it was opened without the second key")
				} else if !strings.Contains(err.Error(), "the key that it was sealed with is missing") {
					t.Error(err)
				}
			}
			b.open(ring(k3, k2)) // nothing needs the first any more
			free()
			b.close()
			b.open(ring(k3))
			b.accept("lab", small)
			commits := b.stored()
			b.close()
			b.open(ring(k3))
			if n := b.stored(); n != 0 {
				t.Errorf("%d commits for a key that is known; %d before", n, commits)
			}
		})
	}
}

func (b *bench) drop(id string) {
	b.Helper()
	if err := b.e.Drop(b.Context(), id); err != nil {
		b.Fatal(err)
	}
}
