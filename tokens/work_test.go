package tokens

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w work
		if err := w.wait(t.Context()); err != nil {
			t.Errorf("idle: %v", err)
		}
		w.begin()
		w.begin()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("busy: %v", err)
		}
		var done atomic.Int32
		for range 3 {
			go func() {
				if err := w.wait(t.Context()); err == nil {
					done.Add(1)
				}
			}()
			synctest.Wait()
		}
		w.end()
		synctest.Wait()
		if done.Load() != 0 {
			t.Error("one of two counts as all")
		}
		w.end()
		synctest.Wait()
		if n := done.Load(); n != 3 {
			t.Errorf("%d of 3 have noticed the end", n)
		}
		w.begin()
		w.end()
	})
}

func TestWorkIsSafe(t *testing.T) {
	t.Parallel()
	var w work
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				w.begin()
				w.end()
				if err := w.wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if w.left() != 0 || w.idle != nil {
		t.Errorf("%d left", w.n)
	}
}

func (w *work) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

// Not parallel: it looks at what the whole process does.
func TestWait(t *testing.T) { //nolint:paralleltest // see above
	if n := underWay.left(); n != 0 {
		t.Fatalf("%d under way before", n)
	}
	for name, work := range map[string]func(*fixture) func(){
		"refresh": func(f *fixture) func() {
			f.expired()
			s := f.source()
			return func() { _ = s.Refresh(f.t.Context()) }
		},
		"refresh that fails": func(f *fixture) func() {
			f.expired()
			f.server.End(f.account.User)
			s := f.source()
			return func() { _ = s.Refresh(f.t.Context()) }
		},
		"disconnect": func(f *fixture) func() {
			f.authorized()
			s := f.source()
			return func() { _, _ = s.Disconnect(f.t.Context()) }
		},
		"sign-in": func(f *fixture) func() {
			s := f.signIn(f.flow(), f.client, f.account.User)
			return func() { _, _ = s.complete(f.t.Context()) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				do := work(f)
				gate := make(chan struct{})
				f.server.Next(tokenstest.Wait(gate))
				go do()
				synctest.Wait()
				var err error
				waited := false
				go func() {
					err = Wait(t.Context())
					waited = true
				}()
				synctest.Wait()
				if waited {
					t.Error("it did not wait")
				}
				close(gate)
				time.Sleep(time.Minute)
				synctest.Wait()
				if !waited || err != nil {
					t.Errorf("waited %v, %v", waited, err)
				}
			})
			if n := underWay.left(); n != 0 {
				t.Errorf("%d left under way", n)
			}
		})
	}
}

// The end makes a last try to store what is in memory only, and tells if it
// fails.
func TestEndStoresTheUnsaved(t *testing.T) {
	t.Parallel()
	for name, mended := range map[string]bool{"storage is well": true, "storage is down": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				s, _ := f.unsaved()
				stop := f.run(s)
				time.Sleep(30 * time.Minute)
				if mended {
					f.storage.Fail(tokenstest.OpStore, 0, nil)
				}
				stop()
				if stored := f.stored().Generation == 2; stored != mended {
					t.Errorf("stored: %v", stored)
				}
				if told := strings.Contains(f.log.String(), "no longer looked after"); told == mended {
					t.Errorf("told: %v", told)
				}
			})
		})
	}
}

// A refresher ends no sooner than the renewals of its accounts, whoever began
// them.
func TestEndWaitsForRenewals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		cancel, done := f.refresher(&Refresher{Sources: []*Source{s}, Store: f.store})
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		go func() { _ = s.Refresh(t.Context()) }()
		time.Sleep(time.Second)
		cancel()
		time.Sleep(time.Second)
		select {
		case <-done:
			t.Error("it has ended")
		default:
		}
		close(gate)
		<-done
	})
}

// A storage that panics ends neither the process nor what else the refresher
// does.
func TestRefresherSurvivesPanics(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]tokenstest.Op{"sweep": tokenstest.OpList, "renewal": tokenstest.OpLoad} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.authorized()
				s := f.source()
				f.mustToken(s)
				f.storage.Hook(func(_ context.Context, o tokenstest.Op, _ string) error {
					if o == op {
						panic("boom")
					}
					return nil
				})
				ctx, cancel := context.WithCancel(t.Context())
				r := &Refresher{Sources: []*Source{s}, Store: f.store, Logger: f.logger}
				done := make(chan struct{})
				go func() {
					defer close(done)
					r.Run(ctx)
				}()
				time.Sleep(sweepEvery + time.Minute)
				f.storage.Hook(nil)
				time.Sleep(15 * time.Minute)
				f.mustToken(s)
				cancel()
				<-done
				if !strings.Contains(f.log.String(), "boom") || !strings.Contains(f.log.String(), "stack") {
					t.Error("the log says nothing")
				}
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The next call discovers anew.
func TestDiscoverySurvivesPanics(t *testing.T) { //nolint:paralleltest // it sets the default logger
	var log bytes.Buffer
	usual := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(usual) })
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		p := f.provider()
		p.TokenEndpoint = ""
		boom := true
		c := NewClient(p, roundTripper(func(r *http.Request) (*http.Response, error) {
			if boom {
				panic("boom")
			}
			return f.server.RoundTrip(r)
		}))
		var e *Error
		if _, err := c.resolve(t.Context()); !errors.As(err, &e) || !e.Temporary() {
			t.Errorf("resolve: %v", err)
		}
		synctest.Wait()
		if !strings.Contains(log.String(), "boom") {
			t.Error("the log says nothing")
		}
		boom = false
		if got, err := c.resolve(t.Context()); err != nil || got.TokenEndpoint == "" {
			t.Errorf("resolve = %+v, %v", got, err)
		}
		time.Sleep(requestTimeout) // net/http's timer has outlived the panic
	})
}
