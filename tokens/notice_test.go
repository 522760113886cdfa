package tokens

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// aboutAMinute is how soon what happens elsewhere is to be noticed here.
const aboutAMinute = noticeEvery + noticeJitter + refreshTick

// What another instance does to an account shows here while the token in
// memory is healthy.
func TestNotice(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		elsewhere func(f *fixture, known Token) *Token // nil: disconnected
		want      error
	}{
		"signed in anew": {elsewhere: func(f *fixture, known Token) *Token {
			return f.authorized()
		}},
		"refreshed": {elsewhere: func(f *fixture, known Token) *Token {
			next := *f.authorized()
			next.AuthorizedAt, next.Generation = known.AuthorizedAt, known.Generation+1
			f.save(&next)
			return &next
		}},
		"an older record": {elsewhere: func(f *fixture, known Token) *Token {
			older := *f.authorized()
			older.AuthorizedAt = known.AuthorizedAt.Add(-time.Hour)
			f.save(&older)
			return &known
		}},
		"disconnected": {want: ErrNotAuthorized, elsewhere: func(f *fixture, known Token) *Token {
			if err := f.store.Delete(f.t.Context(), f.account); err != nil {
				f.t.Fatal(err)
			}
			return nil
		}},
		"signed in at another provider": {want: ErrOtherRegistration, elsewhere: func(f *fixture, known Token) *Token {
			moved := *f.authorized()
			moved.Registration = "another"
			f.save(&moved)
			return nil
		}},
		"made unreadable": {elsewhere: func(f *fixture, known Token) *Token {
			f.storage.Put(f.account.storageKey(), []byte("rubbish"))
			return &known
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.authorized()
				s := f.source()
				stop := f.run(s)
				defer stop()
				time.Sleep(10 * time.Minute)
				f.mustToken(s)
				want := test.elsewhere(f, *s.cell.newest)
				time.Sleep(aboutAMinute)
				synctest.Wait()
				got, err := s.AccessToken(t.Context())
				if want == nil {
					if !errors.Is(err, test.want) {
						t.Errorf("AccessToken = %v, want %v", err, test.want)
					}
					return
				}
				if err != nil || got != want.AccessToken.Reveal() {
					t.Errorf("AccessToken = another token, %v", err)
				}
				if n := f.posts(); n != 0 {
					t.Errorf("%d posts", n)
				}
			})
		})
	}
}

// It costs a load a minute and account, no locks and no writes.
func TestNoticeIsCheap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = 24 * time.Hour
		f.authorized()
		s := f.source()
		stop := f.run(s)
		time.Sleep(time.Hour)
		stop()
		if n := f.storage.Count(tokenstest.OpLoad); n < 45 || n > 75 {
			t.Errorf("%d loads in an hour", n)
		}
		if n := f.storage.Count(tokenstest.OpLock) + f.storage.Count(tokenstest.OpStore); n != 1 { // the fixture's
			t.Errorf("%d locks and writes", n)
		}
	})
}

// Of very many accounts only those that are in use are watched.
func TestNoticeOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = 24 * time.Hour
		f.authorized()
		s := f.source()
		f.mustToken(s)
		looks := 0
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
			if op == tokenstest.OpLoad && key == f.account.storageKey() {
				looks++
			}
			return nil
		})
		stop := f.run(append(f.nobodies(manyAccounts), s)...)
		time.Sleep(3 * time.Hour)
		stop()
		if looks < 40 || looks > 75 {
			t.Errorf("%d loads, want one a look in the first hour", looks)
		}
		before := looks
		stop = f.run(s)
		time.Sleep(aboutAMinute)
		stop()
		if looks <= before {
			t.Error("not watched among few")
		}
	})
}

// What happens in this process while the storage is looked at is newer than
// the look.
func TestNoticeGivesWay(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(*fixture, *Source) *Token{
		"a sign-in": func(f *fixture, s *Source) *Token {
			token := f.authorized()
			s.Adopt(token)
			return token
		},
		"the start of a refresh": func(f *fixture, s *Source) *Token {
			f.storage.Put(f.account.storageKey(), nil)
			s.cell.mu.Lock()
			s.cell.flight = &flight{done: make(chan struct{})}
			s.cell.mu.Unlock()
			return s.cell.newest
		},
		"a refresh that can't be stored": func(f *fixture, s *Source) *Token {
			next := *s.cell.newest
			next.Generation++
			s.cell.issue(&next, false)
			return &next
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.authorized()
				s := f.source()
				f.mustToken(s)
				// As if disconnected: the look finds nothing.
				if err := f.store.Delete(t.Context(), f.account); err != nil {
					t.Fatal(err)
				}
				var want *Token
				loading := false
				f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
					if op == tokenstest.OpLoad && !loading {
						loading = true
						want = meanwhile(f, s)
						return f.store.Delete(t.Context(), f.account)
					}
					return nil
				})
				if err := s.notice(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := s.cell.token.Load(); want == nil || got != want {
					t.Errorf("the look won: %v", got)
				}
			})
		})
	}
}

// A token that is not stored is not lost with its record: renewals, which take
// the lock, decide.
func TestNoticeLeavesTheUnsaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		s, token := f.unsaved()
		f.storage.Fail(tokenstest.OpStore, 0, nil)
		time.Sleep(10 * time.Minute)
		s.cell.mu.Lock()
		defer s.cell.mu.Unlock()
		if s.watchedLocked(time.Now()) != never {
			t.Error("an unsaved token is watched")
		}
		if f.mustToken(s) != token {
			t.Error("another token")
		}
	})
}

// Without the storage nothing is noticed, and nothing lost.
func TestNoticeWithoutStorage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		a, b := f.source(), f.source()
		want := f.mustToken(a)
		f.mustToken(b)
		stop := f.run(a, b)
		defer stop()
		f.storage.Fail(tokenstest.OpLoad, -1, nil)
		time.Sleep(30 * time.Minute)
		if got := f.mustToken(a); got != want {
			t.Error("another token")
		}
	})
}
