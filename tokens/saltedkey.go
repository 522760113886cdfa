package tokens

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"sync/atomic"
)

// saltedKey is the cipher under the key that a master key and a salt make.
type saltedKey struct {
	// header is what its records begin with, up to the nonce.
	header [sealHeader]byte
	aead   cipher.AEAD // draws the nonce, which is a part of the ciphertext
	seals  atomic.Int64
}

// mostSeals is how many records a key seals at most. Nonces are random, of 96 bits, so
// that two of them are equal with a probability below 2^-57: NIST SP 800-38D, section
// 8.3, asks for 2^-32. Their blocks are below 2^34, as an outbox seals at most 256 KiB
// at a time: for an attacker that is far from the bound of AES in this mode, too.
//
// Nothing is counted that has to be remembered: a process that starts, or a second one,
// draws a salt of its own. A copy of a running process, as of a virtual machine, has the
// key of the first, and other nonces.
const mostSeals = 1 << 20

// newSaltedKey makes a key of its own, for sealing.
func (k *masterKey) newSaltedKey() (*saltedKey, error) {
	var header [sealHeader]byte
	b := append(append(header[:0], sealMagic...), sealVersion)
	b = append(b, k.id[:]...)
	rand.Read(header[len(b):]) // never fails
	return k.saltedKey(header)
}

// saltedKey makes the key of the record that begins with a header.
func (k *masterKey) saltedKey(header [sealHeader]byte) (*saltedKey, error) {
	key := k.derive(header[sealHeader-saltSize:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &saltedKey{header: header, aead: aead}, nil
}

func (s *saltedKey) seal(dst []byte, name string, plaintext []byte) []byte {
	return s.aead.Seal(append(dst, s.header[:]...), nil, plaintext, s.associated(name)) //nolint:gosec // the cipher draws the nonce
}

// open opens what is behind the header of a record.
func (s *saltedKey) open(dst []byte, name string, rest []byte) ([]byte, error) {
	return s.aead.Open(dst, nil, rest, s.associated(name))
}

func (s *saltedKey) associated(name string) []byte {
	return append(append(make([]byte, 0, sealHeader+len(name)), s.header[:]...), name...)
}

// saltedKeys are the keys of a ring that serve more than once. The zero value is ready to
// use, also by several goroutines at once.
type saltedKeys struct {
	sealing atomic.Pointer[saltedKey]
	// opening are some that have opened records, each at the place that its salt says.
	opening [32]atomic.Pointer[openingKey]
}

// openingKey is a salted key, and of which master key: two of these may have one id.
type openingKey struct {
	*saltedKey
	of *masterKey
}

// toSeal returns the key for one more record.
func (s *saltedKeys) toSeal(k *masterKey) (*saltedKey, error) {
	current := s.sealing.Load()
	if current != nil && current.seals.Add(1) <= mostSeals {
		return current, nil
	}
	next, err := k.newSaltedKey()
	if err != nil {
		return nil, err
	}
	next.seals.Store(1)
	s.sealing.CompareAndSwap(current, next) // whoever loses has one for this record alone
	return next, nil
}

// toOpen returns the key of the record that begins with a header.
func (s *saltedKeys) toOpen(k *masterKey, header [sealHeader]byte) (*saltedKey, error) {
	place := &s.opening[int(header[sealHeader-1])%len(s.opening)]
	if known := place.Load(); known != nil && known.of == k && known.header == header {
		return known.saltedKey, nil
	}
	key, err := k.saltedKey(header)
	if err == nil {
		place.Store(&openingKey{key, k})
	}
	return key, err
}
