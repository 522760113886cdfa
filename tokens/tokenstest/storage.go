// Package tokenstest has doubles for tests of OAuth 2.0 clients: an
// authorization server and a storage, both of which misbehave on request. They
// work inside testing/synctest bubbles.
package tokenstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Op is an operation of a storage.
type Op string

// The operations.
const (
	OpStore  Op = "store"
	OpLoad   Op = "load"
	OpDelete Op = "delete"
	OpList   Op = "list"
	OpLock   Op = "lock"
	OpUnlock Op = "unlock"
)

// Storage is a storage in memory, with the methods of certmagic.Storage that
// tokens need. It is safe for concurrent use.
type Storage struct {
	mu     sync.Mutex
	data   map[string][]byte
	before map[string][]byte // what a key held before its last Store
	locks  map[string]*held
	hook   func(ctx context.Context, op Op, key string) error
	faults []*fault
	stale  int
	torn   map[string]int
	lying  bool
	busy   error         // what Lock answers at once where it would wait
	lease  time.Duration // how long a lock lasts; zero is for ever
	lost   int
	counts map[Op]int
}

type held struct {
	ctx  context.Context
	done chan struct{} // closed on unlock
}

type fault struct {
	op  Op
	n   int // how often yet; negative: for ever
	err error
}

// ErrFault is what operations fail with where a test names no error.
var ErrFault = errors.New("storage fault injected by a test")

// NewStorage returns an empty storage.
func NewStorage() *Storage {
	return &Storage{
		data: map[string][]byte{}, before: map[string][]byte{},
		locks: map[string]*held{}, torn: map[string]int{}, counts: map[Op]int{},
	}
}

// Fail makes the next n operations of a kind fail; a negative n all of them,
// and zero none. A nil error is [ErrFault].
func (s *Storage) Fail(op Op, n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = ErrFault
	}
	s.faults = slices.DeleteFunc(s.faults, func(f *fault) bool { return f.op == op })
	s.faults = append(s.faults, &fault{op, n, err})
}

// Hook sets a func that is called before each operation, without a lock held.
// The operation fails with its error.
func (s *Storage) Hook(f func(ctx context.Context, op Op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// Stale makes the next n Loads of keys that were stored more than once answer
// with the value before the last.
func (s *Storage) Stale(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = n
}

// Lie makes Lock and Unlock do nothing.
func (s *Storage) Lie() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lying = true
}

// Tear makes the next n Lists of a prefix that holds something end before their
// first key, with an error that is [fs.ErrNotExist]: file storages do so when a
// file vanishes that they were about to list.
func (s *Storage) Tear(prefix string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.torn[prefix] = n
}

// Refuse makes Lock answer with an error at once where it would wait.
func (s *Storage) Refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = err
}

// Lease makes locks end by themselves after a while.
func (s *Storage) Lease(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease = d
}

// Count returns how many operations of a kind were asked for, failed ones
// included.
func (s *Storage) Count(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[op]
}

// Locked returns how many locks are held.
func (s *Storage) Locked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks)
}

// LostLocks returns how many locks outlived the context that they were taken
// with. Some storages keep a lock alive no longer.
func (s *Storage) LostLocks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Keys returns the keys that hold something, sorted.
func (s *Storage) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.data))
}

// Put sets a key, past every fault.
func (s *Storage) Put(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data[key] = bytes.Clone(value)
}

// Get returns what a key holds, past every fault; nil for nothing.
func (s *Storage) Get(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.data[key])
}

// begin counts an operation and makes it fail where it is to.
func (s *Storage) begin(ctx context.Context, op Op, key string) error {
	s.mu.Lock()
	s.counts[op]++
	hook := s.hook
	var err error
	for _, f := range s.faults {
		if f.op == op && f.n != 0 {
			f.n--
			err = f.err
		}
	}
	s.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, op, key); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return ctx.Err()
}

// Store sets a key.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	if err := s.begin(ctx, OpStore, key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.data[key]; ok {
		s.before[key] = old
	}
	s.data[key] = bytes.Clone(value)
	return nil
}

// Load returns what a key holds.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := s.begin(ctx, OpLoad, key); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.data[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	if old, ok := s.before[key]; ok && s.stale > 0 {
		s.stale--
		v = old
	}
	return bytes.Clone(v), nil
}

// Delete removes a key. One that is not there is an error, as in Consul.
func (s *Storage) Delete(ctx context.Context, key string) error {
	if err := s.begin(ctx, OpDelete, key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.data[key]; !ok {
		return fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	delete(s.data, key)
	delete(s.before, key)
	return nil
}

// List returns the keys below a prefix, and the folders, as file storages do.
func (s *Storage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := s.begin(ctx, OpList, prefix); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]bool{}
	for k := range s.data {
		rest, ok := strings.CutPrefix(k, prefix+"/")
		if !ok {
			continue
		}
		parts := strings.Split(rest, "/")
		for i := range parts {
			if i == 0 || recursive {
				found[prefix+"/"+strings.Join(parts[:i+1], "/")] = true
			}
		}
	}
	torn := s.torn[prefix] > 0 && len(found) > 0
	if torn {
		s.torn[prefix]--
	}
	if torn || len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", prefix, fs.ErrNotExist)
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// Lock takes a lock, waiting for it as long as the context lasts.
func (s *Storage) Lock(ctx context.Context, name string) error {
	if err := s.begin(ctx, OpLock, name); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		h := s.locks[name]
		if s.lying || h == nil {
			if !s.lying {
				s.lockLocked(ctx, name)
			}
			s.mu.Unlock()
			return nil
		}
		busy := s.busy
		s.mu.Unlock()
		if busy != nil {
			return busy
		}
		select {
		case <-h.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Storage) lockLocked(ctx context.Context, name string) {
	h := &held{ctx: ctx, done: make(chan struct{})}
	s.locks[name] = h
	if s.lease == 0 {
		return
	}
	time.AfterFunc(s.lease, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.locks[name] == h {
			delete(s.locks, name)
			close(h.done)
		}
	})
}

// Unlock gives a lock back.
func (s *Storage) Unlock(ctx context.Context, name string) error {
	if err := s.begin(ctx, OpUnlock, name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.locks[name]
	if h == nil {
		if s.lying {
			return nil
		}
		return fmt.Errorf("%s is not locked", name)
	}
	if h.ctx.Err() != nil {
		s.lost++
	}
	delete(s.locks, name)
	close(h.done)
	return nil
}
