package tokens

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestRegistration(t *testing.T) {
	t.Parallel()
	base := Provider{Name: "lab", Issuer: "https://a.example", TokenEndpoint: "https://a.example/token", ClientID: "1"}
	bare := base
	bare.Issuer = ""
	with := func(p Provider, change func(*Provider)) Provider {
		change(&p)
		return p
	}
	for name, test := range map[string]struct {
		a, b Provider
		same bool
	}{
		"name":                      {base, with(base, func(p *Provider) { p.Name = "x" }), true},
		"client secret":             {base, with(base, func(p *Provider) { p.Credentials = NewClientSecret("x") }), true},
		"endpoint, with an issuer":  {base, with(base, func(p *Provider) { p.TokenEndpoint = "https://b.example" }), false},
		"issuer":                    {base, with(base, func(p *Provider) { p.Issuer = "https://b.example" }), false},
		"client id":                 {base, with(base, func(p *Provider) { p.ClientID = "2" }), false},
		"endpoint, without issuer":  {bare, with(bare, func(p *Provider) { p.TokenEndpoint = "https://b.example" }), false},
		"client id, without issuer": {bare, with(bare, func(p *Provider) { p.ClientID = "2" }), false},
		"issuer in place of none":   {base, bare, false},
		"moved boundary":            {Provider{Issuer: "a1"}, Provider{Issuer: "a", ClientID: "1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if same := test.a.Registration() == test.b.Registration(); same != test.same {
				t.Errorf("same: %v", same)
			}
		})
	}
}

// moved is the fixture's provider after an edit of the configuration, and the
// server to which it leads now. Nothing of the old grant may get there.
func (f *fixture) moved(change func(*Provider)) (*Client, *tokenstest.Server) {
	server := tokenstest.NewServer()
	p := f.provider()
	change(&p)
	return NewClient(p, server), server
}

// bound stores a token as [fixture.expired] does, with its registration.
func (f *fixture) bound() *Token {
	f.t.Helper()
	t := *f.expired()
	t.Registration = f.provider().Registration()
	t.PreviousRefreshToken = NewSecret("refresh-older")
	t.Identity = Identity{Issuer: f.server.Issuer, Subject: "subject of " + f.account.User}
	f.save(&t)
	return &t
}

func moveIssuer(p *Provider) { p.Issuer = "https://other.example" }

func TestTokenOfAnotherRegistration(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Provider)
		fresh  bool
	}{
		"another issuer":           {moveIssuer, false},
		"another client":           {func(p *Provider) { p.ClientID = "client-2" }, false},
		"another client, unneeded": {func(p *Provider) { p.ClientID = "client-2" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.server.Life = 3 * time.Hour
				token := f.bound()
				if test.fresh {
					token.IssuedAt, token.Expiry = time.Now().UTC(), time.Now().UTC().Add(f.server.Life)
					f.save(token)
				}
				before := f.storage.Get(f.account.storageKey())
				client, stranger := f.moved(test.change)
				s := f.sourceOf(&Cell{}, client)
				stop := f.run(s)
				if e := f.mustFail(s, KindNeedsPerson); !errors.Is(e, ErrOtherRegistration) {
					t.Errorf("AccessToken: %v", e)
				}
				if err := s.Refresh(t.Context()); !errors.Is(err, ErrOtherRegistration) {
					t.Errorf("Refresh: %v", err)
				}
				time.Sleep(time.Hour)
				st := s.Status(t.Context())
				if st.State != StateUnauthorized || st.Failure == nil || st.Failure.Description != ErrOtherRegistration.Error() {
					t.Errorf("status %v: %+v", st, st.Failure)
				}
				stop()
				if n := len(stranger.Requests()); n != 0 {
					t.Errorf("%d requests to the new provider", n)
				}
				if !bytes.Equal(f.storage.Get(f.account.storageKey()), before) {
					t.Error("the record was touched")
				}
				if len(f.events) != 0 {
					t.Errorf("events: %v", f.events)
				}
				f.mustToken(f.source()) // with the setting put back
			})
		})
	}
}

func TestDisconnectOfAnotherRegistration(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.bound()
	client, stranger := f.moved(moveIssuer)
	revoked, err := f.sourceOf(&Cell{}, client).Disconnect(t.Context())
	if revoked || err != nil {
		t.Errorf("Disconnect = %v, %v", revoked, err)
	}
	if n := len(stranger.Requests()); n != 0 {
		t.Errorf("%d requests to the new provider", n)
	}
	if f.stored() != nil {
		t.Error("the record is still there")
	}
}

// The pin to a person holds within a registration only, and the new token
// counts more than the old one everywhere.
func TestSignInAtAnotherRegistration(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	old := f.bound()
	p := f.provider()
	p.ClientID, f.server.ClientID = "client-2", "client-2"
	client := NewClient(p, f.server)
	claim("sub", "the same person, by another number")(f, nil)
	token, err := f.signIn(f.flow(), client, f.account.User).complete(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if token.Registration != p.Registration() || !token.supersedes(old) || f.stored().Registration != p.Registration() {
		t.Errorf("saved %+v", token)
	}
	f.mustToken(f.sourceOf(&Cell{}, client))
	if e := f.mustFail(f.source(), KindNeedsPerson); !errors.Is(e, ErrOtherRegistration) {
		t.Errorf("with the old setting: %v", e)
	}
	// Within the new one it holds.
	claim("sub", "somebody else")(f, nil)
	var fe *FlowError
	if _, err := f.signIn(f.flow(), client, f.account.User).complete(t.Context()); !errors.As(err, &fe) || fe.Reason != ReasonIdentity {
		t.Errorf("another person: %v", err)
	}
}

// A record from before registrations were kept is taken as it is, and bound by
// the first refresh that succeeds.
func TestRecordWithoutRegistration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.expired()
		f.server.Next(tokenstest.Fail(400, "invalid_scope", ""))
		cell := &Cell{}
		f.mustFail(f.sourceOf(cell, f.client), KindConfig)
		if got := f.stored(); got.Failure == nil || got.Registration != "" {
			t.Errorf("bound by a failure: %+v", got)
		}
		time.Sleep(probeEvery) // the client was refused
		f.mustToken(f.source())
		if got := f.stored().Registration; got != f.provider().Registration() {
			t.Errorf("registration %q after a refresh", got)
		}
	})
}

// Another instance, with another configuration, signs the account in while a
// refresh of the old grant is under way, and the lock does not hold.
func TestRefreshLeavesASignInElsewhere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ended bool          // the old grant, so that the refresh is refused
		after time.Duration // by the other instance's clock
	}{
		"refreshed":                     {false, time.Second},
		"refused":                       {true, time.Second},
		"refused, with a clock far off": {true, -time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				f.storage.Lie()
				old := f.bound()
				old.PreviousRefreshToken = Secret{}
				f.save(old)
				client, _ := f.moved(moveIssuer)
				fresh := *old
				fresh.Generation++
				fresh.AuthorizedAt = old.AuthorizedAt.Add(test.after)
				fresh.Registration = client.provider.Registration()
				gate := make(chan struct{})
				f.server.Next(tokenstest.Wait(gate))
				if test.ended {
					f.server.End(f.account.User)
				}
				s := f.source()
				go func() { _, _ = s.AccessToken(t.Context()) }()
				synctest.Wait()
				f.save(&fresh)
				before := f.storage.Get(f.account.storageKey())
				close(gate)
				time.Sleep(time.Minute)
				if !bytes.Equal(f.storage.Get(f.account.storageKey()), before) {
					t.Errorf("the sign-in was overwritten: %+v", f.stored())
				}
				if e := f.mustFail(s, KindNeedsPerson); !errors.Is(e, ErrOtherRegistration) {
					t.Errorf("AccessToken: %v", e)
				}
				if f.count("needs authorization") != 0 {
					t.Errorf("events: %v", f.events)
				}
			})
		})
	}
}

func TestAdoptOfAnotherRegistration(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	token := f.bound()
	client, _ := f.moved(moveIssuer)
	s := f.sourceOf(&Cell{}, client)
	s.Adopt(token)
	if s.cell.newest != nil || f.count("authorized") != 0 {
		t.Error("adopted")
	}
}
