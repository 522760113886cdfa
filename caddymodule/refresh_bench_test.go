package caddymodule

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// How fast tokens are refreshed on file storage, beside the least that has to
// be done there: lock, load, store, flush the folder, unlock. Both run by turns,
// on one disk, on as many records, with the pacing switched off: the bare loop one
// record after the other, and as many at a time as the refresher has. That one leaves
// out what a refresh needs a processor for, and the three further looks at the record
// that keep a token where a lock does not hold. The ratios are the medians of the
// turns, since disks have moods:
//
//	go test ./caddymodule -run '^$' -bench RefreshFileStorage -benchtime 1x
func BenchmarkRefreshFileStorage(b *testing.B) {
	const turns, accounts, parallel = 7, 600, 4 // as many at a time as the refresher has
	for b.Loop() {
		storage := durable(&certmagic.FileStorage{Path: b.TempDir()})
		bare := newBareLoop(b, storage, 2*turns*accounts)
		ours := newRefreshLoop(b, storage, turns*accounts)
		var bareTook, loopTook, oursTook, ratios, ofLoop []float64
		for turn := range turns {
			var x, y time.Duration
			one := bare.run(b, accounts, 1)
			if turn%2 == 0 {
				x = bare.run(b, accounts, parallel)
				y = ours.run(b, accounts)
			} else {
				y = ours.run(b, accounts)
				x = bare.run(b, accounts, parallel)
			}
			bareTook, oursTook = append(bareTook, x.Seconds()), append(oursTook, y.Seconds())
			loopTook = append(loopTook, one.Seconds())
			ratios, ofLoop = append(ratios, x.Seconds()/y.Seconds()), append(ofLoop, one.Seconds()/y.Seconds())
		}
		b.ReportMetric(accounts/median(oursTook), "refreshes/s")
		b.ReportMetric(accounts/median(loopTook), "bare_1_at_a_time/s")
		b.ReportMetric(accounts/median(bareTook), "bare_4_at_a_time/s")
		b.ReportMetric(median(ofLoop), "of_bare_1_at_a_time")
		b.ReportMetric(median(ratios), "of_bare_4_at_a_time")
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// bareLoop writes records of the usual size.
type bareLoop struct {
	storage tokens.Storage
	record  []byte
	used    int
}

func newBareLoop(b *testing.B, storage tokens.Storage, records int) *bareLoop {
	l := &bareLoop{storage: storage, record: bytes.Repeat([]byte("x"), 700)}
	for i := range records {
		if err := storage.Store(b.Context(), l.key(i), l.record); err != nil {
			b.Fatal(err)
		}
	}
	return l
}

// key names a record that lies in one of the tokens' folders: what a file costs
// depends on the folder's place on the disk.
func (*bareLoop) key(i int) string {
	return fmt.Sprintf("oauth_mail/tokens/%02x/%064x.bare", i%256, i)
}

// run rewrites the next records and returns how long that took.
func (l *bareLoop) run(b *testing.B, records, parallel int) time.Duration {
	ctx := b.Context()
	var next atomic.Int32
	var wg sync.WaitGroup
	began := time.Now()
	for range parallel {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < records; i = int(next.Add(1)) - 1 {
				name, key := fmt.Sprintf("bare_%064x", i), l.key(l.used+i)
				err := l.storage.Lock(ctx, name)
				if err == nil {
					_, err = l.storage.Load(ctx, key)
				}
				if err == nil {
					err = l.storage.Store(ctx, key, l.record)
				}
				if err == nil {
					err = l.storage.Unlock(ctx, name)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	l.used += records
	return time.Since(began)
}

// refreshLoop has tokens refreshed that are all due.
type refreshLoop struct {
	server  *tokenstest.Server
	store   *tokens.Store
	sources []*tokens.Source
	left    atomic.Int32
	ended   atomic.Pointer[context.CancelFunc]
}

func newRefreshLoop(b *testing.B, storage tokens.Storage, accounts int) *refreshLoop {
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{1}, tokens.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	l := &refreshLoop{
		server: tokenstest.NewServer(),
		store:  tokens.NewStore(storage, func() (*tokens.KeyRing, error) { return ring, nil }),
	}
	p := tokens.Provider{
		Name: "lab", Issuer: l.server.Issuer,
		AuthorizationEndpoint: l.server.Issuer + tokenstest.PathAuthorize,
		TokenEndpoint:         l.server.Issuer + tokenstest.PathToken,
		ClientID:              l.server.ClientID, Credentials: tokens.NewClientSecret(l.server.ClientSecret),
		AuthStyle: tokens.AuthPost, RefreshRate: -1,
	}
	client := tokens.NewClient(p, l.server)
	options := &tokens.SourceOptions{Observer: tokens.Observer{
		Refreshed: func(tokens.Account, time.Duration) {
			if l.left.Add(-1) == 0 {
				(*l.ended.Load())()
			}
		},
		RefreshFailed: func(_ tokens.Account, err *tokens.Error, _ time.Duration) { b.Error(err) },
	}}
	now := time.Now().UTC()
	for i := range accounts {
		a := tokens.Account{Provider: p.Name, User: fmt.Sprintf("user-%d@example.com", i)}
		access, refresh := l.server.Issue(a.User, "smtp.send")
		err := l.store.Save(b.Context(), &tokens.Token{
			Account: a, Generation: 1, AccessToken: tokens.NewSecret(access), RefreshToken: tokens.NewSecret(refresh),
			AuthorizedAt: now, IssuedAt: now.Add(-2 * time.Hour), Expiry: now.Add(-time.Hour),
		})
		if err != nil {
			b.Fatal(err)
		}
		l.sources = append(l.sources, tokens.NewSource(a, client, l.store, &tokens.Cell{}, options))
	}
	return l
}

// run has the next accounts refreshed and returns how long that took.
func (l *refreshLoop) run(b *testing.B, accounts int) time.Duration {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	l.ended.Store(&cancel)
	l.left.Store(int32(accounts))
	sources := l.sources[:accounts]
	l.sources = l.sources[accounts:]
	began := time.Now()
	(&tokens.Refresher{Sources: sources, Store: l.store}).Run(ctx)
	took := time.Since(began)
	if n := l.left.Load(); n != 0 || l.server.Reused() != 0 {
		b.Fatalf("%d left, %d presented twice", n, l.server.Reused())
	}
	return took
}
