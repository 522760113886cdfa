package tokens

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	if _, err := f.store.Load(t.Context(), f.account); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("loading nothing: %v", err)
	}
	if has, err := f.store.HasRecords(t.Context()); has || err != nil {
		t.Errorf("HasRecords of an empty storage = %v, %v", has, err)
	}
	want := f.authorized()
	got, err := f.store.Load(t.Context(), f.account)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, revealed, cmpopts.IgnoreUnexported(Token{})); diff != "" {
		t.Error(diff)
	}
	if has, err := f.store.HasRecords(t.Context()); !has || err != nil {
		t.Errorf("HasRecords = %v, %v", has, err)
	}
	for _, key := range f.storage.Keys() {
		if strings.Contains(key, "noreply") || !strings.HasPrefix(key, "oauth_mail/") {
			t.Errorf("key %q", key)
		}
		if data := string(f.storage.Get(key)); strings.Contains(data, want.RefreshToken.Reveal()) || strings.Contains(data, "noreply") {
			t.Error("the record is not sealed")
		}
	}
	for range 2 { // the second time nothing is there
		if err := f.store.Delete(t.Context(), f.account); err != nil {
			t.Error(err)
		}
	}
}

// A record that is known is not opened again, and any other one is.
func TestStoreReload(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.authorized()
	known, err := f.store.Load(t.Context(), f.account)
	if err != nil {
		t.Fatal(err)
	}
	key := f.account.storageKey()
	record := f.storage.Get(key)
	reload := func(known *Token) *Token {
		t.Helper()
		got, err := f.store.reload(t.Context(), f.account, known)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if reload(known) != known {
		t.Error("the record of a known token was opened again")
	}
	ring := f.ring
	f.ring = testRing(t, 2)
	if _, err := f.store.reload(t.Context(), f.account, known); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("without the key of a known token: %v", err)
	}
	f.ring = ring
	edited := known.edit()
	edited.Revoked = true
	if got := reload(&edited); got == &edited || got.Revoked {
		t.Error("a token that was changed passes for the one that is stored")
	}
	f.save(&edited)
	if got := reload(known); got == known || !got.Revoked {
		t.Error("a known token passes for the one that has taken its place")
	}
	f.storage.Put(key, append(record[:len(record)-1:len(record)-1], record[len(record)-1]^1))
	if got, err := f.store.reload(t.Context(), f.account, known); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a damaged record is %v, %v", got, err)
	}
}

// The record that a refresh has stored is known, and what a failed one has shown is
// in none.
func TestRefreshKnowsItsRecord(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.expired()
	s := f.source()
	f.mustToken(s)
	s.cell.mu.Lock()
	issued := s.cell.newest
	s.cell.mu.Unlock()
	if got, err := f.store.reload(t.Context(), f.account, issued); got != issued || err != nil {
		t.Errorf("the record of the token that was just stored is not known to be its: %v", err)
	}
	f.server.Next(tokenstest.Status(http.StatusBadGateway, ""))
	if err := s.Refresh(t.Context()); err == nil {
		t.Fatal("the refresh did not fail")
	}
	s.cell.mu.Lock()
	failed := s.cell.newest
	s.cell.mu.Unlock()
	if got, err := f.store.reload(t.Context(), f.account, failed); got == failed || err != nil || got.Failure != nil {
		t.Errorf("what a failure has shown passes for what is stored: %v", err)
	}
}

func TestStoreRefusesMovedRecord(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.authorized()
	other := Account{Provider: "lab", User: "boss@example.com"}
	f.storage.Put(other.storageKey(), f.storage.Get(f.account.storageKey()))
	if _, err := f.store.Load(t.Context(), other); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a record copied to another account: %v", err)
	}
	// Sealed for the place, but of another account: nobody writes that.
	plain, _ := encodeToken(f.stored())
	sealed, _ := f.ring.Seal(other.storageKey(), plain)
	f.storage.Put(other.storageKey(), sealed)
	if _, err := f.store.Load(t.Context(), other); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another account's record: %v", err)
	}
}

func TestStoreFaults(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	token := f.authorized()
	f.storage.Fail(tokenstest.OpLoad, 1, nil)
	if _, err := f.store.Load(t.Context(), f.account); !errors.Is(err, tokenstest.ErrFault) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load: %v", err)
	}
	f.storage.Fail(tokenstest.OpStore, 1, nil)
	if err := f.store.Save(t.Context(), token); !errors.Is(err, tokenstest.ErrFault) {
		t.Errorf("Save: %v", err)
	}
	f.storage.Fail(tokenstest.OpDelete, 1, nil)
	if err := f.store.Delete(t.Context(), f.account); !errors.Is(err, tokenstest.ErrFault) {
		t.Errorf("Delete: %v", err)
	}
	f.storage.Fail(tokenstest.OpList, 1, nil)
	if _, err := f.store.HasRecords(t.Context()); !errors.Is(err, tokenstest.ErrFault) {
		t.Errorf("HasRecords: %v", err)
	}
	noKeys := NewStore(f.storage, func() (*KeyRing, error) { return nil, errors.New("no key") })
	if _, err := noKeys.Load(t.Context(), f.account); err == nil {
		t.Error("loaded without a key")
	}
	if err := noKeys.Save(t.Context(), token); err == nil {
		t.Error("saved without a key")
	}
}

func TestLockContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		ctx, cancel := context.WithCancel(t.Context())
		unlock, err := f.store.lock(ctx, f.account)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lockTimeout) // the limit was for taking it
		began := time.Now()
		if _, err := f.store.lock(t.Context(), f.account); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second lock: %v", err)
		}
		if waited := time.Since(began); waited != lockTimeout {
			t.Errorf("waited %v for the lock", waited)
		}
		if f.storage.LostLocks() != 0 {
			t.Error("the lock was lost while held")
		}
		unlock()
		cancel()
		if f.storage.Locked() != 0 || f.storage.LostLocks() != 0 {
			t.Errorf("%d locks held, %d lost", f.storage.Locked(), f.storage.LostLocks())
		}
		// Unlocking works when the caller has gone.
		ctx, cancel = context.WithCancel(t.Context())
		unlock, err = f.store.lock(ctx, f.account)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		unlock()
		if f.storage.Locked() != 0 {
			t.Error("the lock is still held")
		}
	})
}

func TestClaimState(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	now := time.Now()
	if err := f.store.claimState(t.Context(), "s", now); err != nil {
		t.Fatal(err)
	}
	elsewhere := NewStore(f.storage, f.keys)
	for name, s := range map[string]*Store{"here": f.store, "at another instance": elsewhere} {
		if err := s.claimState(t.Context(), "s", now); !errors.Is(err, errSpent) {
			t.Errorf("claimed twice %s: %v", name, err)
		}
	}
	// A storage that fails lets a sign-in pass, but once in this process.
	f.storage.Fail(tokenstest.OpLoad, -1, nil)
	f.storage.Fail(tokenstest.OpStore, -1, nil)
	if err := f.store.claimState(t.Context(), "t", now); err != nil {
		t.Errorf("with the storage down: %v", err)
	}
	if err := f.store.claimState(t.Context(), "t", now); !errors.Is(err, errSpent) {
		t.Errorf("claimed twice with the storage down: %v", err)
	}
	// What was claimed long ago is forgotten.
	_ = f.store.claimState(t.Context(), "u", now.Add(markLife+time.Second))
	if n := len(f.store.spent); n != 1 {
		t.Errorf("%d states are remembered", n)
	}
}
