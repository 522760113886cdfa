package caddymodule

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

// password is what a user of an SMTP entrance proves himself with, hashed.
type password struct {
	// hash is in modular crypt format, and compare its algorithm. Both are zero for a
	// password that is as long as a key and needs no slow hash: sum is its SHA-256.
	hash    []byte
	compare caddyauth.Comparer
	sum     [sha256.Size]byte
}

// isHash reports whether the setting is a hash and no password.
func isHash(s string) bool { return strings.HasPrefix(s, "$") }

// bcryptPattern is a hash by bcrypt with its cost.
var bcryptPattern = regexp.MustCompile(`^\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)

// maxBcryptCost keeps a check below some seconds.
const maxBcryptCost = 16

// parsePassword reads a hash, or takes a long password. Errors show nothing of it.
func parsePassword(s string) (*password, error) {
	switch {
	case s == "":
		return nil, errors.New("missing; make one with `caddy hash-password`")
	case strings.HasPrefix(s, "$argon2id$"):
		if _, _, err := caddyauth.DecodeHash([]byte(s)); err != nil {
			return nil, errors.New("is no hash by argon2id as `caddy hash-password --algorithm argon2id` prints it")
		}
		return &password{hash: []byte(s), compare: caddyauth.Argon2idHash{}}, nil
	case isHash(s):
		m := bcryptPattern.FindStringSubmatch(s)
		if m == nil {
			return nil, errors.New("is no hash by bcrypt or argon2id; make one with `caddy hash-password`")
		}
		if cost, _ := strconv.Atoi(m[1]); cost > maxBcryptCost {
			return nil, fmt.Errorf("has the bcrypt cost %d, with which a check takes too long; %d is the most", cost, maxBcryptCost)
		}
		return &password{hash: []byte(s), compare: caddyauth.BcryptHash{}}, nil
	case len(s) < minKeyLength:
		return nil, fmt.Errorf("a password with less than %d characters has to be hashed: put here what `caddy hash-password` prints", minKeyLength)
	}
	return &password{sum: sha256.Sum256([]byte(s))}, nil
}

// matches takes the same time whatever was typed.
func (p *password) matches(typed string) (bool, error) {
	typed = withoutEnd(typed)
	if p.compare == nil {
		sum := sha256.Sum256([]byte(typed))
		return subtle.ConstantTimeCompare(sum[:], p.sum[:]) == 1, nil
	}
	return p.compare.Compare(p.hash, []byte(typed))
}

// withoutEnd takes line breaks off the end: programs that read a password from a file
// send them, such as Alertmanager 0.25.
func withoutEnd(typed string) string { return strings.TrimRight(typed, "\r\n") }

// remember keeps in mind that somebody has signed in with this password.
func (p *password) remember(typed string) {
	if p.compare != nil {
		knownPasswords.add(p.digest(typed))
	}
}

// known reports, at once, whether somebody has signed in with this password.
func (p *password) known(typed string) bool {
	if p.compare == nil {
		ok, _ := p.matches(typed)
		return ok
	}
	return knownPasswords.has(p.digest(typed))
}

// processKey makes digests of this process good for nothing elsewhere.
var processKey = []byte(rand.Text())

// digest is of a hash with what was typed. It is quick to make, and must not leave
// the process.
func (p *password) digest(typed string) (d [sha256.Size]byte) {
	m := hmac.New(sha256.New, processKey)
	m.Write(p.hash)
	m.Write([]byte{0})
	m.Write([]byte(withoutEnd(typed)))
	m.Sum(d[:0])
	return d
}

// knownPasswords are those that were right, for all configurations: a device that
// signs in each minute must not cost a second of work each time, and all of them not
// at once after a reload.
var knownPasswords digestSet

// mostKnown is how many digests are kept.
const mostKnown = 10_000

// digestSet keeps digests, not more than so many. The zero value is ready to use.
type digestSet struct {
	mu  sync.RWMutex
	set map[[sha256.Size]byte]struct{}
}

func (s *digestSet) has(d [sha256.Size]byte) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.set[d]
	return ok
}

func (s *digestSet) add(d [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		s.set = make(map[[sha256.Size]byte]struct{})
	}
	for old := range s.set {
		if len(s.set) < mostKnown {
			break
		}
		delete(s.set, old)
	}
	s.set[d] = struct{}{}
}
