package caddymodule

import "slices"

// troubleScope is whom a trouble concerns: all, a tenant, a provider, or an account. The
// zero one concerns no tenant.
type troubleScope struct {
	all                    bool
	tenant, provider, user string
}

func (t *trouble) scope() troubleScope {
	switch {
	case t.closes():
		return troubleScope{all: true}
	case t.Tenant != "":
		return troubleScope{tenant: t.Tenant}
	}
	return troubleScope{provider: t.Provider, user: t.User}
}

// troubleIndex finds the troubles of a tenant without a look at those of all others:
// there may be thousands of both.
type troubleIndex struct {
	list   []trouble
	places map[troubleScope][]int
}

func indexTroubles(list []trouble) troubleIndex {
	x := troubleIndex{list, make(map[troubleScope][]int)}
	for i := range list {
		scope := list[i].scope()
		x.places[scope] = append(x.places[scope], i)
	}
	return x
}

// of returns the troubles of a tenant, in their order: its own, and those of what it
// sends with.
func (x troubleIndex) of(t *tenant) []trouble {
	scopes := []troubleScope{{all: true}, {tenant: t.name}}
	if p := t.account.Provider; p != "" {
		scopes = append(scopes, troubleScope{provider: p}, troubleScope{provider: p, user: t.account.User})
	}
	var places []int
	for _, scope := range scopes {
		places = append(places, x.places[scope]...)
	}
	slices.Sort(places)
	own := make([]trouble, 0, len(places))
	for _, i := range slices.Compact(places) {
		own = append(own, x.list[i])
	}
	return own
}
