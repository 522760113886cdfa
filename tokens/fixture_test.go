package tokens

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

var _ Storage = (*tokenstest.Storage)(nil)

// fixture is one account at one provider, with everything around it.
type fixture struct {
	t       *testing.T
	server  *tokenstest.Server
	storage *tokenstest.Storage
	ring    *KeyRing
	store   *Store
	client  *Client
	account Account
	log     bytes.Buffer // guarded by the logger; read it when all is quiet
	logger  *slog.Logger
	pacers  pacers

	mu     sync.Mutex
	events []string
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		t:       t,
		server:  tokenstest.NewServer(),
		storage: tokenstest.NewStorage(),
		account: Account{Provider: "lab", User: "noreply@example.com"},
	}
	f.logger = slog.New(slog.NewJSONHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.ring = testRing(t, 1)
	f.store = NewStore(f.storage, f.keys)
	f.client = f.newClient(f.server)
	return f
}

// testRing returns a ring of keys that are made of the given octets.
func testRing(t testing.TB, octets ...byte) *KeyRing {
	t.Helper()
	var keys [][]byte
	for _, o := range octets {
		keys = append(keys, bytes.Repeat([]byte{o}, KeySize))
	}
	ring, err := NewKeyRing(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func (f *fixture) keys() (*KeyRing, error) { return f.ring, nil }

// provider is the provider's settings, every endpoint given.
func (f *fixture) provider() Provider {
	return Provider{
		Name:                  f.account.Provider,
		Issuer:                f.server.Issuer,
		AuthorizationEndpoint: f.server.Issuer + tokenstest.PathAuthorize,
		TokenEndpoint:         f.server.Issuer + tokenstest.PathToken,
		RevocationEndpoint:    f.server.Issuer + tokenstest.PathRevoke,
		ClientID:              f.server.ClientID,
		Credentials:           NewClientSecret(f.server.ClientSecret),
		AuthStyle:             AuthPost,
		Scopes:                []string{"smtp.send", "offline_access", "openid", "email"},
		RedirectURI:           "https://mail.example.com/oauth/callback/lab",
		Servers:               []string{"smtp.example.net"},
	}
}

func (f *fixture) newClient(transport http.RoundTripper) *Client {
	return NewClient(f.provider(), transport)
}

// authorized stores a token as a sign-in leaves it, and returns it.
func (f *fixture) authorized() *Token {
	f.t.Helper()
	access, refresh := f.server.Issue(f.account.User, "smtp.send")
	now := time.Now().UTC()
	t := &Token{
		Account: f.account, Generation: 1,
		AccessToken: NewSecret(access), RefreshToken: NewSecret(refresh),
		AuthorizedAt: now, IssuedAt: now, Expiry: now.Add(f.server.Life),
	}
	f.save(t)
	return t
}

// expired stores a token whose access token has ended, and returns it.
func (f *fixture) expired() *Token {
	f.t.Helper()
	t := *f.authorized()
	t.IssuedAt, t.Expiry = t.IssuedAt.Add(-2*time.Hour), t.IssuedAt.Add(-time.Hour)
	f.save(&t)
	return &t
}

func (f *fixture) save(t *Token) {
	f.t.Helper()
	if err := f.store.Save(f.t.Context(), t); err != nil {
		f.t.Fatal(err)
	}
}

// stored reads the record past every fault.
func (f *fixture) stored() *Token {
	f.t.Helper()
	sealed := f.storage.Get(f.account.storageKey())
	if sealed == nil {
		return nil
	}
	plain, err := f.ring.Open(f.account.storageKey(), sealed)
	if err != nil {
		f.t.Fatal(err)
	}
	t, err := decodeToken(plain)
	if err != nil {
		f.t.Fatal(err)
	}
	return t
}

// source returns a source with a cell of its own, as another process has.
func (f *fixture) source() *Source { return f.sourceOf(&Cell{}, f.client) }

func (f *fixture) sourceOf(cell *Cell, c *Client) *Source {
	return NewSource(f.account, c, f.store, cell, &SourceOptions{Logger: f.logger, Observer: f.observer(), pacers: &f.pacers})
}

// countWrites counts from now on how often the account's record is written.
func (f *fixture) countWrites() *atomic.Int32 {
	var n atomic.Int32
	f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
		if op == tokenstest.OpStore && key == f.account.storageKey() {
			n.Add(1)
		}
		return nil
	})
	return &n
}

// nobodies returns sources of accounts that nobody uses, and nothing is known
// of.
func (f *fixture) nobodies(n int) []*Source {
	p := f.provider()
	p.Grant = GrantClientCredentials
	c := NewClient(p, f.server)
	var list []*Source
	for i := range n {
		a := Account{Provider: f.account.Provider, User: fmt.Sprintf("nobody-%d@example.com", i)}
		list = append(list, NewSource(a, c, f.store, &Cell{}, &SourceOptions{pacers: &f.pacers}))
	}
	return list
}

func (f *fixture) observer() Observer {
	return Observer{
		Refreshed:          func(Account, time.Duration) { f.note("refreshed") },
		Recovered:          func(Account) { f.note("recovered") },
		RefreshFailed:      func(_ Account, err *Error, _ time.Duration) { f.note("failed " + err.Kind.String()) },
		NeedsAuthorization: func(Account, *Error) { f.note("needs authorization") },
		Authorized:         func(Account) { f.note("authorized") },
		Disconnected:       func(Account) { f.note("disconnected") },
	}
}

func (f *fixture) note(event string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, event)
}

// count returns how often an event was seen.
func (f *fixture) count(event string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, e := range f.events {
		if e == event {
			n++
		}
	}
	return n
}

// posts returns how many requests came to the token endpoint.
func (f *fixture) posts() int {
	n := 0
	for _, r := range f.server.Requests() {
		if r.Path == tokenstest.PathToken {
			n++
		}
	}
	return n
}

// run runs a refresher for the sources until the returned func is called.
func (f *fixture) run(sources ...*Source) (stop func()) {
	cancel, done := f.refresher(&Refresher{Sources: sources, Store: f.store})
	stop = func() {
		cancel()
		<-done
	}
	f.t.Cleanup(stop) // else a test that fails early leaves it running
	return stop
}

// refresher runs a refresher.
func (f *fixture) refresher(r *Refresher) (cancel context.CancelFunc, done <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	return cancel, ended
}

// mustToken asks for an access token, which must be valid at the server.
func (f *fixture) mustToken(s *Source) string {
	f.t.Helper()
	token, err := s.AccessToken(f.t.Context())
	if err != nil {
		f.t.Fatalf("AccessToken: %v", err)
	}
	if !f.server.Valid(token) {
		f.t.Fatalf("AccessToken handed out a token that is not valid")
	}
	return token
}

// presentedOnce reports refresh tokens that came to the server twice.
func (f *fixture) presentedOnce() {
	f.t.Helper()
	if n := f.server.Reused(); n != 0 {
		f.t.Errorf("%d refresh tokens were presented twice", n)
	}
}

// unsaved refreshes an expired token while the storage takes no writes, which it
// goes on doing: the new one, good for 12 hours, is in memory only.
func (f *fixture) unsaved() (s *Source, token string) {
	f.t.Helper()
	f.server.Life = 12 * time.Hour
	f.expired()
	s = f.source()
	f.storage.Fail(tokenstest.OpStore, -1, nil)
	return s, f.mustToken(s)
}

// mustFail asks for an access token, which must fail as given.
func (f *fixture) mustFail(s *Source, kind Kind) *Error {
	f.t.Helper()
	token, err := s.AccessToken(f.t.Context())
	e, ok := err.(*Error)
	if !ok {
		f.t.Fatalf("AccessToken = %q, %v; want an *Error", token, err)
	}
	if e.Kind != kind {
		f.t.Fatalf("AccessToken: %v is %v, want %v", e, e.Kind, kind)
	}
	return e
}
