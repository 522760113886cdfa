package caddymodule

import (
	"cmp"
	"crypto/tls"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// inventory tells which devices and programs send by SMTP. It is kept in memory, and
// bounded: those that were not seen for longest are forgotten. The zero value is
// ready to use.
type inventory struct {
	mu      sync.Mutex
	clients map[clientKey]*clientView
}

// maxClients is how many an inventory knows.
const maxClients = 1000

// clientKey tells clients apart, as far as that is possible: behind a router they
// have one address, but say different things in their greetings.
type clientKey struct {
	kind, name, greeting string
	address              netip.Addr
}

// clientView is what the administration shows of a client.
type clientView struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Tenant  string `json:"tenant"`
	Address string `json:"address"`
	// Listen is where it connected to.
	Listen   string `json:"listen"`
	Greeting string `json:"greeting"`
	// TLS and Mechanism are those of the last session; empty without.
	TLS       string    `json:"tls"`
	Mechanism string    `json:"mechanism"`
	Messages  int       `json:"messages"`
	FirstSeen time.Time `json:"first_seen_at"`
	LastSeen  time.Time `json:"last_seen_at"`
}

// note enters that a client was there, with a number of messages. It returns with how
// many greetings clients of that name and address have come, if this is a new one.
func (v *inventory) note(c listener.Client, id *listener.Identity, listen string, messages int, now time.Time) (greetings int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := clientKey{id.Kind, id.Name, c.Greeting, c.Addr.Addr()}
	known := v.clients[key]
	if known == nil {
		if v.clients == nil {
			v.clients = make(map[clientKey]*clientView)
		}
		if len(v.clients) >= maxClients {
			v.forgetLocked()
		}
		known = &clientView{
			Kind: id.Kind, Name: id.Name, Address: c.Addr.Addr().String(), Listen: listen, Greeting: c.Greeting, FirstSeen: now,
		}
		v.clients[key] = known
		for k := range v.clients {
			if k.kind == key.kind && k.name == key.name && k.address == key.address {
				greetings++
			}
		}
	}
	known.Tenant, known.TLS, known.Mechanism, known.LastSeen = id.Tenant, tlsVersion(c), c.Mechanism, now
	known.Messages += messages
	return greetings
}

// forgetLocked forgets the client that was not seen for longest.
func (v *inventory) forgetLocked() {
	var oldest clientKey
	var at time.Time
	for k, c := range v.clients {
		if at.IsZero() || c.LastSeen.Before(at) {
			oldest, at = k, c.LastSeen
		}
	}
	delete(v.clients, oldest)
}

// list returns copies of all entries, in no order.
func (v *inventory) list() []clientView {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]clientView, 0, len(v.clients))
	for c := range maps.Values(v.clients) {
		out = append(out, *c)
	}
	return out
}

// tlsVersion names the TLS version of a client; empty without.
func tlsVersion(c listener.Client) string {
	if c.TLS == nil {
		return ""
	}
	return tls.VersionName(c.TLS.Version)
}

// inventory returns who sends by SMTP: users first, by names, and for each the latest
// first.
func (a admin) inventory() []clientView {
	all := make([]clientView, 0)
	for _, s := range a.app.holdings.smtp {
		all = append(all, s.inventory.list()...)
	}
	slices.SortFunc(all, func(a, b clientView) int {
		return cmp.Or(-cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), b.LastSeen.Compare(a.LastSeen))
	})
	return all
}
