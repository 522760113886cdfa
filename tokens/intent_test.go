package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// intentsOf reads an instance's record past every fault; nil for none.
func (f *fixture) intentsOf(s *Store) []intent {
	f.t.Helper()
	sealed := f.storage.Get(s.intents.key)
	if sealed == nil {
		return nil
	}
	plain, err := f.ring.Open(s.intents.key, sealed)
	var r intentRecord
	if err != nil || json.Unmarshal(plain, &r) != nil {
		f.t.Fatalf("intents: %v", err)
	}
	return r.Intents
}

// A refresh token is presented only after that was noted.
func TestIntentBeforeRefresh(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Provider)
		want   int
	}{
		"unknown rotation": {func(*Provider) {}, 1},
		"strict":           {func(p *Provider) { p.Rotation = RotationStrict }, 1},
		"no rotation":      {func(p *Provider) { p.Rotation = RotationNone }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				old := f.expired()
				p := f.provider()
				test.change(&p)
				gate := make(chan struct{})
				f.server.Next(tokenstest.Wait(gate))
				s := f.sourceOf(&Cell{}, NewClient(p, f.server))
				go func() { _, _ = s.AccessToken(t.Context()) }()
				synctest.Wait()
				got := f.intentsOf(f.store)
				if len(got) != test.want || test.want > 0 && (got[0].Account != f.account || got[0].Generation != old.Generation) {
					t.Errorf("while the provider is asked %+v is noted", got)
				}
				if sealed := f.storage.Get(f.store.intents.key); strings.Contains(string(sealed), f.account.User) {
					t.Error("the record is not sealed")
				}
				close(gate)
				synctest.Wait()
				f.mustToken(s)
				if test.want > 0 && !f.store.intents.noted[f.account].done {
					t.Error("it stays open after the refresh")
				}
			})
		})
	}
}

// A write covers all that wait for it.
func TestIntentsAreGrouped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		gate := make(chan struct{})
		writes := 0
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
			if op == tokenstest.OpStore {
				writes++
				<-gate
			}
			return nil
		})
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				err := f.store.intents.note(intent{Account: Account{"lab", fmt.Sprint(i)}, Generation: 1})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(gate)
		wg.Wait()
		if writes != 2 {
			t.Errorf("%d writes, want 2", writes)
		}
		if n := len(f.intentsOf(f.store)); n != 100 {
			t.Errorf("%d are noted, want 100", n)
		}
		for i := range 99 {
			f.store.intents.done(Account{"lab", fmt.Sprint(i)}, false)
		}
		if err := f.store.intents.note(intent{Account: Account{"lab", "99"}, Generation: 1}); err != nil || writes != 2 {
			t.Errorf("what is noted is noted again: %v, %d writes", err, writes)
		}
		if err := f.store.intents.note(intent{Account: Account{"lab", "99"}, Generation: 2}); err != nil {
			t.Error(err)
		}
		if got := f.intentsOf(f.store); len(got) != 1 || got[0].Generation != 2 {
			t.Errorf("%+v is noted, want what is open", got)
		}
	})
}

func TestIntentsOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		p := f.provider()
		p.RefreshRate = -1
		f.client = NewClient(p, f.server)
		var sources []*Source
		for i := range 500 {
			f.account.User = fmt.Sprintf("user-%d@example.com", i)
			f.expired()
			sources = append(sources, f.source())
		}
		var mu sync.Mutex
		notes := 0
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
			if op == tokenstest.OpStore && isIntentKey(key) {
				mu.Lock()
				notes++
				mu.Unlock()
			}
			time.Sleep(time.Millisecond)
			return nil
		})
		stop := f.run(sources...)
		time.Sleep(time.Minute)
		stop()
		if n := f.count("refreshed"); n != 500 {
			t.Errorf("%d refreshed, want 500", n)
		}
		mu.Lock()
		defer mu.Unlock()
		if notes == 0 || notes > 500/20 { // four at a time without any notice would be 125 at best
			t.Errorf("%d writes to note 500 refreshes", notes)
		}
	})
}

// A storage that takes no intents takes no mailbox with it.
func TestIntentsUnstorable(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"error": func() error { return tokenstest.ErrFault },
		"panic": func() error { panic("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.expired()
				f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
					if op == tokenstest.OpStore && isIntentKey(key) {
						return fail()
					}
					return nil
				})
				began := time.Now()
				f.mustToken(f.source())
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %v", took)
				}
				if !strings.Contains(f.log.String(), "could not be noted") {
					t.Error("the log says nothing")
				}
			})
		})
	}
}

// kill -9 between the provider's answer and the storage: another process takes
// the refresh up while the provider still takes the old refresh token, though
// the access token is fresh and the provider's pace is slow.
func TestRefreshCutShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Grace = 30 * time.Second
		old := f.authorized()
		a := f.source()
		dead := make(chan struct{})
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
			if op == tokenstest.OpStore && key == f.account.storageKey() {
				<-dead // the process is no more
				return errors.New("dead")
			}
			return nil
		})
		go func() { _ = a.Refresh(t.Context()) }()
		synctest.Wait()
		f.storage.Hook(nil)
		if err := f.storage.Unlock(t.Context(), f.account.lockName()); err != nil { // it grows stale
			t.Fatal(err)
		}
		silent := f.store.intents
		f.store = NewStore(f.storage, f.keys) // of the next process
		p := f.provider()
		p.RefreshRate = 0.001
		f.client = NewClient(p, f.server)
		b := f.source()
		b.pacer().setRate(0.001)
		b.pacer().complain(time.Hour)
		began := time.Now()
		stop := f.run(b)
		for f.stored().Generation == old.Generation && time.Since(began) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := f.posts(); n != 2 {
			t.Errorf("%d posts, want 2", n)
		}
		f.mustToken(b)
		time.Sleep(2 * intentKeep)
		if f.storage.Get(silent.key) != nil {
			t.Error("the dead instance's record is still there")
		}
		if f.storage.Get(f.store.intents.key) != nil {
			t.Error("the own record is still there, with nothing open")
		}
		if n := f.posts(); n != 2 {
			t.Errorf("%d posts in the end, want 2", n)
		}
		stop()
		close(dead)
		time.Sleep(saveTimeout)
	})
}

// Who works on a refresh for long is not dead, even where the lock lies.
func TestSlowRefreshIsNotCutShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.storage.Lie()
		f.expired()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		stopA := f.run(f.source())
		synctest.Wait()
		f.store = NewStore(f.storage, f.keys)
		fresh := f.source() // it thinks that nothing is due
		fresh.opts.Now = func() time.Time { return time.Now().Add(-90 * time.Minute) }
		stopB := f.run(fresh)
		time.Sleep(25 * time.Second)
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts while the first is under way", n)
		}
		close(gate)
		time.Sleep(time.Minute)
		stopA()
		stopB()
		f.presentedOnce()
	})
}

// A refresh that fails, or takes long, at an instance that lives is not taken up
// by another, though its lock lies, the storage is slow and it is being reloaded.
func TestTheLivingAreNotTakenForDead(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lag    time.Duration
		phase  time.Duration
		reload bool
		fails  bool
	}{
		"slow storage":  {lag: 300 * time.Millisecond, phase: 100 * time.Millisecond},
		"slower":        {lag: time.Second, phase: 2300 * time.Millisecond},
		"reload":        {phase: time.Second, reload: true},
		"it has failed": {phase: time.Second, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.storage.Lie()
				f.expired()
				gate := make(chan struct{})
				if test.fails {
					for range 20 {
						f.server.Next(tokenstest.Status(429, "", "Retry-After", "600"))
					}
				} else {
					f.server.Next(tokenstest.Wait(gate))
				}
				f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
					if op == tokenstest.OpStore && isIntentKey(key) {
						time.Sleep(test.lag)
					}
					return nil
				})
				cancelA, doneA := f.refresher(&Refresher{Sources: []*Source{f.source()}, Store: f.store})
				time.Sleep(test.phase)
				f.store = NewStore(f.storage, f.keys)
				fresh := f.source() // it thinks that nothing is due
				fresh.opts.Now = func() time.Time { return time.Now().Add(-90 * time.Minute) }
				stopB := f.run(fresh)
				time.Sleep(time.Second)
				if test.reload {
					cancelA()
				}
				time.Sleep(25 * time.Second)
				if n := f.posts(); n != 1 {
					t.Errorf("%d posts, want that of the first only", n)
				}
				close(gate)
				time.Sleep(time.Minute)
				cancelA()
				<-doneA
				stopB()
				f.presentedOnce()
			})
		})
	}
}

// What the background gives up is not what somebody else is presenting.
func TestAskWithdrawsNothingPresented(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		s := f.source()
		s.pacer().complain(10 * time.Second) // the background's turn comes then
		stop := f.run(s)
		time.Sleep(time.Second)
		go func() { _, _ = s.AccessToken(t.Context()) }()
		time.Sleep(20 * time.Second)
		if n := f.posts(); n != 1 || !f.store.intents.knows([]*Source{s}) {
			t.Errorf("after %d posts the refresh under way is no longer noted", n)
		}
		close(gate)
		synctest.Wait()
		stop()
		if f.storage.Get(f.store.intents.key) != nil {
			t.Error("the record is left, with nothing open")
		}
	})
}

// A record that can't be loaded hides no other.
func TestUnreadableIntents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		broken, dead, alive := NewStore(f.storage, f.keys), NewStore(f.storage, f.keys), NewStore(f.storage, f.keys)
		for _, s := range []*Store{broken, dead} {
			if err := s.intents.note(intent{Account: f.account, Generation: 1, At: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
			if op == tokenstest.OpLoad && key == broken.intents.key {
				return errors.New("input/output error")
			}
			return nil
		})
		_, _ = alive.intents.abandoned(t.Context())
		time.Sleep(intentSilence + time.Second)
		silent, err := alive.intents.abandoned(t.Context())
		if err == nil || len(silent) != 1 || silent[0].key != dead.intents.key {
			t.Errorf("%d found, %v", len(silent), err)
		}
	})
}
