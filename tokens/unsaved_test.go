package tokens

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestStoreFailingAfterRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		f.storage.Fail(tokenstest.OpStore, -1, nil)
		s := f.source()
		stop := f.run(s)
		defer stop()
		first := f.mustToken(s)
		if f.stored().Generation != old.Generation {
			t.Fatal("the storage took it, though it fails")
		}
		time.Sleep(30 * time.Minute)
		if got := f.mustToken(s); got != first {
			t.Error("the token in memory was replaced")
		}
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
		if st := s.Status(t.Context()); st.State != StateFailing {
			t.Errorf("status %v, want the trouble with the storage to show", st)
		}
		// It outlasts the token: mail goes on, and no refresh token is presented
		// twice.
		time.Sleep(2 * time.Hour)
		f.mustToken(s)
		f.storage.Fail(tokenstest.OpStore, 0, nil)
		time.Sleep(20 * time.Minute)
		last := f.mustToken(s)
		if now := f.stored(); now.AccessToken.Reveal() != last || now.Failure != nil {
			t.Error("the token was not stored later")
		}
		f.presentedOnce()
		if st := s.Status(t.Context()); st.State != StateAuthorized {
			t.Errorf("status %v", st)
		}
		if !strings.Contains(f.log.String(), "kept in memory only") {
			t.Error("the log says nothing")
		}
	})
}

func TestStoreFailingForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old := f.expired()
		f.storage.Fail(tokenstest.OpStore, 4, nil)
		s := f.source()
		f.mustToken(s)
		if got := f.stored(); got.Generation != old.Generation+1 {
			t.Error("the token was handed out before it was stored")
		}
	})
}

// A refused token that could not be stored is refused all the same.
func TestRejectUnsaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		s, first := f.unsaved()
		s.Reject(first)
		if got := f.mustToken(s); got == first {
			t.Error("the refused token was handed out again")
		}
		f.presentedOnce()
	})
}

// Some storages answer for a while with what they held before.
func TestStaleLoads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		s := f.source()
		f.mustToken(s)
		f.storage.Stale(1000)
		for range 5 {
			if err := s.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		f.presentedOnce()
	})
}

func TestStorageDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		f.mustToken(s)
		f.storage.Fail(tokenstest.OpLoad, -1, nil)
		stop := f.run(s)
		defer stop()
		time.Sleep(55 * time.Minute)
		f.mustToken(s)
		time.Sleep(time.Hour)
		f.mustFail(s, KindTransient)
		if n := f.posts(); n != 0 {
			t.Errorf("%d posts with a storage that can't be read", n)
		}
		if n := f.storage.Count(tokenstest.OpLoad); n > 170 { // one every 50 seconds at most, to notice what others do, and few to renew
			t.Errorf("%d loads in two hours", n)
		}
		f.storage.Fail(tokenstest.OpLoad, 0, nil)
		time.Sleep(16 * time.Minute)
		f.mustToken(s)
	})
}

func TestUnreadableRecord(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil func(*fixture)
		want  error
	}{
		"other key": {func(f *fixture) { f.ring = testRing(f.t, 7) }, ErrUnknownKey},
		"rubbish":   {func(f *fixture) { f.storage.Put(f.account.storageKey(), []byte("rubbish")) }, ErrCorrupt},
		"newer seal": {func(f *fixture) {
			sealed := f.storage.Get(f.account.storageKey())
			sealed[len(sealMagic)]++
			f.storage.Put(f.account.storageKey(), sealed)
		}, ErrNewerFormat},
		"newer record": {func(f *fixture) {
			sealed, err := f.ring.Seal(f.account.storageKey(), []byte(`{"version":2}`))
			if err != nil {
				f.t.Fatal(err)
			}
			f.storage.Put(f.account.storageKey(), sealed)
		}, ErrNewerFormat},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.authorized()
				test.spoil(f)
				before := string(f.storage.Get(f.account.storageKey()))
				s := f.source()
				stop := f.run(s)
				time.Sleep(time.Minute)
				// Its own kind shows through, also in the answers of a pause and of
				// a refresh that is asked for.
				for range 2 {
					if e := f.mustFail(s, KindConfig); !errors.Is(e, test.want) {
						t.Errorf("%v, want %v", e, test.want)
					}
				}
				if err := s.Refresh(t.Context()); !errors.Is(err, test.want) {
					t.Errorf("Refresh: %v, want %v", err, test.want)
				}
				if st := s.Status(t.Context()); st.State != StateUnknown {
					t.Errorf("status %v", st)
				}
				stop()
				if string(f.storage.Get(f.account.storageKey())) != before {
					t.Error("the record was changed")
				}
			})
		})
	}
}

// A token that is in memory only is stored soon after the storage is well again,
// whatever keeps the provider from being asked.
func TestUnsavedIsStoredSoon(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		outage time.Duration
		fail   tokenstest.Op
		busy   time.Duration // the provider's
	}{
		"the provider is busy":          {time.Minute, tokenstest.OpStore, 30 * time.Minute},
		"after a long outage":           {80 * time.Minute, tokenstest.OpStore, 0},
		"after a long outage of lookup": {80 * time.Minute, tokenstest.OpLoad, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				s, _ := f.unsaved()
				f.storage.Fail(test.fail, -1, nil)
				if test.fail != tokenstest.OpStore {
					f.storage.Fail(tokenstest.OpStore, 0, nil)
				}
				s.pacer().complain(test.busy)
				f.run(s)
				time.Sleep(test.outage)
				f.storage.Fail(test.fail, 0, nil)
				time.Sleep(lockPause + refreshTick)
				if f.stored().Generation != 2 {
					t.Error("the new token is not stored")
				}
				if n := f.posts(); n != 1 {
					t.Errorf("%d posts", n)
				}
			})
		})
	}
}

// A storage that has lost a write that it had acknowledged gets it again with the
// next look.
func TestLostWriteIsMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		before := f.storage.Get(f.account.storageKey())
		s := f.source()
		f.mustToken(s)
		f.storage.Put(f.account.storageKey(), before) // a replica took over
		if err := s.renew(t.Context(), renewal{}); err != nil {
			t.Fatal(err)
		}
		if f.stored().Generation != 2 || f.posts() != 1 {
			t.Errorf("generation %d is stored after %d posts", f.stored().Generation, f.posts())
		}
	})
}

// One answer that a record is missing ends no grant: it may be a replica's.
func TestMissingOnce(t *testing.T) {
	t.Parallel()
	for _, nth := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(nth), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.expired()
				n := 0
				f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
					if op == tokenstest.OpLoad && key == f.account.storageKey() {
						if n++; n == nth {
							return fs.ErrNotExist
						}
					}
					return nil
				})
				s := f.source()
				_, _ = s.AccessToken(t.Context())
				time.Sleep(time.Minute)
				f.mustToken(s)
				for _, r := range f.server.Requests() {
					if r.Path == tokenstest.PathRevoke {
						t.Error("the grant was revoked")
					}
				}
			})
		})
	}
}

// The only copy of a token is not given up because the storage has none.
func TestOnlyCopyIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		s, token := f.unsaved()
		if err := f.storage.Delete(t.Context(), f.account.storageKey()); err != nil {
			t.Fatal(err)
		}
		f.run(s)
		time.Sleep(10 * time.Minute)
		f.storage.Fail(tokenstest.OpStore, 0, nil)
		time.Sleep(2 * lockPause)
		if f.mustToken(s) != token {
			t.Error("another token")
		}
		if got := f.stored(); got == nil || got.Generation != 2 {
			t.Error("the token is not stored")
		}
	})
}
