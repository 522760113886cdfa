package caddymodule

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// counted compares as a slow hash does, and counts.
type counted struct {
	salt string
	n    int
}

func (c *counted) Compare(hash, typed []byte) (bool, error) {
	c.n++
	return string(hash) == c.salt+string(typed), nil
}

// TestSignInCost: an unknown user, a wrong password and a user from elsewhere cost one
// check each; the right password costs one once, also over reloads.
func TestSignInCost(t *testing.T) {
	t.Parallel()
	checks := &counted{salt: rand.Text()}
	entrance := func() *smtpEntrance {
		user := func(name string, networks ...netip.Prefix) *smtpUser {
			return &smtpUser{smtpSender: smtpSender{kind: "user", name: name}, password: &password{hash: []byte(checks.salt + "right " + name), compare: checks}, networks: networks}
		}
		e := &smtpEntrance{users: map[string]*smtpUser{"a": user("A"), "b": user("b", netip.MustParsePrefix("10.0.0.0/8"))}}
		e.decoys = []*smtpUser{e.users["a"], e.users["b"]}
		return e
	}
	e := entrance()
	for i, tt := range []struct {
		user, typed, from string
		ok, known         bool
	}{
		{"a", "wrong", "192.0.2.1", false, false},
		{"nobody", "right A", "192.0.2.1", false, false},
		{"nobody", "right b", "192.0.2.1", false, false},
		{"b", "right b", "192.0.2.1", false, false}, // from elsewhere
		{"b", "right b", "192.0.2.1", false, false},
		{"A", "right A", "192.0.2.1", true, false},
		{"a", "right A", "192.0.2.1", true, true},
		{"a", "right A\r\n", "192.0.2.1", true, true},
		{"a", "wrong", "192.0.2.1", false, false},
		{"a", "right A\x00", "192.0.2.1", false, false},
		{"b", "right A", "10.0.0.1", false, false},
		{"nobody", "right A", "192.0.2.1", false, false},
		{},
		{"a", "right A", "192.0.2.1", true, true},
		{"a", "wrong", "192.0.2.1", false, false},
		{"b", "right b", "10.0.0.1", true, false}, // it helped nobody before
	} {
		if tt.user == "" {
			e = entrance()
			continue
		}
		checks.n = 0
		client := listener.Client{Addr: netip.AddrPortFrom(netip.MustParseAddr(tt.from), 1)}
		u := e.user(client, tt.user)
		if known := u != nil && u.password.known(tt.typed); known != tt.known || checks.n != 0 {
			t.Errorf("case %d: known %t, with %d checks", i, known, checks.n)
		}
		u, err := e.authenticate(client, tt.user, tt.typed)
		if ok := err == nil; ok != tt.ok || !ok && !errors.Is(err, listener.ErrWrongPassword) || ok && !strings.EqualFold(u.name, tt.user) || checks.n != 1 {
			t.Errorf("case %d: %v, %d checks", i, err, checks.n)
		}
	}
	for i := range 20 {
		if name := fmt.Sprint("nobody", i); e.decoy(name) != e.decoy(strings.ToUpper(name)) {
			t.Errorf("%s is not always checked alike", name)
		}
	}
	var set digestSet
	var last [32]byte
	for i := range mostKnown + 10 {
		last = [32]byte{byte(i), byte(i >> 8)}
		set.add(last)
	}
	if n := len(set.set); n != mostKnown || !set.has(last) {
		t.Errorf("%d are kept", n)
	}
}

// TestNarrowestNetwork: of the networks that hold an address the narrowest counts, and
// a tenant comes from the network, the name in the handshake, or the entrance.
func TestNarrowestNetwork(t *testing.T) {
	t.Parallel()
	tenant := func(from string) tenantSettings {
		return tenantSettings{Tenant: Tenant{Server: "smtp.example", Auth: Auth{Method: "none"}, From: from, Senders: []string{"*@example.com"}}}
	}
	s := mustBuild(t, settings{
		tenants: map[string]tenantSettings{"a": tenant("a@example.com"), "b": tenant("b@example.com"), "c": tenant("c@example.com")},
		smtp: []SMTP{{
			Listen: []string{":587"}, Hostname: "h.example", Tenant: "a", SNI: map[string]string{"B.example": "b"},
			Networks: []*SMTPNetwork{
				{Ranges: []string{"10.0.0.0/8", "fe80::/10"}},
				{Ranges: []string{"10.1.2.0/24"}, SMTPSender: SMTPSender{Tenant: "c"}},
				{Ranges: []string{"10.1.0.0/16"}, SMTPSender: SMTPSender{From: "x@example.com"}},
			},
		}},
	})
	a := new(App)
	a.registry.current.Store(s)
	a.mailer = nil
	e := s.smtp[0]
	find := func(addr, sni string) *listener.Identity {
		for _, n := range e.networks {
			if n.prefix.Contains(netip.MustParseAddr(addr).WithZone("")) {
				return a.identity(e, n.smtpSender, listener.Client{ServerName: sni})
			}
		}
		return nil
	}
	for _, tt := range []struct{ addr, sni, tenant, from, name string }{
		{"10.9.9.9", "", "a", "a@example.com", "10.0.0.0/8"},
		{"10.9.9.9", "h.example", "a", "a@example.com", "10.0.0.0/8"},
		{"10.9.9.9", "b.EXAMPLE.", "b", "b@example.com", "10.0.0.0/8"},
		{"10.1.2.3", "b.example", "c", "c@example.com", "10.1.2.0/24"},
		{"10.1.9.9", "", "a", "x@example.com", "10.1.0.0/16"},
		{"fe80::1%eth0", "", "a", "a@example.com", "fe80::/10"},
	} {
		id := find(tt.addr, tt.sni)
		if id == nil || id.Tenant != tt.tenant || id.DefaultFrom.Mailbox() != tt.from || id.Name != tt.name || id.Kind != "network" {
			t.Errorf("%s %s: %+v", tt.addr, tt.sni, id)
		}
	}
	if id := find("11.0.0.1", ""); id != nil {
		t.Errorf("an address of no network: %+v", id)
	}
}

// TestInventoryIsBounded: the client that was not seen for longest is forgotten.
func TestInventoryIsBounded(t *testing.T) {
	t.Parallel()
	var v inventory
	id := &listener.Identity{Kind: "network", Name: "10.0.0.0/8"}
	at := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	client := func(i int) listener.Client {
		return listener.Client{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1), Greeting: "g"}
	}
	for i := range maxClients + 10 {
		v.note(client(i), id, ":25", 1, at.Add(time.Duration(i)))
		v.note(client(0), id, ":25", 1, at.Add(time.Duration(i)))
	}
	list := v.list()
	if len(list) != maxClients {
		t.Errorf("%d clients", len(list))
	}
	for _, c := range list {
		if c.Address == "10.0.0.0" && c.Messages != maxClients+11 || c.Address == "10.0.0.1" {
			t.Errorf("client %+v", c)
		}
	}
	var few inventory
	for i, want := range []int{1, 2, 3, 4, 0} {
		c := client(0)
		c.Greeting = fmt.Sprint("device", min(i, 3))
		if n := few.note(c, id, ":25", 1, at); n != want {
			t.Errorf("greeting %d of the address: %d, want %d", i, n, want)
		}
	}
}

// TestQuiet: the same thing is done once in a while, and it is known how often it was not.
func TestQuiet(t *testing.T) {
	t.Parallel()
	var q quiet
	at := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for i, want := range []bool{true, false, false, true} {
		skipped, ok := q.may("x", at.Add(time.Duration(i)*20*time.Second), time.Minute)
		if ok != want || i == 3 && skipped != 2 {
			t.Errorf("time %d: %t, %d skipped", i, ok, skipped)
		}
	}
	if _, ok := q.may("y", at, time.Minute); !ok {
		t.Error("another thing was not done")
	}
}
