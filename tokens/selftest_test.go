package tokens

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestSelfTest(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	// absent makes an operation fail with an error of its own on what is not there.
	absent := func(s *tokenstest.Storage, op tokenstest.Op) {
		s.Hook(func(_ context.Context, o tokenstest.Op, key string) error {
			if o != op {
				return nil
			}
			for _, k := range s.Keys() {
				if strings.HasPrefix(k, key) {
					return nil
				}
			}
			return broken
		})
	}
	for name, test := range map[string]struct {
		arrange func(s *tokenstest.Storage)
		test    func(s *tokenstest.Storage) SelfTest // nil: with two handles and a clock
		// lacking maps the probes that find something to a part of their words.
		lacking map[string]string
	}{
		"good":             {},
		"no second handle": {test: func(s *tokenstest.Storage) SelfTest { return SelfTest{Storage: s} }},
		"store fails": {
			arrange: func(s *tokenstest.Storage) { s.Fail(tokenstest.OpStore, -1, broken) },
			lacking: map[string]string{"store": "nothing can be stored (broken)"},
		},
		"load fails": {
			arrange: func(s *tokenstest.Storage) { s.Fail(tokenstest.OpLoad, -1, broken) },
			lacking: map[string]string{"read back": "cannot be read (broken)", "overwrite": "cannot be read", "read a missing key": "reads as trouble (broken)"},
		},
		"keeps nothing": {
			test: func(s *tokenstest.Storage) SelfTest { return SelfTest{Storage: forgetful{s}, Second: forgetful{s}} },
			lacking: map[string]string{
				"read back": "cannot be read", "overwrite": "cannot be read", "list": "listing fails",
			},
		},
		"mangles": {
			test:    func(s *tokenstest.Storage) SelfTest { return SelfTest{Storage: mangling{s}, Second: s} },
			lacking: map[string]string{"read back": "not what was stored", "overwrite": "before the last write"},
		},
		"stale reads": {
			arrange: func(s *tokenstest.Storage) { s.Stale(1) },
			lacking: map[string]string{"overwrite": "run one instance only"},
		},
		"missing key is an error of its own": {
			arrange: func(s *tokenstest.Storage) { absent(s, tokenstest.OpLoad) },
			lacking: map[string]string{"read a missing key": "reads as trouble (broken)"},
		},
		"missing folder is an error of its own": {
			arrange: func(s *tokenstest.Storage) { absent(s, tokenstest.OpList) },
			lacking: map[string]string{"list a missing folder": "fails (broken)"},
		},
		"list fails": {
			arrange: func(s *tokenstest.Storage) { s.Fail(tokenstest.OpList, -1, broken) },
			lacking: map[string]string{"list": "listing fails (broken)", "list a missing folder": "fails (broken)"},
		},
		"list is behind": {
			test: func(s *tokenstest.Storage) SelfTest {
				return SelfTest{Storage: listing{s, func() ([]string, error) { return nil, nil }}, Second: s}
			},
			lacking: map[string]string{"list": "leaves out what was just stored"},
		},
		"delete fails": {
			arrange: func(s *tokenstest.Storage) { s.Fail(tokenstest.OpDelete, -1, broken) },
			lacking: map[string]string{"delete": "nothing can be deleted (broken)"},
		},
		"delete of what is gone fails": {
			arrange: func(s *tokenstest.Storage) { absent(s, tokenstest.OpDelete) },
			lacking: map[string]string{"delete": "it does no harm"},
		},
		"slow": {
			arrange: func(s *tokenstest.Storage) {
				s.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
					if op == tokenstest.OpStore {
						time.Sleep(700 * time.Millisecond)
					}
					return nil
				})
			},
			lacking: map[string]string{"speed": `slow (700ms, at "store")`},
		},
		"hangs": {
			arrange: func(s *tokenstest.Storage) {
				s.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
					if op == tokenstest.OpStore {
						time.Sleep(time.Hour)
					}
					return nil
				})
			},
			lacking: map[string]string{"store": "nothing can be stored (no answer in time)"},
		},
		"panics": {
			arrange: func(s *tokenstest.Storage) {
				s.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
					if op == tokenstest.OpList || op == tokenstest.OpLock {
						panic("oops")
					}
					return nil
				})
			},
			lacking: map[string]string{"list": "panic: oops", "list a missing folder": "panic: oops", "lock, within this process": "panic: oops", "lock, between instances": "panic: oops"},
		},
		"clock ahead": {
			test: func(s *tokenstest.Storage) SelfTest {
				return SelfTest{Storage: s, Second: s, Modified: func(context.Context, string) (time.Time, error) { return time.Now().Add(time.Hour), nil }}
			},
			lacking: map[string]string{"clock": "1h0m0s apart"},
		},
		"clock behind": {
			test: func(s *tokenstest.Storage) SelfTest {
				return SelfTest{Storage: s, Second: s, Modified: func(context.Context, string) (time.Time, error) { return time.Now().Add(-time.Minute), nil }}
			},
			lacking: map[string]string{"clock": "1m0s apart"},
		},
		"lock does nothing": {
			arrange: func(s *tokenstest.Storage) { s.Lie() },
			lacking: map[string]string{"lock, within this process": "harmless", "lock, between instances": "this storage does not lock: run one instance only"},
		},
		"lock does nothing, no second handle": {
			arrange: func(s *tokenstest.Storage) { s.Lie() },
			test:    func(s *tokenstest.Storage) SelfTest { return SelfTest{Storage: s} },
			lacking: map[string]string{"lock, within this process": "harmless", "lock, between instances": "run one instance only"},
		},
		"lock fails": {
			arrange: func(s *tokenstest.Storage) { s.Fail(tokenstest.OpLock, -1, broken) },
			lacking: map[string]string{"lock, within this process": "no lock can be had (broken)", "lock, between instances": "no lock can be had (broken)"},
		},
		"lock refuses at once": {arrange: func(s *tokenstest.Storage) { s.Refuse(broken) }},
		"lock ends too soon": {
			arrange: func(s *tokenstest.Storage) { s.Lease(5 * time.Second) },
			lacking: map[string]string{"lock, within this process": "let in after 5s", "lock, between instances": "let in after 5s"},
		},
		"lock refuses at once and ends too soon": {
			arrange: func(s *tokenstest.Storage) { s.Refuse(broken); s.Lease(5 * time.Second) },
			lacking: map[string]string{"lock, within this process": "let in after 17s", "lock, between instances": "let in after 17s"},
		},
		"lock is never given back": {
			arrange: func(s *tokenstest.Storage) { s.Fail(tokenstest.OpUnlock, -1, broken) },
			lacking: map[string]string{"lock, within this process": "cannot be had again (broken)", "lock, between instances": "cannot be had again (broken)"},
		},
		"lock within processes only": {
			// The second handle is a storage of its own: neither sees the other's lock.
			test:    func(s *tokenstest.Storage) SelfTest { return SelfTest{Storage: s, Second: tokenstest.NewStorage()} },
			lacking: map[string]string{"lock, between instances": "run one instance only"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := tokenstest.NewStorage()
				st := SelfTest{Storage: s, Second: s, Modified: func(context.Context, string) (time.Time, error) { return time.Now(), nil }}
				if test.test != nil {
					st = test.test(s)
				}
				if test.arrange != nil {
					test.arrange(s)
				}
				began := time.Now()
				var mu sync.Mutex
				var shown []int
				report := st.Run(t.Context(), func(r *StorageReport) {
					mu.Lock()
					defer mu.Unlock()
					shown = append(shown, len(r.Probes))
				})
				if took := time.Since(began); took > 3*time.Minute {
					t.Errorf("took %v", took)
				}
				got := map[string]string{}
				for _, p := range report.Probes {
					switch {
					case p.Result == ProbeLacking:
						got[p.Name] = p.Finding
					case p.Result == ProbeOK && p.Finding != "":
						t.Errorf("%s is ok, with the finding %q", p.Name, p.Finding)
					}
				}
				for name, words := range test.lacking {
					if !strings.Contains(got[name], words) {
						t.Errorf("%s: found %q, want %q", name, got[name], words)
					}
					delete(got, name)
				}
				for name, found := range got {
					t.Errorf("%s: found %q", name, found)
				}
				if n := len(report.Findings()); n != len(test.lacking) {
					t.Errorf("%d findings, want %d", n, len(test.lacking))
				}
				if report.Ended.IsZero() || len(shown) != len(report.Probes)+1 {
					t.Errorf("ended %v, shown %v", report.Ended, shown)
				}
				s.Fail(tokenstest.OpDelete, 0, nil)
				if keys := s.Keys(); len(keys) > 0 && name != "delete fails" {
					t.Errorf("left behind: %v", keys)
				}
				if n := s.Locked(); n > 0 && name != "lock is never given back" {
					t.Errorf("%d locks left", n)
				}
				time.Sleep(2 * time.Hour) // what hangs comes to its end
			})
		})
	}
}

// forgetful keeps nothing of what it says it has stored.
type forgetful struct{ *tokenstest.Storage }

func (forgetful) Store(context.Context, string, []byte) error { return nil }

// mangling stores something else.
type mangling struct{ *tokenstest.Storage }

func (m mangling) Store(ctx context.Context, key string, value []byte) error {
	return m.Storage.Store(ctx, key, []byte(strings.ToValidUTF8(string(value), "?")))
}

// TestSelfTestSweeps: what a killed process has left goes, and nothing else.
func TestSelfTestSweeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := tokenstest.NewStorage()
		at := func(age time.Duration) []byte {
			return []byte(time.Now().Add(-age).UTC().Format(time.RFC3339Nano) + " 0 x")
		}
		old, recent := prefixSelfTest+"/"+strings.Repeat("a", 32), prefixSelfTest+"/"+strings.Repeat("b", 32)
		s.Put(old, at(2*leftover))
		s.Put(recent, at(leftover/2))
		s.Put(prefixSelfTest+"/notes", at(2*leftover))
		s.Put("oauth_mail/tokens/"+strings.Repeat("c", 32), at(2*leftover))
		(&SelfTest{Storage: s}).Run(t.Context(), nil)
		if s.Get(old) != nil || len(s.Keys()) != 3 {
			t.Errorf("left: %v", s.Keys())
		}
	})
}

// TestSelfTestEnds: a configuration that ends takes its test with it.
func TestSelfTestEnds(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]time.Duration{"among the values": 2 * time.Second, "among the locks": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := tokenstest.NewStorage()
				s.Hook(func(_ context.Context, op tokenstest.Op, _ string) error {
					if op == tokenstest.OpLoad {
						time.Sleep(slow)
					}
					return nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				began := time.Now()
				report := (&SelfTest{Storage: s, Second: s}).Run(ctx, nil)
				if took := time.Since(began); took > 6*time.Second || !report.Ended.IsZero() {
					t.Errorf("ended %v after %v", report.Ended, took)
				}
				time.Sleep(time.Minute)
				if s.Locked() != 0 || len(s.Keys()) != 0 {
					t.Errorf("left: %d locks, %v", s.Locked(), s.Keys())
				}
			})
		})
	}
}
