package caddymodule

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// TestTroublesOfATenant: a tenant has its own troubles, those of what it sends with, and
// those of all, in the order in which there are.
func TestTroublesOfATenant(t *testing.T) {
	t.Parallel()
	troubles := indexTroubles([]trouble{
		{Kind: troubleSignIn, Provider: "p", User: "u"},
		{Kind: troubleStopped, Tenant: "a"},
		{Kind: troubleOutbox},
		{Kind: troubleRefresh, Provider: "p", User: "v"},
		{Kind: troubleQueue, Tenant: "b"},
		{Kind: troubleSecret, Provider: "p", Credential: "c"},
		{Kind: troubleSecret, Provider: "q", Credential: "c"},
		{Kind: troubleSendAs, Tenant: "b", Provider: "p", User: "u"},
		{Kind: troubleVolume},
	})
	for _, tt := range []struct {
		tenant   string
		provider string
		user     string
		want     []troubleKind
	}{
		{"a", "p", "u", []troubleKind{troubleSignIn, troubleStopped, troubleOutbox, troubleSecret}},
		{"b", "p", "v", []troubleKind{troubleOutbox, troubleRefresh, troubleQueue, troubleSecret, troubleSendAs}},
		{"c", "p", "", []troubleKind{troubleOutbox, troubleSecret}}, // the application's own account
		{"a", "", "", []troubleKind{troubleStopped, troubleOutbox}},
		{"d", "q", "u", []troubleKind{troubleOutbox, troubleSecret}},
	} {
		var got []troubleKind
		for _, x := range troubles.of(&tenant{name: tt.tenant, account: tokens.Account{Provider: tt.provider, User: tt.user}}) {
			got = append(got, x.Kind)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%+v: -want +got:\n%s", tt, diff)
		}
	}
	if of := indexTroubles(nil).of(&tenant{name: "a"}); of == nil || len(of) > 0 {
		t.Errorf("none is %#v", of) // an empty list in JSON, not null
	}
}

// What a tenant's troubles cost does not grow with the number of tenants, all of which
// are in trouble:
//
//	go test ./caddymodule -run '^$' -bench TroublesOfTenants
func BenchmarkTroublesOfTenants(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tenants, list := make([]*tenant, n), make([]trouble, n)
			for i := range n {
				account := tokens.Account{Provider: "p", User: fmt.Sprint("user-", i)}
				tenants[i] = &tenant{name: fmt.Sprint("tenant-", i), account: account}
				list[i] = trouble{Kind: troubleSignIn, Provider: account.Provider, User: account.User}
			}
			for b.Loop() {
				troubles := indexTroubles(list)
				for _, t := range tenants {
					if len(troubles.of(t)) != 1 {
						b.Fatal("the trouble is not found")
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/tenant")
		})
	}
}
