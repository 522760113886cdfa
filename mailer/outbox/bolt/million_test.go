package bolt

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

var million = flag.Int("queued", 0, "how many messages TestMillion queues; 0: none")

// TestMillion: what a million queued messages cost.
//
//	go test -run Million -queued 1000000 -v -timeout 30m ./mailer/outbox/bolt
func TestMillion(t *testing.T) {
	if *million == 0 {
		t.Skip("it takes minutes: -queued 1000000")
	}
	folder := t.TempDir()
	o := Options{Sealer: sealer(), MaxBytes: 64 << 30}
	e, err := Open(folder, o)
	if err != nil {
		t.Fatal(err)
	}
	e.db.NoSync = true
	octets := strings.Repeat("text\r\n", 80)
	begin := time.Now()
	var group sync.WaitGroup
	for w := range 64 {
		group.Go(func() {
			for i := w; i < *million; i += 64 {
				m, c := letter(fmt.Sprintf("tenant-%d", i%100), octets)
				switch i % 1000 {
				case 0:
					m.State = outbox.StateHeld
				case 1:
					m.Caller.Name = "seldom"
				}
				if err := e.Accept(context.Background(), m, c); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d messages accepted without flushes in %v", *million, time.Since(begin).Round(time.Millisecond))
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(folder, databaseFile)); err == nil {
		t.Logf("database: %d MiB", info.Size()>>20)
	}
	if e, err = Open(folder, o); err != nil {
		t.Fatal(err)
	}
	opened := func(begin time.Time) { t.Logf("opened in %v", time.Since(begin)) }
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if e, err = Open(folder, o); err != nil {
		t.Fatal(err)
	}
	opened(begin)
	defer e.Close()
	first := make(chan struct{})
	once := sync.OnceFunc(func() { close(first) })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var tried sync.Map
	go func() {
		ended <- e.Run(ctx, handler{window: 4, deliver: func(ctx context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			tried.Store(m.Tenant, true)
			once()
			<-ctx.Done() // slow servers
			return outbox.Outcome{}
		}})
	}()
	<-first
	t.Logf("first try %v after the start", time.Since(begin))
	for n := 0; n < 100; {
		n = 0
		tried.Range(func(any, any) bool { n++; return true })
		runtime.Gosched()
	}
	started := time.Since(begin)
	t.Logf("all lanes at work %v after the start", started)
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	t.Logf("live heap: %.1f MiB, %d goroutines", float64(mem.HeapAlloc)/(1<<20), runtime.NumGoroutine())
	if started > 5*time.Second || mem.HeapAlloc > 300<<20 {
		t.Error("too slow or too large")
	}
	ask := func(what string, f func() error) {
		begin := time.Now()
		err := f()
		took := time.Since(begin)
		t.Logf("%-31s %v", what, took)
		if err != nil || took > 100*time.Millisecond {
			t.Errorf("%s: %v, %v", what, took, err)
		}
	}
	const some = -1
	list := func(f outbox.Filter, want int) func() error {
		return func() error {
			p, err := e.List(t.Context(), f)
			if want == some && len(p.Messages) > 0 && p.Next != "" {
				return err
			}
			if err == nil && len(p.Messages) != want {
				err = fmt.Errorf("%d messages on a page, want %d", len(p.Messages), want)
			}
			return err
		}
	}
	ask("stats", func() error { _, err := e.Stats(t.Context()); return err })
	ask("lanes", func() error { _, err := e.Lanes(t.Context()); return err })
	ask("list", list(outbox.Filter{}, 100))
	ask("list by state", list(outbox.Filter{State: outbox.StateHeld}, 100))
	ask("list by state, none", list(outbox.Filter{State: outbox.StateCanceled}, 0))
	ask("list by tenant", list(outbox.Filter{Tenant: "tenant-7"}, 100))
	ask("list by tenant and state", list(outbox.Filter{Tenant: "tenant-0", State: outbox.StateHeld}, 100))
	ask("list by caller", list(outbox.Filter{CallerKind: "key", CallerName: "seldom"}, some))
	ask("list by caller, none", list(outbox.Filter{CallerKind: "key", CallerName: "nobody"}, 0))
	var oldest []string // a hundred and one
	if err := e.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketMessages).Cursor()
		for k, _ := c.First(); k != nil && len(oldest) < 101; k, _ = c.Next() {
			oldest = append(oldest, string(k))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	last, ofTenant, held, ofTenantHeld := oldest[100], 0, 0, 0 // who came first is nobody's to say
	for _, id := range oldest[:100] {
		m, err := e.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Tenant == "tenant-7":
			ofTenant++
		case m.State == outbox.StateHeld:
			held++
			if m.Tenant == "tenant-0" {
				ofTenantHeld++
			}
		}
	}
	ask("list at the end", list(outbox.Filter{Before: last}, 100))
	ask("by tenant at the end", list(outbox.Filter{Before: last, Tenant: "tenant-7"}, ofTenant))
	ask("by state at the end", list(outbox.Filter{Before: last, State: outbox.StateHeld}, held))
	ask("by tenant and state at the end", list(outbox.Filter{Before: last, Tenant: "tenant-0", State: outbox.StateHeld}, ofTenantHeld))
	ask("newer than those at the end", list(outbox.Filter{After: last}, 100))
	ask("accept", func() error {
		m, c := letter("new", octets)
		return e.Accept(t.Context(), m, c)
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
