package tokens

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestSeal(t *testing.T) {
	t.Parallel()
	old, both, other := testRing(t, 1), testRing(t, 2, 1), testRing(t, 3)
	plain := []byte("the plaintext")
	sealed, err := old.Seal("a", plain)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := old.Seal("a", plain)
	if bytes.Equal(sealed, again) {
		t.Error("two seals of one text are equal")
	}
	if bytes.Contains(sealed, plain) {
		t.Error("the plaintext shows")
	}
	newer := bytes.Clone(sealed)
	newer[len(sealMagic)]++
	zero := bytes.Clone(sealed)
	zero[len(sealMagic)] = 0
	resealed, _ := both.Seal("a", plain)

	for name, test := range map[string]struct {
		ring   *KeyRing
		name   string
		sealed []byte
		err    error
	}{
		"as sealed":                 {old, "a", sealed, nil},
		"rotated key opens":         {both, "a", sealed, nil},
		"sealed with the first key": {testRing(t, 2), "a", resealed, nil},
		"dropped key":               {old, "a", resealed, ErrUnknownKey},
		"other key":                 {other, "a", sealed, ErrUnknownKey},
		"moved to another name":     {old, "b", sealed, ErrCorrupt},
		"name and more":             {old, "aa", sealed, ErrCorrupt},
		"newer format":              {old, "a", newer, ErrNewerFormat},
		"format zero":               {old, "a", zero, ErrCorrupt},
		"empty":                     {old, "a", nil, ErrCorrupt},
		"header alone":              {old, "a", sealed[:sealHeader], ErrCorrupt},
		"cut":                       {old, "a", sealed[:len(sealed)-1], ErrCorrupt},
		"longer":                    {old, "a", append(bytes.Clone(sealed), 0), ErrCorrupt},
		"not ours":                  {old, "a", []byte("{\"access_token\":\"" + strings.Repeat("x", 50)), ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.ring.Open(test.name, test.sealed)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err == nil && !bytes.Equal(got, plain) {
				t.Errorf("opened %q", got)
			}
		})
	}
	for i := range sealed {
		spoilt := bytes.Clone(sealed)
		spoilt[i] ^= 1
		if _, err := old.Open("a", spoilt); err == nil {
			t.Errorf("a record with octet %d changed opens", i)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	k := NewKey()
	raw, err := ParseKey(k)
	if err != nil || len(raw) != KeySize {
		t.Errorf("ParseKey(NewKey()) = %d octets, %v", len(raw), err)
	}
	if _, err := ParseKey(k + "\n"); err != nil {
		t.Errorf("the line end of a key file: %v", err)
	}
	for _, bad := range []string{"", "secret", base64.StdEncoding.EncodeToString(make([]byte, 31)), base64.StdEncoding.EncodeToString(make([]byte, 33))} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("ParseKey(%q) succeeds", bad)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	if _, err := NewKeyRing(); err == nil {
		t.Error("a ring without a key")
	}
	if _, err := NewKeyRing(raw, raw[:16]); err == nil {
		t.Error("a ring with a short key")
	}
	own := bytes.Clone(raw)
	ring, _ := NewKeyRing(own)
	sealed, _ := ring.Seal("a", []byte("x"))
	clear(own) // the caller may wipe its copy
	if _, err := ring.Open("a", sealed); err != nil {
		t.Errorf("the ring shares the caller's memory: %v", err)
	}
}

// goldenRecord is "the plaintext", sealed as "a" with a key of ones. Records
// like it lie in storages: it must open for ever.
const goldenRecord = "T01TUgEjCTv45ClT2h342PldxDqFMspLIWfX2/tFKGLwM9oALxDodejG/VEHvcfX2UcTuGXtUhHLNQDix471RAnB"

func TestGoldenRecord(t *testing.T) {
	t.Parallel()
	sealed, err := base64.RawStdEncoding.DecodeString(goldenRecord)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := testRing(t, 1).Open("a", sealed); err != nil || string(plain) != "the plaintext" {
		t.Errorf("opened %q, %v", plain, err)
	}
}

// TestDerive compares with the standard library.
func TestDerive(t *testing.T) {
	t.Parallel()
	for i := range byte(32) {
		secret, salt := bytes.Repeat([]byte{i}, KeySize), bytes.Repeat([]byte{i ^ 0x55}, saltSize)
		want, err := hkdf.Key(sha256.New, secret, salt, sealContext, KeySize)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&masterKey{secret: secret}).derive(salt); !bytes.Equal(got[:], want) {
			t.Errorf("derived %x, want %x", got, want)
		}
	}
}

func FuzzOpenSealed(f *testing.F) {
	ring := testRing(f, 1)
	golden, err := base64.RawStdEncoding.DecodeString(goldenRecord)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(golden[:sealHeader+5])
	f.Add([]byte(sealMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := ring.Open("a", data)
		if bytes.Equal(data, golden) {
			return
		}
		if err == nil {
			t.Fatalf("forged %x opens as %q", data, plain)
		}
		if !unreadable(err) {
			t.Fatalf("error of no kind: %v", err)
		}
	})
}

// TestAppend: records and plaintexts go behind what is there, and do not read it.
func TestAppend(t *testing.T) {
	t.Parallel()
	ring := testRing(t, 1)
	sealed, err := ring.AppendSeal([]byte("before"), "name", []byte("text"))
	if err != nil || !bytes.HasPrefix(sealed, []byte("before")) {
		t.Fatalf("%q, %v", sealed, err)
	}
	if plain, err := ring.AppendOpen([]byte("and "), "name", sealed[len("before"):]); err != nil || string(plain) != "and text" {
		t.Errorf("%q, %v", plain, err)
	}
	if plain, err := ring.AppendOpen([]byte("and "), "other", sealed[len("before"):]); err == nil || len(plain) > 0 {
		t.Errorf("under another name: %q, %v", plain, err)
	}
}
