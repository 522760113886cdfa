package caddymodule

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

// password is what a user of an SMTP entrance proves himself with, hashed.
type password struct {
	// hash is in modular crypt format, and compare its algorithm. Both are zero for a
	// password that is as long as a key and needs no slow hash: sum is its SHA-256.
	hash    []byte
	compare caddyauth.Comparer
	sum     [sha256.Size]byte
	// known is the digest of the right password once it was given: a device that
	// signs in each minute must not cost a second of work each time.
	known atomic.Pointer[[sha256.Size]byte]
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

// slowChecks has a place for each check of a slow hash in the process: half of the
// processors stay free for the web server.
var slowChecks = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// passwordSalt makes digests of this process good for nothing elsewhere.
var passwordSalt = rand.Text()

// matches reports whether this is the password. It is quick if that is known.
func (p *password) matches(ctx context.Context, typed string) (bool, error) {
	if p.compare == nil {
		return p.check(ctx, typed)
	}
	digest := sha256.Sum256([]byte(passwordSalt + string(p.hash) + typed))
	if known := p.known.Load(); known != nil && subtle.ConstantTimeCompare(known[:], digest[:]) == 1 {
		return true, nil
	}
	ok, err := p.check(ctx, typed)
	if ok {
		p.known.Store(&digest)
	}
	return ok, err
}

// check takes the same time whatever was typed.
func (p *password) check(ctx context.Context, typed string) (bool, error) {
	if p.compare == nil {
		sum := sha256.Sum256([]byte(typed))
		return subtle.ConstantTimeCompare(sum[:], p.sum[:]) == 1, nil
	}
	select {
	case slowChecks <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("too many passwords are being checked: %w", ctx.Err())
	}
	defer func() { <-slowChecks }()
	return p.compare.Compare(p.hash, []byte(typed))
}
