package tokens

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// another is a further account, with a token that was sealed with the ring and
// is not due for long.
func (f *fixture) another(ring *KeyRing, n int) *Token {
	f.t.Helper()
	now := time.Now().UTC()
	t := &Token{
		Account: Account{Provider: "lab", User: fmt.Sprintf("user-%d@example.com", n)}, Generation: 1,
		AccessToken: NewSecret("a"), RefreshToken: NewSecret("r"), AuthorizedAt: now, IssuedAt: now, Expiry: now.Add(24 * time.Hour),
	}
	if err := NewStore(f.storage, func() (*KeyRing, error) { return ring, nil }).Save(f.t.Context(), t); err != nil {
		f.t.Fatal(err)
	}
	return t
}

// rewrap makes a pass.
func (f *fixture) rewrap(sources ...*Source) (*KeyUse, error) {
	return (&Rewrapper{Store: f.store, Sources: sources}).Run(f.t.Context())
}

func TestRewrap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		old, alien := testRing(t, 1), testRing(t, 9)
		f.ring = testRing(t, 2, 1)
		ids := f.ring.IDs()
		var tokens []*Token
		for n := range 40 {
			tokens = append(tokens, f.another(old, n))
		}
		f.another(f.ring, 40)
		f.another(alien, 41)
		// What else may lie there.
		one := tokens[0].Account.storageKey()
		folder := one[:strings.LastIndex(one, "/")]
		for _, foreign := range []string{folder + "/12345678", folder + "/notes.tok", folder + "/sub/x.tok", "oauth_mail/tokens/README", "oauth_mail/tokens/zz/" + one[len(folder)+1:]} {
			f.storage.Put(foreign, []byte("foreign"))
		}
		before := map[string][]byte{}
		for _, key := range f.storage.Keys() {
			before[key] = f.storage.Get(key)
		}
		if has, err := f.store.HasRecords(t.Context()); !has || err != nil {
			t.Errorf("HasRecords = %v, %v", has, err)
		}
		f.storage.Tear(folder, listTries-1)
		use, err := f.rewrap()
		if err != nil {
			t.Fatal(err)
		}
		if use.Rewrapped != 40 || use.Records[ids[0]] != 41 || use.Records[ids[1]] != 0 || use.Records[alien.IDs()[0]] != 1 || use.Left+use.Damaged+use.Newer+use.Failures != 0 {
			t.Errorf("found %+v", *use)
		}
		if !use.Unneeded(ids[1]) || use.Unneeded(ids[0]) || use.Unneeded(alien.IDs()[0]) {
			t.Error("wrong about which keys are needed")
		}
		if use.Ended.Sub(use.Began) < 40*rewrapRest {
			t.Errorf("the pass did not take its time: %v", use.Ended.Sub(use.Began))
		}
		f.ring = testRing(t, 2) // the old key is dropped
		for _, want := range tokens {
			if got, err := f.store.Load(t.Context(), want.Account); err != nil || got.Generation != want.Generation || got.RefreshToken.Reveal() != "r" {
				t.Errorf("%s: %v", want.Account, err)
			}
			delete(before, want.Account.storageKey())
		}
		for key, data := range before {
			if !bytes.Equal(data, f.storage.Get(key)) {
				t.Errorf("%s was changed", key)
			}
		}
		if f.storage.Locked() != 0 {
			t.Error("a lock is still held")
		}
		stores := f.storage.Count(tokenstest.OpStore)
		f.storage.Tear(folder, listTries)
		if use, err = f.rewrap(); !errors.Is(err, fs.ErrNotExist) || use.Failures != 1 || use.Unneeded(ids[1]) {
			t.Errorf("a folder that cannot be listed: %+v, %v", use, err)
		}
		if use, err = f.rewrap(); err != nil || use.Rewrapped != 0 || f.storage.Count(tokenstest.OpStore) != stores {
			t.Errorf("a second pass: %+v, %v", use, err)
		}
	})
}

// TestRewrapLeaves: what a pass must not touch.
func TestRewrapLeaves(t *testing.T) {
	t.Parallel()
	type want struct{ left, damaged, newer, failures int }
	for name, test := range map[string]struct {
		// arrange spoils something; what it returns is what is to lie there in the end.
		arrange func(f *fixture, t *Token, key string) []byte
		want    want
	}{
		"its renewal is near": {func(f *fixture, t *Token, key string) []byte {
			time.Sleep(time.Until(t.due()) - rewrapBefore + time.Second)
			return f.storage.Get(key)
		}, want{left: 1}},
		"its renewal is overdue": {func(f *fixture, t *Token, key string) []byte {
			time.Sleep(time.Until(t.due()) + time.Minute)
			return f.storage.Get(key)
		}, want{left: 1}},
		"damaged": {func(f *fixture, _ *Token, key string) []byte {
			data := f.storage.Get(key)
			data[len(data)-1] ^= 1
			f.storage.Put(key, data)
			return data
		}, want{damaged: 1}},
		"no record": {func(f *fixture, _ *Token, key string) []byte {
			f.storage.Put(key, []byte("rubbish"))
			return []byte("rubbish")
		}, want{damaged: 1}},
		"another account's": {func(f *fixture, t *Token, key string) []byte {
			other := *t
			other.Account.User = "x@example.com"
			plain, _ := encodeToken(&other)
			sealed, _ := testRing(f.t, 1).Seal(key, plain)
			f.storage.Put(key, sealed)
			return sealed
		}, want{damaged: 1}},
		"newer seal": {func(f *fixture, _ *Token, key string) []byte {
			data := f.storage.Get(key)
			data[len(sealMagic)]++
			f.storage.Put(key, data)
			return data
		}, want{newer: 1}},
		"newer record": {func(f *fixture, _ *Token, key string) []byte {
			sealed, _ := testRing(f.t, 1).Seal(key, []byte(`{"version":2}`))
			f.storage.Put(key, sealed)
			return sealed
		}, want{newer: 1, left: 1}},
		"refreshed before the lock is had": {func(f *fixture, t *Token, key string) []byte {
			return f.meanwhile(tokenstest.OpLock, 1, t)
		}, want{left: 1}},
		"refreshed before the second look": {func(f *fixture, t *Token, key string) []byte {
			return f.meanwhile(tokenstest.OpLoad, 2, t)
		}, want{left: 1}},
		"its lock cannot be had": {func(f *fixture, _ *Token, key string) []byte {
			f.storage.Fail(tokenstest.OpLock, -1, nil)
			return f.storage.Get(key)
		}, want{left: 1, failures: 1}},
		"it cannot be read": {func(f *fixture, _ *Token, key string) []byte {
			f.storage.Fail(tokenstest.OpLoad, -1, nil)
			return f.storage.Get(key)
		}, want{failures: 1}},
		"it cannot be stored": {func(f *fixture, _ *Token, key string) []byte {
			f.storage.Fail(tokenstest.OpStore, -1, nil)
			return f.storage.Get(key)
		}, want{left: 1, failures: 1}},
		"no folder can be listed": {func(f *fixture, _ *Token, key string) []byte {
			f.storage.Fail(tokenstest.OpList, -1, nil)
			return f.storage.Get(key)
		}, want{failures: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				token := f.another(testRing(t, 1), 0)
				key := token.Account.storageKey()
				f.ring = testRing(t, 2, 1)
				data := test.arrange(f, token, key)
				use, err := f.rewrap()
				if (err != nil) != (test.want.failures > 0) {
					t.Errorf("error %v", err)
				}
				if got := (want{use.Left, use.Damaged, use.Newer, use.Failures}); got != test.want || use.Rewrapped != 0 {
					t.Errorf("got %+v, rewrapped %d; want %+v", got, use.Rewrapped, test.want)
				}
				if use.Unneeded(f.ring.IDs()[1]) != (test.want == want{damaged: 1}) {
					t.Errorf("the old key is unneeded: %v", use.Unneeded(f.ring.IDs()[1]))
				}
				if !bytes.Equal(data, f.storage.Get(key)) {
					t.Error("the record was changed")
				}
			})
		})
	}
}

// meanwhile stores a refreshed token, sealed with the old key, right before the
// nth operation of a kind on a record or lock. It returns the new record.
func (f *fixture) meanwhile(op tokenstest.Op, n int, t *Token) []byte {
	next := *t
	next.Generation++
	plain, err := encodeToken(&next)
	if err != nil {
		f.t.Fatal(err)
	}
	key := t.Account.storageKey()
	sealed, err := testRing(f.t, 1).Seal(key, plain)
	if err != nil {
		f.t.Fatal(err)
	}
	f.storage.Hook(func(_ context.Context, o tokenstest.Op, _ string) error {
		if o == op {
			if n--; n == 0 {
				f.storage.Put(key, sealed)
			}
		}
		return nil
	})
	return sealed
}

// TestRewrapKnowsNewer: with a storage that answers with what it held before,
// this process's own word counts.
func TestRewrapKnowsNewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		first := f.another(testRing(t, 1), 0)
		second := *first
		second.Generation++
		f.save(&second)
		cell := &Cell{}
		f.account = first.Account
		s := f.sourceOf(cell, f.client)
		cell.publish(&second, true)
		f.ring = testRing(t, 2, 1)
		f.storage.Stale(1)
		use, err := f.rewrap(s)
		if err != nil || use.Rewrapped != 0 || use.Left != 1 {
			t.Errorf("%+v, %v", use, err)
		}
		if got := f.stored(); got.Generation != 2 {
			t.Errorf("generation %d is stored", got.Generation)
		}
		if use, _ = f.rewrap(s); use.Rewrapped != 1 || f.stored().Generation != 2 {
			t.Errorf("%+v", use)
		}
	})
}

// Within a process a record is not sealed anew while its token is refreshed,
// though the lock may exclude nobody there.
func TestRewrapAndRefreshInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.storage.Lie()
		f.server.Life = 12 * time.Hour
		f.authorized()
		s := f.source()
		f.mustToken(s)
		f.ring = testRing(t, 2, 1)
		began := make(chan struct{})
		slow := sync.OnceFunc(func() {
			close(began)
			time.Sleep(3 * time.Second)
		})
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
			if op == tokenstest.OpStore && key == f.account.storageKey() {
				slow() // the write of the pass
			}
			return nil
		})
		go func() { _, _ = f.rewrap(s) }()
		<-began
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if g := f.stored().Generation; g != 2 {
			t.Errorf("generation %d is stored", g)
		}
	})
}

// TestRewrapBesideRefreshes: passes all the time at one process, refreshes at
// another, a lock that does nothing and a slow storage. Nothing is undone.
func TestRewrapBesideRefreshes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		f.storage.Lie()
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
			if op != tokenstest.OpList {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		})
		refreshing := f.source() // it has the old key only, as an instance that is not yet reconfigured
		stop := f.run(refreshing)
		f.ring = testRing(t, 1, 2)
		other := NewStore(f.storage, func() (*KeyRing, error) { return testRing(t, 2, 1), nil })
		rewrapped := 0
		for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); time.Sleep(2 * time.Minute) {
			use, err := (&Rewrapper{Store: other}).Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			rewrapped += use.Rewrapped
		}
		stop()
		f.presentedOnce()
		if got := f.stored(); got.Generation != uint64(1+f.posts()) || got.Generation < 6 {
			t.Errorf("generation %d is stored after %d refreshes", got.Generation, f.posts())
		}
		if rewrapped < 5 {
			t.Errorf("only %d records were sealed anew", rewrapped)
		}
	})
}

func TestRewrapEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		for n := range 40 {
			f.another(f.ring, n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		use, err := (&Rewrapper{Store: f.store}).Run(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !use.Ended.IsZero() {
			t.Errorf("%+v, %v", use, err)
		}
		if took := time.Since(began); took > 200*time.Millisecond {
			t.Errorf("it went on for %v", took)
		}
		none := NewStore(f.storage, func() (*KeyRing, error) { return nil, errors.New("no key") })
		if use, err := (&Rewrapper{Store: none}).Run(t.Context()); use != nil || err == nil {
			t.Error("a pass without a key")
		}
	})
}

// TestMissingFolders: storages differ in what they say of folders that hold
// nothing.
func TestMissingFolders(t *testing.T) {
	t.Parallel()
	down := errors.New("connection refused")
	for name, test := range map[string]struct {
		list func() ([]string, error)
		err  error
	}{
		"not exist":            {func() ([]string, error) { return nil, fs.ErrNotExist }, nil},
		"empty":                {func() ([]string, error) { return []string{}, nil }, nil},
		"itself, as a folder":  {func() ([]string, error) { return []string{"oauth_mail", "oauth_mail/tokens", "oauth_mail/states"}, nil }, nil},
		"twice, and in folder": {func() ([]string, error) { return []string{"oauth_mail/tokens/00", "oauth_mail/tokens/00/"}, nil }, nil},
		"trouble":              {func() ([]string, error) { return nil, down }, down},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := NewStore(listing{tokenstest.NewStorage(), test.list}, func() (*KeyRing, error) { return testRing(t, 1, 2), nil })
				if has, err := s.HasRecords(t.Context()); has || !errors.Is(err, test.err) {
					t.Errorf("HasRecords = %v, %v", has, err)
				}
				if err := s.SweepStates(t.Context(), time.Now()); !errors.Is(err, test.err) {
					t.Errorf("SweepStates: %v", err)
				}
				if use, err := (&Rewrapper{Store: s}).Run(t.Context()); !errors.Is(err, test.err) || use.Unneeded(KeyID{}) != (err == nil) {
					t.Errorf("Rewrapper: %+v, %v", use, err)
				}
			})
		})
	}
}

// listing is a storage whose List answers in a way of its own.
type listing struct {
	*tokenstest.Storage
	list func() ([]string, error)
}

func (l listing) List(context.Context, string, bool) ([]string, error) { return l.list() }

func TestKeyIDs(t *testing.T) {
	t.Parallel()
	ring := testRing(t, 2, 1, 2)
	ids := ring.IDs()
	if len(ids) != 2 || ids[0] != testRing(t, 2).IDs()[0] || ids[1] != testRing(t, 1).IDs()[0] || ids[0] == ids[1] {
		t.Errorf("ids %v", ids)
	}
	if got := testRing(t, 1).IDs()[0].String(); got != "23093bf8" {
		t.Errorf("id %s", got)
	}
	sealed, err := ring.Seal("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := sealedBy(sealed); err != nil || id != ids[0] {
		t.Errorf("sealed by %v, %v", id, err)
	}
}
