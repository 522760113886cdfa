//go:build fleet

package fleet

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// fleet is a storage full of accounts and the server that they are at.
type fleet struct {
	t      *testing.T
	size   size
	plan   plan
	store  *tokens.Store
	ledger *ledger
	began  time.Time
}

// instances is how many processes share the storage.
const instances = 3

func setUp(t *testing.T, grace time.Duration) *fleet {
	t.Helper()
	server := tokenstest.NewServer()
	f := &fleet{t: t, size: sizeOf(t), ledger: newLedger(server), began: time.Now()}
	server.Life, server.Grace = f.size.life, grace
	f.plan = plan{
		Storage: t.TempDir(), ClientID: server.ClientID, ClientSecret: server.ClientSecret,
		Accounts: f.size.accounts,
	}
	for i := range f.plan.Issuers {
		web := httptest.NewServer(f.ledger)
		t.Cleanup(web.Close)
		f.plan.Issuers[i] = web.URL
	}
	server.Issuer = f.plan.Issuers[0] // only its path counts
	var err error
	if f.store, err = f.plan.store(); err != nil {
		t.Fatal(err)
	}
	for i := range f.size.accounts {
		// Their ages differ, as in a fleet that has run for long.
		issued := time.Now().UTC().Add(-rand.N(f.size.life / 2))
		a := f.plan.account(i)
		access, refresh := f.ledger.issue(i, a.User, issued)
		p := f.plan.provider(i)
		err := f.store.Save(t.Context(), &tokens.Token{
			Account: a, Registration: p.Registration(), Generation: 1,
			AccessToken: tokens.NewSecret(access), RefreshToken: tokens.NewSecret(refresh),
			AuthorizedAt: issued, IssuedAt: issued, Expiry: issued.Add(f.size.life),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// wait waits until so many refreshes have succeeded. Between its looks it does
// what it is given.
func (f *fleet) wait(refreshes int, every time.Duration, meanwhile func()) {
	f.t.Helper()
	deadline := time.Now().Add(4 * time.Minute)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for f.ledger.figures().refreshes < refreshes {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d of %d refreshes in four minutes", f.ledger.figures().refreshes, refreshes)
		}
		<-tick.C
		meanwhile()
	}
}

// finish refreshes every account once more, from here, and returns how many
// did not work.
func (f *fleet) finish() (broken int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, 16)
	for _, s := range f.plan.sources(f.store, slog.New(slog.DiscardHandler)) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := s.Refresh(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if broken++; broken <= 5 {
					f.t.Logf("at the end: %v", err)
				}
			}
		})
	}
	wg.Wait()
	return broken
}

// T1: three processes, one storage, a provider that ends a grant whose refresh
// token comes twice.
func TestFleet(t *testing.T) {
	f := setUp(t, 0)
	fleet := startInstances(t, f.plan, instances)
	f.wait(f.size.refreshes, 50*time.Millisecond, func() {})
	for _, in := range fleet {
		in.stop()
	}
	ran, early := f.ledger.figures(), f.ledger.tooEarly()
	broken := f.finish()
	t.Logf("%d accounts, %d processes: %d refreshes with %d posts in %v; %d tokens presented twice, %d refreshed before they were due, %d accounts broken at the end",
		f.size.accounts, instances, ran.refreshes, ran.posts, time.Since(f.began).Round(time.Second), ran.again, early, broken)
	if ran.again != 0 || ran.refused != 0 || broken != 0 {
		t.Errorf("%d tokens presented twice, %d refused otherwise, %d accounts broken; want none\n%s",
			ran.again, ran.refused, broken, fleet[0].said("level=ERROR"))
	}
	if early != 0 {
		t.Errorf("%d refreshes came before they were due: the processes refresh each for itself", early)
	}
}

// T2: the same while a process is killed every 0.4 seconds, and the provider
// takes a used refresh token for 30 seconds more.
func TestFleetKilled(t *testing.T) {
	f := setUp(t, 30*time.Second)
	// A process lives for 1.2 seconds on average. An answer that is under way for
	// long makes more cuts, and more of those who take one up are cut in turn: ten
	// seconds each, for as long as a dead process's lock lasts.
	f.ledger.away = 30 * time.Millisecond
	fleet := startInstances(t, f.plan, instances)
	kills := 0
	f.wait(f.size.refreshes, 400*time.Millisecond, func() {
		in := fleet[rand.N(len(fleet))]
		in.kill()
		in.start()
		kills++
	})
	// What was cut last has its chance, too: until every account was refreshed
	// after the last kill.
	peace := time.Now()
	for time.Since(peace) < time.Minute && f.ledger.refreshedSince(peace) < f.size.accounts {
		time.Sleep(100 * time.Millisecond) // other processes: there is nothing else to wait on
	}
	for _, in := range fleet {
		in.stop()
	}
	broken := f.finish()
	ran := f.ledger.figures()
	t.Logf("%d accounts, %d processes, %d kills: %d refreshes with %d posts in %v; %d were cut, %d of them recovered, the slowest after %v, %d lost; %d accounts broken at the end",
		f.size.accounts, instances, kills, ran.refreshes, ran.posts, time.Since(f.began).Round(time.Second),
		ran.cut, ran.cut-ran.lost, ran.slowest.Round(100*time.Millisecond), ran.lost, broken)
	if ran.cut == 0 && kills > 50 {
		t.Errorf("%d kills cut no refresh: this shows nothing", kills)
	}
	// Two in a hundred may be lost; one where there are fewer.
	if ran.lost > max(1, ran.cut/50) || broken > ran.lost {
		t.Errorf("%d of %d cut refreshes were lost, and %d accounts are broken\n%s", ran.lost, ran.cut, broken, fleet[0].said("level=ERROR"))
	}
}
