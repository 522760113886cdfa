package bolt

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// bench is an engine on a folder.
type bench struct {
	testing.TB
	folder string
	plug   *plug
	e      *Engine
	stop   func()
	lent   atomic.Int64 // generations whose memory served again
}

func newBench(t testing.TB, o Options) *bench {
	t.Helper()
	b := &bench{TB: t, folder: filepath.Join(t.TempDir(), "a", "outbox")}
	b.open(o)
	t.Cleanup(b.close)
	return b
}

func (b *bench) open(o Options) {
	b.Helper()
	if o.Sealer == nil {
		o.Sealer = sealer()
	}
	b.plug = &plug{}
	var err error
	if b.e, err = open(b.folder, o, func(e *Engine) { e.commit, e.beforeLend = b.plug.commit, b.poison }); err != nil {
		b.Fatal(err)
	}
	b.stop = func() {}
}

// poison overwrites the memory of a generation that nobody may refer to any more.
func (b *bench) poison(g *generation) {
	b.lent.Add(1)
	for _, block := range g.blocks.all {
		for i := range block {
			block[i] = 0xdb
		}
	}
	for _, slab := range g.slabs.all {
		for i := range slab {
			slab[i] = change{bucket: inMessages, effect: isSet, key: []byte("poison"), value: []byte("poison")}
		}
	}
	for _, steps := range g.steps.all {
		clear(steps)
	}
}

func (b *bench) close() {
	b.stop()
	if err := b.e.Close(); err != nil {
		b.Error(err)
	}
}

func (b *bench) reopen() {
	b.Helper()
	b.close()
	b.open(Options{})
}

func (b *bench) run(h handler) {
	ctx, cancel := context.WithCancel(context.Background())
	e, done := b.e, make(chan error, 1)
	go func() { done <- e.Run(ctx, h) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("run: %v", err)
		}
	})
}

func (b *bench) accept(tenant, octets string) *outbox.Message {
	b.Helper()
	m, c := letter(tenant, octets)
	if err := b.e.Accept(context.Background(), m, c); err != nil {
		b.Fatal(err)
	}
	return m
}

func (b *bench) get(id string) *outbox.Message {
	b.Helper()
	m, err := b.e.Get(context.Background(), id)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// until waits for what is going to happen. Tests in a bubble do not need it.
func (b *bench) until(what string, f func() bool) {
	b.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("in vain waited for: %s", what)
		}
	}
}

func (b *bench) untilState(id string, s outbox.State) {
	b.Helper()
	b.until(string(s), func() bool {
		m, err := b.e.Get(context.Background(), id) // an error while the file is opened again
		return err == nil && m.State == s
	})
}

// check looks whether the database of a folder is sound: its pages, and its index
// against its records.
func check(t testing.TB, folder string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(folder, databaseFile), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		want, got := map[string]bool{}, map[string]bool{}
		counts := map[string]int64{}
		var files int64
		if err := tx.Bucket(bucketMessages).ForEach(func(id, v []byte) error {
			h, _, err := parse(v)
			if err != nil {
				return err
			}
			for _, k := range new(keys).of(&h, string(id)) {
				want[string(k)] = true
			}
			counts[string(statePrefix(indexCount, h.state, h.tenant))]++
			files += h.fileSize()
			if inline := tx.Bucket(bucketContents).Get(id) != nil; inline != (h.kept == keptInline) {
				t.Errorf("message %s: content is there: %v, and should be: %v", id, inline, !inline)
			}
			return nil
		}); err != nil {
			return err
		}
		index := tx.Bucket(bucketIndex)
		if n := number(index.Get(keyFiles)); n != files {
			t.Errorf("%d octets in files are counted, and there are %d", n, files)
		}
		return index.ForEach(func(k, v []byte) error {
			switch k[0] {
			case indexCount:
				if n := number(v); n != counts[string(k)] {
					t.Errorf("%d messages are counted under %q, and there are %d", n, k, counts[string(k)])
				}
				delete(counts, string(k))
			case indexDigest:
				if tx.Bucket(bucketMessages).Get(v) == nil {
					t.Errorf("the digest of no message")
				}
			case indexFiles:
			default:
				got[string(k)] = true
				if !want[string(k)] {
					t.Errorf("index entry %q for nothing", k)
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// recorder is a handler's Deliver that notes what it got.
type recorder struct {
	mu    sync.Mutex
	ids   []string
	times []time.Time
}

func (r *recorder) note(m *outbox.Message) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, m.ID)
	r.times = append(r.times, time.Now())
	return len(r.ids)
}

func (r *recorder) deliver(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
	r.note(m)
	return outbox.Outcome{Verdict: outbox.Sent}
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ids)
}

func (r *recorder) tries(id string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range r.ids {
		if i == id {
			n++
		}
	}
	return n
}

func (r *recorder) snapshot() ([]string, []time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids), slices.Clone(r.times)
}

func readAll(c mailer.Content) (string, error) {
	r, w := io.Pipe()
	go func() {
		_, err := c.WriteTo(w)
		w.CloseWithError(err)
	}()
	b, err := io.ReadAll(r)
	return string(b), err
}

var errIO = errors.New("input/output error")
