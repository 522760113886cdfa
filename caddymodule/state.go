package caddymodule

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// What outlives a configuration, beside the [outboxes] and the [smtpServers]: tokens in memory, connections that are signed
// in, connections to providers, whether tenants can send, and what mailboxes have
// sent. All are passive, they have no goroutine and no logger of a configuration
// that may be gone. A value is found again by everything that makes it what it is; a
// changed setting gives a new one.
var (
	cells       = caddy.NewUsagePool() // cellKey → *cell
	connections = caddy.NewUsagePool() // connectionsKey → *warmConnections
	transports  = caddy.NewUsagePool() // transportKey → warmTransport
	breakers    = caddy.NewUsagePool() // breakerKey → *breaker
	mailboxes   = caddy.NewUsagePool() // mailboxHash → *mailboxState
	saved       = caddy.NewUsagePool() // savedKey → *savedSettings
)

// savedKey identifies a storage.
type savedKey string

// cellKey identifies an account's token: whose it is, who issued it to which
// client, and where it is stored.
type cellKey [sha256.Size]byte

// connectionsKey identifies interchangeable connections: same server, same
// user, same way of signing in.
type connectionsKey [sha256.Size]byte

// breakerKey identifies a way to send: as [connectionsKey], however the
// connections are kept. A password that was put right is another way.
type breakerKey [sha256.Size]byte

// transportKey identifies interchangeable ways to reach a provider.
type transportKey [sha256.Size]byte

type cell struct{ tokens.Cell }

// Destruct does nothing: a cell holds memory only.
func (*cell) Destruct() error { return nil }

type breaker struct{ mailer.Breaker }

// Destruct does nothing: there is memory only.
func (*breaker) Destruct() error { return nil }

type warmConnections struct{ *mailer.Pool }

// Destruct closes the idle connections, without waiting for the servers' words:
// it runs while a configuration is being loaded. Those in use are closed when
// they are given back.
func (w *warmConnections) Destruct() error {
	go func() {
		defer func() { _ = recover() }() // nobody is left to tell
		_ = w.Close()
	}()
	return nil
}

// holdings are the references that one configuration has taken, one for each value.
// Only these may be given back: a reference more would take away another
// configuration's. Whoever changes them holds the App's changing, once it is
// provisioned.
type holdings struct {
	cells       map[cellKey]*tokens.Cell
	connections map[connectionsKey]*mailer.Pool
	transports  map[transportKey]*http.Transport
	breakers    map[breakerKey]*mailer.Breaker
	mailboxes   map[mailboxHash]*heldMailbox
	keys        map[keyUseKey]*keyUse
	saved       savedKey
	outbox      *outboxState
	smtp        []*smtpServer
}

// take returns a value that is held, or takes a reference to it.
func take[K comparable, V any, D caddy.Destructor](held *map[K]V, pool *caddy.UsagePool, key K, fresh func() D, value func(D) V) (v V, err error) {
	if v, ok := (*held)[key]; ok {
		return v, nil
	}
	d, _, err := pool.LoadOrNew(key, func() (caddy.Destructor, error) { return fresh(), nil })
	if err != nil {
		return v, err
	}
	if *held == nil {
		*held = make(map[K]V)
	}
	v = value(d.(D))
	(*held)[key] = v
	return v, nil
}

func (h *holdings) cell(key cellKey) (*tokens.Cell, error) {
	return take(&h.cells, cells, key, func() *cell { return new(cell) }, func(c *cell) *tokens.Cell { return &c.Cell })
}

func (h *holdings) pool(key connectionsKey, l limits) (*mailer.Pool, error) {
	return take(&h.connections, connections, key, func() *warmConnections {
		return &warmConnections{&mailer.Pool{
			Max: l.connections, MaxAge: l.maxAge, MaxIdle: l.maxIdle, MaxMessages: l.maxMessages,
		}}
	}, func(w *warmConnections) *mailer.Pool { return w.Pool })
}

func (h *holdings) breaker(key breakerKey) (*mailer.Breaker, error) {
	return take(&h.breakers, breakers, key, func() *breaker { return new(breaker) }, func(b *breaker) *mailer.Breaker { return &b.Breaker })
}

func (h *holdings) transport(s transportSettings) (*http.Transport, error) {
	return take(&h.transports, transports, s.key(), func() warmTransport { return newTransport(s) },
		func(w warmTransport) *http.Transport { return w.Transport })
}

// settings returns what is known of the settings in a storage.
func (h *holdings) settings(storage string) (*savedSettings, error) {
	key := savedKey("storage " + storage)
	v, _, err := saved.LoadOrNew(key, func() (caddy.Destructor, error) { return new(savedSettings), nil })
	if err != nil {
		return nil, err
	}
	h.saved = key
	return v.(*savedSettings), nil
}

// retain gives back what nothing in a snapshot has any more, which takes the place of
// another one of the same configuration. The cells stay: something may be under way in
// them.
func (h *holdings) retain(s *snapshot) {
	used := make(map[any]bool, 3*len(s.tenants))
	for _, t := range s.tenants {
		used[t.mail.Pool], used[t.mail.Breaker], used[t.mail.Limits] = true, true, true
	}
	for _, p := range s.providers {
		used[p.transport.key()] = true
	}
	for _, k := range s.allKeys() {
		used[k.use] = true
	}
	for k, u := range h.keys {
		if !used[u] {
			delete(h.keys, k)
			_, _ = keyUses.Delete(k)
		}
	}
	for k, p := range h.connections {
		if !used[p] {
			delete(h.connections, k)
			_, _ = connections.Delete(k)
		}
	}
	for k, b := range h.breakers {
		if !used[b] {
			delete(h.breakers, k)
			_, _ = breakers.Delete(k)
		}
	}
	for k := range h.transports {
		if !used[k] {
			delete(h.transports, k)
			_, _ = transports.Delete(k)
		}
	}
	for k, m := range h.mailboxes {
		if !used[&m.state.limiter] {
			delete(h.mailboxes, k)
			m.state.withdraw(h)
			_, _ = mailboxes.Delete(k)
		}
	}
}

// release gives back all but the cells, the outbox and the SMTP servers. It may be called more than once.
func (h *holdings) release() {
	for k := range h.connections {
		_, _ = connections.Delete(k)
	}
	for k := range h.transports {
		_, _ = transports.Delete(k)
	}
	for k := range h.breakers {
		_, _ = breakers.Delete(k)
	}
	for k := range h.keys {
		_, _ = keyUses.Delete(k)
	}
	for k, m := range h.mailboxes {
		m.state.withdraw(h)
		_, _ = mailboxes.Delete(k)
	}
	if h.saved != "" {
		_, _ = saved.Delete(h.saved)
	}
	h.connections, h.transports, h.breakers, h.mailboxes, h.keys, h.saved = nil, nil, nil, nil, nil, ""
}

// releaseCells gives the cells back. Until nothing is under way in them, another
// configuration must find the same ones.
func (h *holdings) releaseCells() {
	for k := range h.cells {
		_, _ = cells.Delete(k)
	}
	h.cells = nil
}

// digest hashes values that make something what it is. Secrets may take part:
// the digest does not tell them.
func digest(values ...any) [sha256.Size]byte {
	data, err := json.Marshal(values)
	if err != nil {
		panic(fmt.Sprintf("oauth_mail: values of a key: %v", err)) // strings and numbers only
	}
	return sha256.Sum256(data)
}
