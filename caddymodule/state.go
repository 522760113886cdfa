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
	mailboxes   = caddy.NewUsagePool() // mailboxKey → *mailboxState
)

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

// holdings are the references that one configuration has taken. Only these may
// be given back: a reference more would take away another configuration's.
type holdings struct {
	cells       []cellKey
	connections []connectionsKey
	transports  []transportKey
	breakers    []breakerKey
	mailboxes   map[mailboxKey]heldMailbox
	keys        [][sha256.Size]byte
	outbox      *outboxState
	smtp        []*smtpServer
}

func (h *holdings) cell(key cellKey) (*tokens.Cell, error) {
	v, _, err := cells.LoadOrNew(key, func() (caddy.Destructor, error) { return new(cell), nil })
	if err != nil {
		return nil, err
	}
	h.cells = append(h.cells, key)
	return &v.(*cell).Cell, nil
}

func (h *holdings) pool(key connectionsKey, l limits) (*mailer.Pool, error) {
	v, _, err := connections.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &warmConnections{&mailer.Pool{
			Max: l.connections, MaxAge: l.maxAge, MaxIdle: l.maxIdle, MaxMessages: l.maxMessages,
		}}, nil
	})
	if err != nil {
		return nil, err
	}
	h.connections = append(h.connections, key)
	return v.(*warmConnections).Pool, nil
}

func (h *holdings) breaker(key breakerKey) (*mailer.Breaker, error) {
	v, _, err := breakers.LoadOrNew(key, func() (caddy.Destructor, error) { return new(breaker), nil })
	if err != nil {
		return nil, err
	}
	h.breakers = append(h.breakers, key)
	return &v.(*breaker).Breaker, nil
}

func (h *holdings) transport(s transportSettings) (http.RoundTripper, error) {
	key := s.key()
	v, _, err := transports.LoadOrNew(key, func() (caddy.Destructor, error) { return newTransport(s), nil })
	if err != nil {
		return nil, err
	}
	h.transports = append(h.transports, key)
	return v.(warmTransport).Transport, nil
}

// release gives back all but the cells, the outbox and the SMTP servers. It may be called more than once.
func (h *holdings) release() {
	for _, k := range h.connections {
		_, _ = connections.Delete(k)
	}
	for _, k := range h.transports {
		_, _ = transports.Delete(k)
	}
	for _, k := range h.breakers {
		_, _ = breakers.Delete(k)
	}
	for _, k := range h.keys {
		_, _ = keyUses.Delete(k)
	}
	for k, m := range h.mailboxes {
		m.state.withdraw(h)
		_, _ = mailboxes.Delete(k)
	}
	h.connections, h.transports, h.breakers, h.mailboxes, h.keys = nil, nil, nil, nil, nil
}

// releaseCells gives the cells back. Until nothing is under way in them, another
// configuration must find the same ones.
func (h *holdings) releaseCells() {
	for _, k := range h.cells {
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
