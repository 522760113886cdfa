package tokens

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// A sealed record is
//
//	magic (4) ‖ format version (1) ‖ key id (4) ‖ salt (16) ‖ nonce (12) ‖ ciphertext and tag
//
// encrypted with AES-256-GCM under a key derived by HKDF-SHA-256 from the master key and
// the salt, with a random nonce. A record has a salt of its own, or shares one with
// others of its process: see [KeyRing.Seal] and [KeyRing.AppendSeal]. Everything before
// the nonce and the name of the record are authenticated, so that a record copied to
// another name does not open there.
const (
	sealMagic   = "OMSR"
	sealVersion = 1
	keyIDSize   = 4
	saltSize    = 16
	sealHeader  = len(sealMagic) + 1 + keyIDSize + saltSize
	sealContext = "oauth_mail sealed record v1"

	// KeySize is the size of a master key in octets.
	KeySize = 32
)

// The reasons why a sealed record does not open.
var (
	// ErrUnknownKey: the record was sealed with a key that is not in the ring.
	ErrUnknownKey = errors.New("sealed with a key that is not configured")
	// ErrNewerFormat: a newer version of this software wrote the record. It
	// must be left as it is.
	ErrNewerFormat = errors.New("written by a newer version of this software")
	// ErrCorrupt: the record was changed, cut or moved.
	ErrCorrupt = errors.New("sealed record is damaged or was moved")
)

// KeyRing seals and opens records. The first key seals; every key opens. It is
// safe for concurrent use.
type KeyRing struct {
	keys   []masterKey
	salted saltedKeys
}

type masterKey struct {
	id     KeyID
	secret []byte
}

// KeyID names a master key. It is a part of a hash of the key and no secret:
// records show it, and so may logs.
type KeyID [keyIDSize]byte

// String returns the id in hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// NewKeyRing makes a ring of one or more master keys of [KeySize] octets, the
// sealing one first. A key that comes again is left out.
func NewKeyRing(keys ...[]byte) (*KeyRing, error) {
	if len(keys) == 0 {
		return nil, errors.New("key ring without a key")
	}
	r := &KeyRing{}
	for i, k := range keys {
		if len(k) != KeySize {
			return nil, fmt.Errorf("key %d has %d octets, must have %d", i+1, len(k), KeySize)
		}
		if slices.ContainsFunc(r.keys, func(m masterKey) bool { return bytes.Equal(m.secret, k) }) {
			continue
		}
		sum := sha256.Sum256(append([]byte("oauth_mail key id"), k...))
		r.keys = append(r.keys, masterKey{id: KeyID(sum[:keyIDSize]), secret: bytes.Clone(k)})
	}
	return r, nil
}

// IDs returns the ids of the ring's keys, the sealing one's first.
func (r *KeyRing) IDs() []KeyID {
	ids := make([]KeyID, len(r.keys))
	for i, k := range r.keys {
		ids[i] = k.id
	}
	return ids
}

// ParseKey reads a master key from its text form, 32 octets in base64.
func ParseKey(s string) ([]byte, error) {
	k, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(k) != KeySize {
		return nil, fmt.Errorf("a key is %d octets in base64, such as `openssl rand -base64 %d` prints", KeySize, KeySize)
	}
	return k, nil
}

// NewKey makes a random master key in its text form.
func NewKey() string {
	k := make([]byte, KeySize)
	rand.Read(k) // never fails
	return base64.StdEncoding.EncodeToString(k)
}

// Pseudonym is a name for a text, such as an address in a log: always the same one for a
// purpose, and without the first key nobody can find out whose it is by trying. It says
// nothing of what is sealed.
func (r *KeyRing) Pseudonym(purpose, text string) string {
	key, err := hkdf.Key(sha256.New, r.keys[0].secret, nil, "oauth_mail pseudonym "+purpose, KeySize)
	if err != nil {
		return "" // of a wrong length alone, which it is not
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Seal encrypts plaintext as the record with the given name, under a key that no other
// record has.
func (r *KeyRing) Seal(name string, plaintext []byte) ([]byte, error) {
	k, err := r.keys[0].newSaltedKey()
	if err != nil {
		return nil, err
	}
	return k.seal(make([]byte, 0, sealedSize(plaintext)), name, plaintext), nil
}

// AppendSeal appends the record to dst, which must not overlap plaintext. It serves those
// who seal often: the record shares its key with others, of this ring alone and up to
// 2^20 of them, as deriving one costs more than sealing a short message.
func (r *KeyRing) AppendSeal(dst []byte, name string, plaintext []byte) ([]byte, error) {
	k, err := r.salted.toSeal(&r.keys[0])
	if err != nil {
		return nil, err
	}
	return k.seal(slices.Grow(dst, sealedSize(plaintext)), name, plaintext), nil
}

// sealedSize is how many octets the record has.
func sealedSize(plaintext []byte) int { return sealHeader + 12 + len(plaintext) + 16 }

// Open decrypts a record that was sealed under the same name. The error is or
// wraps one of [ErrUnknownKey], [ErrNewerFormat] and [ErrCorrupt].
func (r *KeyRing) Open(name string, sealed []byte) ([]byte, error) {
	return r.AppendOpen(nil, name, sealed)
}

// AppendOpen does as [KeyRing.Open], and appends the plaintext to dst, which must not
// overlap sealed.
func (r *KeyRing) AppendOpen(dst []byte, name string, sealed []byte) ([]byte, error) {
	id, err := sealedBy(sealed)
	if err != nil {
		return nil, err
	}
	known := false
	for i := range r.keys {
		if r.keys[i].id != id {
			continue
		}
		known = true
		k, err := r.salted.toOpen(&r.keys[i], [sealHeader]byte(sealed))
		if err != nil {
			return nil, err
		}
		if plain, err := k.open(dst, name, sealed[sealHeader:]); err == nil {
			return plain, nil
		}
	}
	if !known {
		return nil, fmt.Errorf("key id %s: %w", id, ErrUnknownKey)
	}
	return nil, ErrCorrupt
}

// SealedBy returns the id of the key that a record was sealed with. The error is or
// wraps [ErrNewerFormat] or [ErrCorrupt].
func SealedBy(sealed []byte) (KeyID, error) { return sealedBy(sealed) }

// sealedBy returns the id of the key that a record was sealed with, which it
// tells without being opened. The error is or wraps [ErrNewerFormat] or
// [ErrCorrupt].
func sealedBy(sealed []byte) (KeyID, error) {
	if len(sealed) < sealHeader || string(sealed[:len(sealMagic)]) != sealMagic {
		return KeyID{}, ErrCorrupt
	}
	if v := sealed[len(sealMagic)]; v > sealVersion {
		return KeyID{}, fmt.Errorf("format %d: %w", v, ErrNewerFormat)
	} else if v != sealVersion {
		return KeyID{}, ErrCorrupt
	}
	return KeyID(sealed[len(sealMagic)+1 : len(sealMagic)+1+keyIDSize]), nil
}

// holds reports whether the ring has a key that a record may have been sealed with.
func (r *KeyRing) holds(sealed []byte) bool {
	id, err := sealedBy(sealed)
	return err == nil && slices.Contains(r.IDs(), id)
}

// derive returns the key of the records with a salt: what hkdf.Key makes of SHA-256 and
// sealContext, without the dozen objects that it takes.
func (k *masterKey) derive(salt []byte) [KeySize]byte {
	extracted := macOf(salt, k.secret)                     // RFC 5869, section 2.2
	return macOf(extracted[:], []byte(sealContext+"\x01")) // section 2.3, one block
}

// macOf is HMAC-SHA-256 (RFC 2104) of a text of up to 64 octets, under a key of up to
// 64.
func macOf(key, text []byte) [sha256.Size]byte {
	var inner [2 * sha256.BlockSize]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	n := copy(inner[sha256.BlockSize:], text)
	sum := sha256.Sum256(inner[:sha256.BlockSize+n])
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}
