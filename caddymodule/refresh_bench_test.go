package caddymodule

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// How fast tokens are refreshed on file storage, beside the least that has to
// be done there: lock, load, store, flush the folder, unlock. Both run by turns
// on as many records and as many at a time, with the pacing switched off:
//
//	go test ./caddymodule -run '^$' -bench RefreshFileStorage -benchtime 1x -count 9
func BenchmarkRefreshFileStorage(b *testing.B) {
	const accounts, parallel = 1000, 4
	for b.Loop() {
		bare := bareLoop(b, accounts, parallel)
		ours := refreshLoop(b, accounts)
		b.ReportMetric(accounts/bare.Seconds(), "bare/s")
		b.ReportMetric(accounts/ours.Seconds(), "refreshes/s")
		b.ReportMetric(bare.Seconds()/ours.Seconds(), "of_bare")
	}
}

// bareLoop writes records of the usual size, and returns how long that took.
func bareLoop(b *testing.B, accounts, parallel int) time.Duration {
	storage := durable(&certmagic.FileStorage{Path: b.TempDir()})
	ctx := b.Context()
	record := bytes.Repeat([]byte("x"), 700)
	key := func(i int) string { return fmt.Sprintf("oauth_mail/tokens/%02x/%064x.tok", i%256, i) }
	for i := range accounts {
		if err := storage.Store(ctx, key(i), record); err != nil {
			b.Fatal(err)
		}
	}
	var next atomic.Int32
	var wg sync.WaitGroup
	began := time.Now()
	for range parallel {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < accounts; i = int(next.Add(1)) - 1 {
				name := fmt.Sprintf("oauth_mail_token_%064x", i)
				err := storage.Lock(ctx, name)
				if err == nil {
					_, err = storage.Load(ctx, key(i))
				}
				if err == nil {
					err = storage.Store(ctx, key(i), record)
				}
				if err == nil {
					err = storage.Unlock(ctx, name)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// refreshLoop has tokens refreshed that are all due, and returns how long that
// took.
func refreshLoop(b *testing.B, accounts int) time.Duration {
	server := tokenstest.NewServer()
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{1}, tokens.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	store := tokens.NewStore(durable(&certmagic.FileStorage{Path: b.TempDir()}), func() (*tokens.KeyRing, error) { return ring, nil })
	p := tokens.Provider{
		Name: "lab", Issuer: server.Issuer,
		AuthorizationEndpoint: server.Issuer + tokenstest.PathAuthorize,
		TokenEndpoint:         server.Issuer + tokenstest.PathToken,
		ClientID:              server.ClientID, Credentials: tokens.NewClientSecret(server.ClientSecret),
		AuthStyle: tokens.AuthPost, RefreshRate: -1,
	}
	client := tokens.NewClient(p, server)
	var left atomic.Int32
	left.Store(int32(accounts))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	options := &tokens.SourceOptions{Observer: tokens.Observer{
		Refreshed: func(tokens.Account, time.Duration) {
			if left.Add(-1) == 0 {
				cancel()
			}
		},
		RefreshFailed: func(_ tokens.Account, err *tokens.Error, _ time.Duration) { b.Error(err) },
	}}
	var sources []*tokens.Source
	now := time.Now().UTC()
	for i := range accounts {
		a := tokens.Account{Provider: p.Name, User: fmt.Sprintf("user-%d@example.com", i)}
		access, refresh := server.Issue(a.User, "smtp.send")
		err := store.Save(ctx, &tokens.Token{
			Account: a, Generation: 1, AccessToken: tokens.NewSecret(access), RefreshToken: tokens.NewSecret(refresh),
			AuthorizedAt: now, IssuedAt: now.Add(-2 * time.Hour), Expiry: now.Add(-time.Hour),
		})
		if err != nil {
			b.Fatal(err)
		}
		sources = append(sources, tokens.NewSource(a, client, store, &tokens.Cell{}, options))
	}
	began := time.Now()
	(&tokens.Refresher{Sources: sources, Store: store}).Run(ctx)
	took := time.Since(began)
	if n := left.Load(); n != 0 || server.Reused() != 0 {
		b.Fatalf("%d left, %d presented twice", n, server.Reused())
	}
	return took
}
