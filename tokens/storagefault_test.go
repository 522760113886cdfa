package tokens

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// storageFault is what befalls a storage that two processes share.
type storageFault struct {
	begin func(s *shaken)
	// lasts is how long; zero: as long as the test.
	lasts time.Duration
	// alarm is what an operator must find in the log; empty where nothing was
	// wrong enough.
	alarm string
	// crash ends both processes while the fault lasts. What was only in memory
	// is gone then, and a strict server has ended its grant.
	crash bool
	// alone: there is one process. While nothing can be stored, of two each has
	// a refresh token of its own, and a rotating server ends the grant.
	alone bool
}

var storageFaults = map[string]storageFault{
	"lock that lies":       {begin: func(s *shaken) { s.storage.Lie() }},
	"lock that errors":     {begin: breaks(tokenstest.OpLock, -1), alarm: "lock is out of reach"},
	"lock errors 20 min":   {begin: breaks(tokenstest.OpLock, -1), lasts: 20 * time.Minute},
	"lock errors 2 h":      {begin: breaks(tokenstest.OpLock, -1), lasts: 2 * time.Hour, alarm: "lock is out of reach"},
	"lock file broken":     {begin: func(s *shaken) { s.storage.Fail(tokenstest.OpLock, -1, errors.New("decoding lockfile contents")) }, alarm: "decoding lockfile contents"},
	"lock always held":     {begin: locksHeld, lasts: 2 * time.Hour, alarm: "a dead process's lock"},
	"unlock fails":         {begin: breaks(tokenstest.OpUnlock, -1), lasts: 3 * time.Hour, alarm: "a dead process's lock"},
	"slow, 5 s":            {begin: slow(5*time.Second, true), lasts: 3 * time.Hour},
	"slow, 40 s":           {begin: slow(40*time.Second, true), lasts: 3 * time.Hour, alarm: "loading token"},
	"slow, 40 s, stubborn": {begin: slow(40*time.Second, false), lasts: 3 * time.Hour, alarm: "loading token"},
	"stale, 50 reads":      {begin: func(s *shaken) { s.storage.Stale(50) }},
	"stale, 60 s":          {begin: func(s *shaken) { s.set(func() { s.lag = time.Minute }) }, lasts: 3 * time.Hour},
	"store fails 4 times":  {begin: breaks(tokenstest.OpStore, 4)},
	"store fails 10 min":   {begin: atDue(breaks(tokenstest.OpStore, -1)), lasts: 10 * time.Minute, alarm: "put off"},
	"store fails 1 h":      {begin: breaks(tokenstest.OpStore, -1), lasts: time.Hour, alarm: "kept in memory only", alone: true},
	"store fails 4 h":      {begin: breaks(tokenstest.OpStore, -1), lasts: 4 * time.Hour, alarm: "kept in memory only", alone: true},
	"store fails till end": {begin: breaks(tokenstest.OpStore, -1), lasts: 2 * time.Hour, alarm: "kept in memory only", crash: true, alone: true},
	"load fails 20 min":    {begin: breaks(tokenstest.OpLoad, -1), lasts: 20 * time.Minute},
	"load fails 4 h":       {begin: breaks(tokenstest.OpLoad, -1), lasts: 4 * time.Hour, alarm: "loading token"},
	"load fails till end":  {begin: breaks(tokenstest.OpLoad, -1), lasts: 2 * time.Hour, alarm: "loading token", crash: true},
	"everything fails 4 h": {begin: func(s *shaken) {
		s.storage.Hook(func(context.Context, tokenstest.Op, string) error { return tokenstest.ErrFault })
	}, lasts: 4 * time.Hour, alarm: "storage"},
	"list full of rubbish":  {begin: rubbish},
	"list fails":            {begin: breaks(tokenstest.OpList, -1), alarm: "sweeping used states"},
	"delete fails":          {begin: breaks(tokenstest.OpDelete, -1), lasts: 3 * time.Hour},
	"clock an hour ahead":   {begin: func(s *shaken) { s.set(func() { s.step = time.Hour }) }, lasts: 3 * time.Hour},
	"clock an hour back":    {begin: func(s *shaken) { s.set(func() { s.step = -time.Hour }) }, lasts: 3 * time.Hour},
	"next write is lost":    {begin: func(s *shaken) { s.set(func() { s.lose = 1 }) }, alarm: "storage"},
	"last write is undone":  {begin: func(s *shaken) { s.undo() }, alarm: "storage"},
	"no key ring 20 min":    {begin: func(s *shaken) { s.set(func() { s.keyless = true }) }, lasts: 20 * time.Minute},
	"no key ring 4 h":       {begin: func(s *shaken) { s.set(func() { s.keyless = true }) }, lasts: 4 * time.Hour, alarm: "key file"},
	"record damaged a time": {begin: func(s *shaken) { s.set(func() { s.damage = true }) }, lasts: 2 * time.Hour, alarm: "damaged"},
}

// What servers make of refresh tokens.
var rotations = map[string]func(*tokenstest.Server){
	"strict": func(*tokenstest.Server) {},
	"grace":  func(s *tokenstest.Server) { s.Grace = 30 * time.Second },
	"steady": func(s *tokenstest.Server) { s.Steady = true },
}

// Two processes keep an account fresh, and their storage fails in one way. When
// it is well again, so is the account, without a person; nobody was flooded, and
// the log tells what was wrong.
func TestStorageFaults(t *testing.T) {
	t.Parallel()
	for name, test := range storageFaults {
		for rotation, set := range rotations {
			t.Run(name+", "+rotation, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := shake(t)
					set(s.server)
					s.authorized()
					s.start(test.alone)
					time.Sleep(100 * time.Minute)
					test.begin(s)
					for range 60 {
						time.Sleep(test.lasts / 60)
						s.use()
					}
					doomed := test.crash && rotation != "steady" && s.unsaved()
					if test.crash {
						s.crash()
					}
					if test.lasts > 0 {
						s.heal()
					}
					if test.crash {
						s.start(test.alone)
					}
					time.Sleep(150 * time.Minute)
					s.checkCalls()
					s.checkAlarm(test.alarm)
					if doomed {
						s.mustFail(s.sources[0], KindNeedsPerson)
						return
					}
					if n := s.count("needs authorization"); n != 0 {
						t.Fatalf("a person was asked for %d times", n)
					}
					for _, source := range s.sources {
						s.mustToken(source)
					}
					s.stop()
					// The refresh token that is stored is the newest: a process that
					// knows nothing else can work with it.
					if test.lasts == 0 {
						s.heal()
					}
					reused := s.server.Reused()
					if err := s.source().Refresh(t.Context()); err != nil {
						t.Errorf("with what is stored: %v", err)
					}
					if s.server.Reused() != reused {
						t.Error("an old refresh token is stored")
					}
				})
			})
		}
	}
}

// shaken is two processes on a storage that can be made to fail.
type shaken struct {
	*fixture
	sources []*Source
	stop    func()

	mu sync.Mutex
	// lag is how old an answer of the storage is.
	lag time.Duration
	// lose is how many writes are lost.
	lose int
	// damage spoils what is read.
	damage bool
	// keyless: the keys can't be had.
	keyless bool
	// step is how far the processes' clock was set.
	step time.Duration
	// versions are what a key held, and since when.
	versions map[string][]version
	// posts and ops are when the provider and the storage were called.
	postsAt, opsAt []time.Time
}

type version struct {
	at    time.Time
	value []byte
}

func shake(t *testing.T) *shaken {
	t.Helper()
	s := &shaken{fixture: setUp(t), versions: map[string][]version{}}
	s.store = s.newStore()
	s.client = s.newClient(roundTripper(func(r *http.Request) (*http.Response, error) {
		s.set(func() { s.postsAt = append(s.postsAt, time.Now()) })
		return s.server.RoundTrip(r)
	}))
	return s
}

func (s *shaken) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *shaken) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.step)
}

func (s *shaken) newStore() *Store {
	return NewStore(shakenStorage{s.storage, s}, func() (*KeyRing, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.keyless {
			return nil, errors.New("the key file can't be read")
		}
		return s.ring, nil
	})
}

// start begins two processes, or one.
func (s *shaken) start(alone bool) {
	var stops []func()
	s.sources = nil
	for _, early := range []float32{0.2, 0.9} {
		if alone && len(s.sources) == 1 {
			break
		}
		store := s.newStore() // a process's own
		source := NewSource(s.account, s.client, store, &Cell{}, &SourceOptions{Logger: s.logger, Observer: s.observer(), Now: s.now, pacers: new(pacers)})
		source.early = early
		s.sources = append(s.sources, source)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			(&Refresher{Sources: []*Source{source}, Store: store, Logger: s.logger, Now: s.now}).Run(ctx)
		}()
		stops = append(stops, func() { cancel(); <-done })
	}
	s.stop = sync.OnceFunc(func() {
		for _, stop := range stops {
			stop()
		}
	})
	s.t.Cleanup(s.stop)
}

// crash ends the processes. What they knew is lost.
func (s *shaken) crash() { s.stop() }

// use asks both processes for a token, as mail does. While the storage fails
// they may have none.
func (s *shaken) use() {
	for _, source := range s.sources {
		_, _ = source.AccessToken(s.t.Context())
	}
}

// unsaved reports whether a process knows a token that is not stored.
func (s *shaken) unsaved() bool {
	stored := s.stored()
	for _, source := range s.sources {
		source.cell.mu.Lock()
		newest := source.cell.newest
		source.cell.mu.Unlock()
		if newest != nil && newest.Generation > stored.Generation {
			return true
		}
	}
	return false
}

// heal ends every fault.
func (s *shaken) heal() {
	for _, op := range []tokenstest.Op{tokenstest.OpStore, tokenstest.OpLoad, tokenstest.OpDelete, tokenstest.OpList, tokenstest.OpLock, tokenstest.OpUnlock} {
		s.storage.Fail(op, 0, nil)
	}
	s.storage.Hook(nil)
	s.storage.Stale(0)
	s.set(func() { s.lag, s.lose, s.damage, s.keyless, s.step = 0, 0, false, false, 0 })
	_ = s.storage.Unlock(s.t.Context(), s.account.lockName()) // it expires in a real one
}

// undo brings back what the account's record was before its last write.
func (s *shaken) undo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.account.storageKey()
	list := s.versions[key]
	s.storage.Put(key, list[len(list)-2].value)
}

// checkCalls finds hot loops.
func (s *shaken) checkCalls() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for what, test := range map[string]struct {
		times  []time.Time
		window time.Duration
		most   int
	}{
		"posts in 10 seconds":         {s.postsAt, 10 * time.Second, 5},
		"posts in an hour":            {s.postsAt, time.Hour, 30},
		"storage calls in 10 seconds": {s.opsAt, 10 * time.Second, 60},
		"storage calls in an hour":    {s.opsAt, time.Hour, 7200},
	} {
		first, most := 0, 0
		for i, at := range test.times {
			for at.Sub(test.times[first]) > test.window {
				first++
			}
			most = max(most, i-first+1)
		}
		if most > test.most {
			s.t.Errorf("%d %s, want %d at most", most, what, test.most)
		}
	}
}

// checkAlarm finds the line in the log that tells an operator what is wrong, and
// a log that is full of it.
func (s *shaken) checkAlarm(alarm string) {
	s.t.Helper()
	loud, found := 0, false
	for line := range strings.Lines(s.log.String()) {
		var l struct{ Level, Msg, Error string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			s.t.Fatal(err)
		}
		if l.Level == "WARN" || l.Level == "ERROR" {
			loud++
			found = found || strings.Contains(l.Msg+" "+l.Error, alarm)
		}
	}
	if alarm != "" && !found {
		s.t.Errorf("no alarm says %q; the log ends:\n%s", alarm, tail(s.log.String()))
	}
	if loud > 200 {
		s.t.Errorf("%d alarms; the log ends:\n%s", loud, tail(s.log.String()))
	}
}

// tail is the end of a log.
func tail(log string) string { return log[max(0, len(log)-1500):] }

// shakenStorage is the storage as the processes see it.
type shakenStorage struct {
	*tokenstest.Storage
	s *shaken
}

func (f shakenStorage) Store(ctx context.Context, key string, value []byte) error {
	f.called()
	f.s.mu.Lock()
	lost := f.s.lose > 0 && strings.HasPrefix(key, prefixTokens)
	if lost {
		f.s.lose--
	}
	f.s.mu.Unlock()
	if lost {
		return nil
	}
	if err := f.Storage.Store(ctx, key, value); err != nil {
		return err
	}
	f.s.set(func() { f.s.versions[key] = append(f.s.versions[key], version{time.Now(), bytes.Clone(value)}) })
	return nil
}

func (f shakenStorage) Load(ctx context.Context, key string) ([]byte, error) {
	f.called()
	value, err := f.Storage.Load(ctx, key)
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if err == nil && f.s.damage {
		value[len(value)-1] ^= 1
	}
	if err == nil && f.s.lag > 0 {
		for _, v := range f.s.versions[key] {
			if time.Since(v.at) >= f.s.lag || bytes.Equal(v.value, f.s.versions[key][0].value) {
				value = bytes.Clone(v.value)
			}
		}
	}
	return value, err
}

func (f shakenStorage) Delete(ctx context.Context, key string) error {
	f.called()
	return f.Storage.Delete(ctx, key)
}

func (f shakenStorage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	f.called()
	keys, err := f.Storage.List(ctx, prefix, recursive)
	return append(keys, keys...), err // some list a key twice
}

func (f shakenStorage) Lock(ctx context.Context, name string) error {
	f.called()
	return f.Storage.Lock(ctx, name)
}

func (f shakenStorage) Unlock(ctx context.Context, name string) error {
	f.called()
	return f.Storage.Unlock(ctx, name)
}

func (f shakenStorage) called() {
	f.s.set(func() { f.s.opsAt = append(f.s.opsAt, time.Now()) })
}

// breaks makes the next n operations of a kind fail.
func breaks(op tokenstest.Op, n int) func(*shaken) {
	return func(s *shaken) { s.storage.Fail(op, n, nil) }
}

// atDue begins a fault when a token is about to be due.
func atDue(begin func(*shaken)) func(*shaken) {
	return func(s *shaken) {
		time.Sleep(s.stored().IssuedAt.Add(40 * time.Minute).Sub(time.Now()))
		begin(s)
	}
}

// slow makes each operation take a time. Polite ones end with their context.
func slow(d time.Duration, polite bool) func(*shaken) {
	return func(s *shaken) {
		s.storage.Hook(func(ctx context.Context, _ tokenstest.Op, _ string) error {
			if !polite {
				time.Sleep(d)
				return nil
			}
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
}

// locksHeld is a dead process's lock that another one keeps alive.
func locksHeld(s *shaken) {
	s.storage.Hook(func(ctx context.Context, op tokenstest.Op, _ string) error {
		if op == tokenstest.OpLock {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
}

// rubbish fills the storage with what is not ours.
func rubbish(s *shaken) {
	h := s.account.hash()
	for _, key := range []string{
		prefixTokens + "/12345", prefixTokens + "/" + h[:2] + "/987654321", prefixTokens + "/" + h[:2] + "/" + strings.ToUpper(h) + ".tok",
		prefixTokens + "/" + h[:2] + "/" + h + ".tok.bak", prefixTokens + "/" + h[:2] + "/" + h, prefixTokens + "/zz/x.tok",
		prefixTokens + "/" + h[:2] + "/folder.tok/x", prefixTokens + "/.DS_Store", prefixTokens + "/" + h[:2] + "/é\n.tok",
		prefixStates + "/1", prefixStates + "/folder/" + h, prefixStates + "/" + strings.ToUpper(h), prefixStates + "/" + h + ".tmp",
	} {
		s.storage.Put(key, []byte("rubbish"))
	}
	// A mark of ours that can't be read.
	s.storage.Put(prefixStates+"/"+h, []byte("no time"))
}

// What is not ours is neither read nor swept, and no failure to delete is
// final: what was to go goes the next time.
func TestDisconnectOnAFailingStorage(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*shaken){
		"delete fails": breaks(tokenstest.OpDelete, 1),
		"load fails":   breaks(tokenstest.OpLoad, 1),
		"slow":         slow(40*time.Second, true),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := shake(t)
				s.authorized()
				rubbish(s)
				others := len(s.storage.Keys())
				s.start(false)
				s.mustToken(s.sources[0])
				fault(s)
				if _, err := s.sources[0].Disconnect(t.Context()); err == nil || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Disconnect = %v, want what the storage says", err)
				}
				if s.stored() == nil {
					t.Fatal("the record is gone")
				}
				s.heal()
				if _, err := s.sources[0].Disconnect(t.Context()); err != nil {
					t.Error(err)
				}
				if s.stored() != nil || len(s.storage.Keys()) != others-1 {
					t.Errorf("left are %q", s.storage.Keys())
				}
				time.Sleep(time.Hour)
				s.mustFail(s.sources[1], KindNeedsPerson)
				s.checkCalls()
			})
		})
	}
}

// A dead process's locks last for a while. Who waits for them keeps no other
// account of the host waiting.
func TestDeadLocksKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		var sources []*Source
		for i := range 4 * paceParallel {
			f.account = Account{Provider: "lab", User: string(rune('a'+i)) + "@example.com"}
			f.expired()
			if i < 2*paceParallel {
				if err := f.storage.Lock(t.Context(), f.account.lockName()); err != nil {
					t.Fatal(err)
				}
			}
			sources = append(sources, f.source())
		}
		stop := f.run(sources...)
		defer stop()
		time.Sleep(5 * time.Second)
		if n := f.count("refreshed"); n != 2*paceParallel {
			t.Errorf("%d accounts were refreshed beside the locked ones, want %d", n, 2*paceParallel)
		}
	})
}

// A process that starts takes up at once what a dead one had begun.
func TestCutRefreshIsTakenUpAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		token := f.authorized()
		dead := f.source()
		if err := dead.store.intents.note(dead.intent(token)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * intentSilence)
		f.store = NewStore(f.storage, f.keys)
		stop := f.run(f.source())
		defer stop()
		time.Sleep(time.Second)
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts in the first second, want 1", n)
		}
	})
}

// A dead process's lock may stay for as long as the process lives that had it
// before: that one keeps it fresh. What was cut is taken up all the same, before
// a provider's grace is over, and by one of two instances.
func TestDeadLockDoesNotOutlastTheGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		token := f.expired()
		dead := f.source()
		if err := dead.store.intents.note(dead.intent(token)); err != nil {
			t.Fatal(err)
		}
		if err := f.storage.Lock(t.Context(), f.account.lockName()); err != nil {
			t.Fatal(err)
		}
		for _, early := range []float32{0.2, 0.9} {
			f.store = NewStore(f.storage, f.keys)
			s := f.source()
			s.early = early
			defer f.run(s)()
		}
		gate := make(chan struct{})
		time.AfterFunc(16*time.Second, func() { close(gate) }) // a second after the first
		f.server.Next(tokenstest.Wait(gate))
		time.Sleep(30 * time.Second)
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts in 30 seconds, want 1", n)
		}
	})
}
