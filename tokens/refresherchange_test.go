package tokens

import (
	"testing"
	"testing/synctest"
	"time"
)

// The accounts to look after change while the refresher runs: new ones are kept
// fresh, those that stay go on, and those that left are left alone.
func TestSourcesChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.server.Life = time.Hour
		f.authorized()
		stays := f.source()
		f.account.User = "leaver@example.com"
		f.authorized()
		leaves := f.source()
		f.account.User = "newcomer@example.com"
		f.authorized()
		comes := f.source()
		changes := make(chan []*Source)
		cancel, done := f.refresher(&Refresher{Sources: []*Source{stays, leaves}, Store: f.store, Changes: changes})
		defer func() { cancel(); <-done }()
		generation := func(s *Source) uint64 {
			stored, err := f.store.Load(t.Context(), s.account)
			if err != nil {
				t.Fatal(err)
			}
			return stored.Generation
		}
		first := map[*Source]uint64{stays: generation(stays), leaves: generation(leaves), comes: generation(comes)}
		time.Sleep(100 * time.Minute)
		synctest.Wait()
		second := map[*Source]uint64{stays: generation(stays), leaves: generation(leaves), comes: generation(comes)}
		if second[stays] == first[stays] || second[leaves] == first[leaves] || second[comes] != first[comes] {
			t.Fatalf("generations %v, then %v", first, second)
		}
		changes <- []*Source{stays, comes}
		time.Sleep(100 * time.Minute)
		synctest.Wait()
		if generation(stays) == second[stays] || generation(comes) == second[comes] {
			t.Error("an account that is looked after was not renewed")
		}
		if generation(leaves) != second[leaves] {
			t.Error("an account that left was renewed")
		}
		if leaves.plan != nil || leaves.place != 0 {
			t.Error("the account that left is still planned")
		}
	})
}

// What a provider's tokens are bound to besides makes another registration of it.
func TestBound(t *testing.T) {
	t.Parallel()
	p := Provider{Issuer: "https://idp.example", ClientID: "c"}
	bound := p
	bound.Bound = "smtp.example.net"
	other := p
	other.Bound = "smtp.example.org"
	if p.Registration() == bound.Registration() || bound.Registration() == other.Registration() {
		t.Error("one registration for different bounds")
	}
}
