package bolt

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bbolt "go.etcd.io/bbolt"
)

// TestLayers: two layers on a database show what all changes lead to, whichever were taken
// back, and merged they are that.
func TestLayers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			layers(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func layers(t *testing.T, r *rand.Rand) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	want := map[string]string{} // letter and key
	key := func() string {
		letter := []string{"i", "m"}[r.IntN(2)]
		return letter + strings.Repeat(string(rune('a'+r.IntN(3))), 1+r.IntN(3)) + fmt.Sprint(r.IntN(40))
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, letter := range []byte{inMessages, inContents, inIndex, inLanes, inMeta} {
			if _, err := tx.CreateBucket(nameOf(letter)); err != nil {
				return err
			}
		}
		for range 60 {
			k := key()
			want[k] = "stored"
			if err := tx.Bucket(nameOf(k[0])).Put([]byte(k[1:]), []byte("stored")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	young, old, f := newLayer(), (*layer)(nil), floors{}
	for step := range 200 {
		if step == 100 {
			old, young = young, newLayer()
		}
		kept := maps.Clone(want)
		for range r.IntN(5) {
			k := key()
			if r.IntN(2) == 0 {
				delete(want, k)
				young.change(k[0], []byte(k[1:]), isRemoved, nil)
				continue
			}
			want[k] = fmt.Sprint(step)
			young.change(k[0], []byte(k[1:]), isSet, []byte(want[k]))
			if k[0] == inIndex {
				f.lower([]byte(k[1:]))
			}
		}
		if r.IntN(4) == 0 {
			want = kept
			clear(f)
			young.undo()
		} else {
			young.keep()
		}
		err := db.View(func(tx *bbolt.Tx) error {
			all := []*layer{young}
			if old != nil {
				all = append(all, old)
			}
			b := bucketsOf(tx, all...)
			compare(t, want, b)
			for range 3 { // what the outbox does to find a message that is due
				prefix := []byte(string(rune('a' + r.IntN(3))))
				c := b.index.Cursor(prefix)
				k, _ := c.Seek(f.from(prefix))
				if first := firstKey(want, "i"+string(prefix)); first != string(k) {
					t.Errorf("the first key with %q is %q, want %q", prefix, k, first)
				}
				if r.IntN(2) == 0 {
					f.raise(prefix, k)
				}
			}
			return nil
		})
		if err != nil || t.Failed() {
			t.Fatal(err)
		}
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if err := old.apply(tx); err != nil {
			return err
		}
		if err := young.apply(tx); err != nil {
			return err
		}
		compare(t, want, bucketsOf(tx))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// compare looks whether the buckets have what they should, and where.
func compare(t *testing.T, want map[string]string, b buckets) {
	t.Helper()
	got := map[string]string{}
	for _, of := range []*bucket{b.index, b.messages} {
		var last []byte
		c := of.Cursor(nil)
		for k, v := c.Seek([]byte("a")); k != nil; k, v = c.Next() {
			if bytes.Compare(last, k) >= 0 {
				t.Errorf("%q comes after %q", k, last)
			}
			last = k
			got[string(of.letter)+string(k)] = string(v)
			if is := of.Get(k); !bytes.Equal(is, v) {
				t.Errorf("%q is %q, and %q on the way", k, is, v)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	for k := range want {
		if b.lanes.Get([]byte(k[1:])) != nil {
			t.Errorf("%q is in another bucket", k)
		}
	}
}

func firstKey(all map[string]string, prefix string) string {
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(k, prefix) {
			return k[1:]
		}
	}
	return ""
}
