package tokens

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// saltOf is what the key of a record is derived from, and nonceOf what it is used with.
func saltOf(sealed []byte) string  { return string(sealed[sealHeader-saltSize : sealHeader]) }
func nonceOf(sealed []byte) string { return string(sealed[sealHeader : sealHeader+12]) }

// TestSharedKey: records of one ring may share a key, with as many nonces, until it has
// sealed enough of them.
func TestSharedKey(t *testing.T) {
	t.Parallel()
	ring, reader := testRing(t, 1), testRing(t, 2, 1)
	const perWorker, workers, left = 200, 8, 700
	first, err := ring.AppendSeal(nil, "first", nil)
	if err != nil {
		t.Fatal(err)
	}
	ring.salted.sealing.Load().seals.Store(mostSeals - left)
	var mu sync.Mutex
	bySalt, nonces := map[string]int{}, map[string]bool{}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range perWorker {
				name, text := fmt.Sprint(w, "/", i), fmt.Appendf(nil, "text %d", i)
				sealed, err := ring.AppendSeal(nil, name, text)
				if err != nil {
					t.Error(err)
					return
				}
				for _, by := range []*KeyRing{ring, reader} {
					if plain, err := by.Open(name, sealed); err != nil || !bytes.Equal(plain, text) {
						t.Errorf("%s opens as %q, %v", name, plain, err)
					}
					if _, err := by.Open("other", sealed); err == nil {
						t.Errorf("%s opens under another name", name)
					}
				}
				mu.Lock()
				bySalt[saltOf(sealed)]++
				nonces[nonceOf(sealed)] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(nonces) != workers*perWorker {
		t.Errorf("%d records have %d nonces", workers*perWorker, len(nonces))
	}
	if n := bySalt[saltOf(first)]; n != left {
		t.Errorf("a key that may seal %d more has sealed %d", left, n)
	}
	if len(bySalt) > 1+workers { // those that saw at once that it was used up
		t.Errorf("%d records have %d salts: %v", workers*perWorker, len(bySalt), bySalt)
	}
}

// TestKeysOfTheirOwn: what is sealed once has a key of its own, and so has each ring.
func TestKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	salts := map[string]bool{}
	note := func(sealed []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if salts[saltOf(sealed)] {
			t.Error("a salt comes again")
		}
		salts[saltOf(sealed)] = true
	}
	for range 3 {
		ring := testRing(t, 1)
		note(ring.AppendSeal(nil, "a", nil))
		note(ring.Seal("a", nil))
		note(ring.Seal("a", nil))
	}
}

// TestKeysOfOneID: an id is so short that two keys may have the same one.
func TestKeysOfOneID(t *testing.T) {
	t.Parallel()
	one, two := testRing(t, 1).keys[0], testRing(t, 2).keys[0]
	two.id = one.id
	both := &KeyRing{keys: []masterKey{one, two}}
	for i, k := range []masterKey{one, two, one} {
		sealed, err := (&KeyRing{keys: []masterKey{k}}).AppendSeal(nil, "a", []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // with a key that is known by then
			if plain, err := both.Open("a", sealed); err != nil || string(plain) != "text" {
				t.Errorf("record %d opens as %q, %v", i, plain, err)
			}
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{600, 1 << 10, 100 << 10} {
		text := make([]byte, size)
		b.Run(fmt.Sprintf("own/%d", size), func(b *testing.B) {
			ring := testRing(b, 1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ring.Seal("a name of some length, as of a message", text); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("append/%d", size), func(b *testing.B) {
			ring := testRing(b, 1)
			room := make([]byte, 0, size+1<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ring.AppendSeal(room, "a name of some length, as of a message", text); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("open/%d", size), func(b *testing.B) {
			ring := testRing(b, 1)
			room := make([]byte, 0, size)
			sealed, err := ring.AppendSeal(nil, "a", text)
			b.ReportAllocs()
			for b.Loop() {
				if err == nil {
					_, err = ring.AppendOpen(room, "a", sealed)
				}
			}
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}
