package bolt

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// BenchmarkAccept compares the engine with the same octets in bare bbolt, one
// transaction for each or by its Batch.
//
//	go test -run '^$' -bench Accept -benchtime 2s ./mailer/outbox/bolt
func BenchmarkAccept(b *testing.B) {
	octets := strings.Repeat("text of a message, as many are\r\n", 8<<10/32)
	model, _ := letter("lab", octets)
	plain, err := json.Marshal(model)
	if err != nil {
		b.Fatal(err)
	}
	record := append(plain, make([]byte, 28+fixedHeader)...)
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("engine/%d", writers), func(b *testing.B) {
			e, err := Open(b.TempDir(), Options{Sealer: sealer(), MaxBytes: 64 << 30})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			measure(b, writers, func() error {
				m, c := letter("lab", octets)
				return e.Accept(context.Background(), m, c)
			})
		})
		// As in service: what is accepted is handed out at once.
		b.Run(fmt.Sprintf("engine and delivery/%d", writers), func(b *testing.B) {
			commits := 0.0
			e, err := open(b.TempDir(), Options{Sealer: sealer(), MaxBytes: 64 << 30}, func(e *Engine) {
				e.commit = func(write func() error) error { commits++; return write() }
			})
			if err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- e.Run(ctx, handler{window: 64}) }()
			measure(b, writers, func() error {
				m, c := letter("lab", octets)
				return e.Accept(context.Background(), m, c)
			})
			cancel()
			<-ended
			b.ReportMetric(commits/float64(b.N), "commits/msg")
		})
		for _, way := range []string{"update", "batch"} {
			b.Run(fmt.Sprintf("bbolt %s/%d", way, writers), func(b *testing.B) {
				db, err := bbolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
				if err != nil {
					b.Fatal(err)
				}
				defer db.Close()
				if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("b")); return err }); err != nil {
					b.Fatal(err)
				}
				write := db.Update
				if way == "batch" {
					write = db.Batch
				}
				measure(b, writers, func() error {
					k, v := []byte(mailer.NewID()), append(slices.Clone(record), octets...)
					return write(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("b")).Put(k, v) })
				})
			})
		}
	}
}

// BenchmarkLoneClient is a client that posts one message after another, each when the
// one before is delivered and 100 µs have passed, against the same octets in bare
// bbolt. They take turns, so that whatever else the disk does meets both.
//
//	go test -run '^$' -bench LoneClient -benchtime 2000x ./mailer/outbox/bolt
func BenchmarkLoneClient(b *testing.B) {
	octets := strings.Repeat("text of a message, as many are\r\n", 8<<10/32)
	e, err := Open(b.TempDir(), Options{Sealer: sealer(), MaxBytes: 64 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	delivered := make(chan struct{}, 1)
	go func() {
		ended <- e.Run(ctx, handler{window: 2, deliver: func(context.Context, *outbox.Message, mailer.Content) outbox.Outcome {
			delivered <- struct{}{}
			return outbox.Outcome{Verdict: outbox.Sent}
		}})
	}()
	defer func() { cancel(); <-ended }()
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	ways := map[string]func() error{
		"engine": func() error {
			m, c := letter("lab", octets)
			return e.Accept(context.Background(), m, c)
		},
		"bare": func() error {
			return db.Update(func(tx *bbolt.Tx) error {
				bucket, err := tx.CreateBucketIfNotExists([]byte("b"))
				if err != nil {
					return err
				}
				return bucket.Put([]byte(mailer.NewID()), []byte(octets))
			})
		},
	}
	took := map[string][]time.Duration{}
	for left := b.N; left > 0; left -= 20 {
		for way, f := range ways {
			for range min(20, left) {
				begin := time.Now()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				took[way] = append(took[way], time.Since(begin))
				if way == "engine" {
					<-delivered
				}
				for begin = time.Now(); time.Since(begin) < 100*time.Microsecond; { // a sleep takes longer
					runtime.Gosched()
				}
			}
		}
	}
	median := func(way string) float64 {
		slices.Sort(took[way])
		m := float64(took[way][len(took[way])/2]) / 1e3
		b.ReportMetric(m, way+"-p50-µs")
		return m
	}
	b.ReportMetric(median("engine")/median("bare"), "times")
}

// measure calls f b.N times, from so many goroutines, and reports the median.
func measure(b *testing.B, writers int, f func() error) {
	b.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var group sync.WaitGroup
	left := make(chan struct{}, b.N)
	for range b.N {
		left <- struct{}{}
	}
	close(left)
	b.ResetTimer()
	for range writers {
		group.Go(func() {
			var mine []time.Duration
			for range left {
				begin := time.Now()
				if err := f(); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(begin))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	group.Wait()
	b.StopTimer()
	slices.Sort(took)
	if len(took) > 0 {
		b.ReportMetric(float64(took[len(took)/2])/1e3, "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-µs")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	}
}

// handler is an [outbox.Handler].
type handler struct {
	window  int
	deliver func(context.Context, *outbox.Message, mailer.Content) outbox.Outcome
	broken  func(*outbox.Message) outbox.Outcome
}

func (h handler) Window(string) int { return max(1, h.window) }

func (h handler) Deliver(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
	if h.deliver == nil {
		return outbox.Outcome{Verdict: outbox.Sent}
	}
	return h.deliver(ctx, m, c)
}

func (h handler) Interrupted(m *outbox.Message) outbox.Outcome {
	if h.broken == nil {
		return outbox.Outcome{Verdict: outbox.Retry}
	}
	return h.broken(m)
}
