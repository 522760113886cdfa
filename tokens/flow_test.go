package tokens

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// signIn is a sign-in from the ticket to the provider's answer.
type signIn struct {
	flow     *Flow
	client   *Client // whose redirect URI the answer comes to
	begun    *Begun
	response url.Values
	cookie   string
	person   string // who consented
}

func (f *fixture) flow() *Flow { return &Flow{Store: f.store, Keys: f.keys} }

// signIn begins a sign-in and has a person consent. The ID token names who it
// is.
func (f *fixture) signIn(flow *Flow, c *Client, person string) *signIn {
	f.t.Helper()
	sealed, expires, err := flow.NewTicket(f.client, f.account, "ops", "")
	if err != nil {
		f.t.Fatal(err)
	}
	if left := time.Until(expires); left < 9*time.Minute || left > flowLife {
		f.t.Errorf("the ticket is good for %v", left)
	}
	ticket, err := flow.OpenTicket(sealed)
	if err != nil {
		f.t.Fatal(err)
	}
	begun, err := flow.Begin(f.t.Context(), c, ticket)
	if err != nil {
		f.t.Fatal(err)
	}
	response, err := f.server.Consent(begun.URL, person)
	if err != nil {
		f.t.Fatal(err)
	}
	return &signIn{flow, c, begun, response, begun.CookieValue, person}
}

func (s *signIn) complete(ctx context.Context) (*Token, error) {
	done, err := s.flow.Complete(ctx, s.client, s.response, s.cookie)
	if err != nil {
		return nil, err
	}
	return done.Token, nil
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	flow := f.flow()
	var verified []string
	flow.Verify = func(_ context.Context, a Account, token string) error {
		verified = append(verified, a.User)
		if !f.server.Valid(token) {
			t.Error("the token to verify is not valid")
		}
		return nil
	}
	s := f.signIn(flow, f.client, f.account.User)
	if s.begun.CookieName != CookieName(s.response.Get("state")) || !strings.HasPrefix(s.begun.CookieName, CookiePrefix) {
		t.Errorf("cookie name %q", s.begun.CookieName)
	}
	token, err := s.complete(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stored := f.stored()
	switch {
	case stored == nil || stored.RefreshToken.Reveal() != token.RefreshToken.Reveal():
		t.Error("the token was not saved")
	case stored.AuthorizedBy != "ops" || stored.Generation != 1 || stored.Account != f.account:
		t.Errorf("saved %+v", stored)
	case stored.Identity.Subject != "subject of "+f.account.User:
		t.Errorf("identity %+v", stored.Identity)
	case len(verified) != 1:
		t.Errorf("verified %v", verified)
	}
	if n := f.posts(); n != 1 {
		t.Errorf("%d posts", n)
	}
	form := f.server.Requests()[0].Form
	if form.Get("redirect_uri") != f.client.provider.RedirectURI || len(form.Get("code_verifier")) != 43 {
		t.Errorf("form %v", form)
	}
	f.mustToken(f.source())
	if f.storage.Locked() != 0 || f.storage.LostLocks() != 0 {
		t.Error("a lock is left")
	}

	// Again, in place.
	again, err := f.signIn(flow, f.client, f.account.User).complete(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !again.newerThan(token) || again.Generation != 2 {
		t.Errorf("the second sign-in is not newer: %+v", again)
	}
}

// Nothing about a sign-in is kept on the server: another instance finishes it.
func TestSignInFinishedElsewhere(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	s := f.signIn(f.flow(), f.client, f.account.User)
	s.flow = &Flow{Store: NewStore(f.storage, f.keys), Keys: f.keys}
	s.client = f.newClient(f.server)
	if _, err := s.complete(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The whole way over real connections, discovery included.
func TestSignInOverANetwork(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	web := httptest.NewServer(f.server)
	t.Cleanup(web.Close)
	f.server.Issuer = web.URL
	p := f.provider()
	p.AuthorizationEndpoint, p.TokenEndpoint, p.RevocationEndpoint = "", "", ""
	c := NewClient(p, nil)
	flow := f.flow()
	begun, err := flow.Begin(t.Context(), c, Ticket{Account: f.account})
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.Get(begun.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, err := resp.Location()
	if err != nil || !strings.HasPrefix(back.String(), p.RedirectURI+"?") {
		t.Fatalf("status %s, back to %v, %v", resp.Status, back, err)
	}
	done, err := flow.Complete(t.Context(), c, back.Query(), begun.CookieValue)
	if err != nil {
		t.Fatal(err)
	}
	s := f.sourceOf(&Cell{}, c)
	s.Adopt(done.Token)
	if err := s.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	f.mustToken(s)
	if revoked, err := s.Disconnect(t.Context()); !revoked || err != nil {
		t.Errorf("Disconnect = %v, %v", revoked, err)
	}
}

// Trouble that is nobody's attack (see TestAttacks for those) leaves the token
// there was, too.
func TestSignInRefused(t *testing.T) {
	t.Parallel()
	unreachable, refused := errors.New("no connection"), fmt.Errorf("535: %w", ErrRefused)
	for name, test := range map[string]failing{
		"denied":               {reason: ReasonDenied, then: deny},
		"cookie expired":       {reason: ReasonExpired, then: func(*fixture, *signIn) { time.Sleep(flowLife + time.Second) }},
		"exchange lost":        {reason: ReasonExchange, posts: 1, then: func(f *fixture, _ *signIn) { f.server.Next(tokenstest.Lose()) }},
		"exchange hangs":       {reason: ReasonExchange, posts: 1, then: func(f *fixture, _ *signIn) { f.server.Next(tokenstest.Hang()) }},
		"exchange 503":         {reason: ReasonExchange, posts: 1, then: func(f *fixture, _ *signIn) { f.server.Next(tokenstest.Status(503, "")) }},
		"wrong, undecided":     {reason: ReasonIdentity, posts: 1, person: "boss@example.com", verify: unreachable, verdict: true},
		"wrong by name alone":  {reason: ReasonIdentity, posts: 1, before: claim("email", "boss@example.com")},
		"pinned, now nameless": {reason: ReasonIdentity, posts: 1, before: func(f *fixture, _ *Provider) { f.server.WithoutID = true }, verify: unreachable, verdict: true},
		"refused by name, too": {reason: ReasonIdentity, posts: 1, person: "boss@example.com", verify: refused, verdict: true},
		"refused, pinned":      {reason: ReasonIdentity, posts: 1, before: claim("sub", "somebody else"), verify: refused, verdict: true},
		"refused and nameless": {reason: ReasonMailServer, posts: 1, before: claim("email", nil), verify: refused, verdict: true},
		"refused, no ID token": {reason: ReasonMailServer, posts: 1, before: func(f *fixture, _ *Provider) { f.server.WithoutID = true }, verify: refused, verdict: true},
		"storage fails to store": {reason: ReasonStorage, posts: 1, then: func(f *fixture, _ *signIn) {
			f.storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
				if op == tokenstest.OpStore && strings.HasPrefix(key, prefixTokens) {
					return tokenstest.ErrFault
				}
				return nil
			})
		}},
		"storage fails to load": {reason: ReasonStorage, posts: 1, then: func(f *fixture, _ *signIn) { f.storage.Fail(tokenstest.OpLoad, -1, nil) }},
	} {
		t.Run(name, test.run)
	}
}

func deny(_ *fixture, s *signIn) {
	state := s.response.Get("state")
	s.response = url.Values{
		"state": {state}, "error": {"access_denied"},
		"error_description": {"<script>no</script>\r\n state " + state + " " + strings.Repeat("x", 500)},
	}
}

func claim(name string, value any) func(*fixture, *Provider) {
	return func(f *fixture, _ *Provider) {
		f.server.Claims = func(claims map[string]any) {
			claims[name] = value
			if value == nil {
				delete(claims, name)
			}
		}
	}
}

func TestDeniedText(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	s := f.signIn(f.flow(), f.client, f.account.User)
	state := s.response.Get("state")
	deny(f, s)
	_, err := s.complete(t.Context())
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v holds no *Error", err)
	}
	if e.Code != "access_denied" || e.Kind != KindNeedsPerson {
		t.Errorf("code %q, kind %v", e.Code, e.Kind)
	}
	if len(e.Description) > maxDescription+len("…") || strings.ContainsAny(e.Description, "\r\n") || strings.Contains(e.Description, state) {
		t.Errorf("description %q", e.Description)
	}
}

// What an authorization response's error code says: what is not known is a no.
func TestDeniedKinds(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]Kind{
		"access_denied": KindNeedsPerson, "login_required": KindNeedsPerson, "account_selection_required": KindNeedsPerson,
		"disallowed_useragent": KindNeedsPerson, "AADSTS900971": KindNeedsPerson, "slow_down": KindNeedsPerson,
		"invalid_scope": KindConfig, "unsupported_response_type": KindConfig, "redirect_uri_mismatch": KindConfig,
		"org_internal": KindConfig, "admin_policy_enforced": KindConfig, "access_not_configured": KindConfig,
		"server_error": KindTransient, "temporarily_unavailable": KindTransient,
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			f := setUp(t)
			s := f.signIn(f.flow(), f.client, f.account.User)
			s.response = url.Values{"state": {s.response.Get("state")}, "error": {code}, "iss": {f.server.Issuer}}
			_, err := s.complete(t.Context())
			if e, _ := errors.AsType[*Error](err); e == nil || e.Kind != want {
				t.Errorf("%v: want %v", err, want)
			}
		})
	}
}

// What is allowed, though it looks odd.
func TestSignInAllowed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		person string
		before func(*fixture, *Provider)
		then   func(*fixture, *signIn)
		verify func(context.Context, Account, string) error
	}{
		"name in another case":             {person: "NoReply@Example.COM"},
		"alias that the mail server takes": {person: "alias@example.com", verify: func(context.Context, Account, string) error { return nil }},
		"mail server unreachable":          {verify: func(context.Context, Account, string) error { return errors.New("no connection") }},
		"no ID token":                      {before: func(f *fixture, _ *Provider) { f.server.WithoutID = true }},
		"nonce not asked for":              {before: func(f *fixture, p *Provider) { p.Scopes = []string{"smtp.send"} }},
		"iss missing":                      {then: func(_ *fixture, s *signIn) { s.response.Del("iss") }},
		"iss odd and ignored":              {before: func(_ *fixture, p *Provider) { p.IssRule = IssIgnored }, then: func(_ *fixture, s *signIn) { s.response.Set("iss", "odd") }},
		"Google's short issuer":            {before: claim("iss", "idp.example.net")},
		"several audiences":                {before: claim("aud", []string{"other", "client-1"})},
		"no scope told":                    {then: func(f *fixture, _ *signIn) { f.server.Next(tokenstest.Set(map[string]any{"scope": nil})) }},
		"scope in another case":            {before: func(f *fixture, _ *Provider) { f.server.Scope = "SMTP.Send" }},
		"the lock cannot be had":           {then: func(f *fixture, _ *signIn) { f.storage.Fail(tokenstest.OpLock, -1, nil) }},
		"the clock a little off":           {before: func(f *fixture, p *Provider) { claim("exp", time.Now().Add(-4*time.Minute).Unix())(f, p) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				p := f.provider()
				if test.before != nil {
					test.before(f, &p)
				}
				if test.person == "" {
					test.person = f.account.User
				}
				flow := f.flow()
				flow.Verify = test.verify
				s := f.signIn(flow, NewClient(p, f.server), test.person)
				if test.then != nil {
					test.then(f, s)
				}
				if _, err := s.complete(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestCodeExchangeOutlivesTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		s := f.signIn(f.flow(), f.client, f.account.User)
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = s.complete(ctx) }()
		synctest.Wait()
		cancel()
		close(gate)
		synctest.Wait()
		if f.stored() == nil {
			t.Error("the token was lost with the browser")
		}
	})
}

// A mail server that hangs while a new token is tried does not hold the lock,
// nor the sign-in for ever.
func TestVerifyHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow := f.flow()
		flow.Verify = func(ctx context.Context, _ Account, _ string) error {
			if f.storage.Locked() != 0 {
				t.Error("the lock is held meanwhile")
			}
			<-ctx.Done()
			return ctx.Err()
		}
		if _, err := f.signIn(flow, f.client, f.account.User).complete(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A clock that is behind another instance's must not make a new sign-in look
// older than the one it replaces.
func TestSignInWithClockBehind(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	old := *f.authorized()
	old.AuthorizedAt = old.AuthorizedAt.Add(time.Hour)
	f.save(&old)
	token, err := f.signIn(f.flow(), f.client, f.account.User).complete(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !token.supersedes(&old) {
		t.Error("the new sign-in does not supersede the old one")
	}
}

func TestSignInOverUnreadableRecord(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	f.storage.Put(f.account.storageKey(), []byte("rubbish"))
	_, err := f.signIn(f.flow(), f.client, f.account.User).complete(t.Context())
	var fe *FlowError
	if !errors.As(err, &fe) || fe.Reason != ReasonStorage || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "disconnect") {
		t.Errorf("error %v", err)
	}
}

func TestTicket(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow := f.flow()
		sealed, expires, err := flow.NewTicket(f.client, f.account, "ops", "select_account")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(sealed, "noreply") || url.QueryEscape(sealed) != sealed {
			t.Errorf("ticket %q", sealed)
		}
		got, err := flow.OpenTicket(sealed)
		if err != nil || got != (Ticket{f.account, "select_account", "ops", expires.Add(-flowLife), expires}) {
			t.Errorf("OpenTicket = %+v, %v", got, err)
		}
		begun, err := flow.Begin(t.Context(), f.client, got)
		if err != nil || !strings.Contains(begun.URL, "prompt=select_account") {
			t.Errorf("Begin = %+v, %v", begun, err)
		}
		other := f.provider()
		other.Name = "other"
		for name, err := range map[string]error{
			"cookie as a ticket": second(flow.OpenTicket(begun.CookieValue)),
			"rubbish":            second(flow.OpenTicket("rubbish")),
			"empty":              second(flow.OpenTicket("")),
			"other provider":     second(flow.Begin(t.Context(), NewClient(other, f.server), got)),
		} {
			var fe *FlowError
			if !errors.As(err, &fe) || fe.Reason != ReasonTicket && fe.Reason != ReasonProvider {
				t.Errorf("%s: %v", name, err)
			}
		}
		time.Sleep(flowLife - time.Second)
		if _, err := flow.OpenTicket(sealed); err != nil {
			t.Errorf("just before its end: %v", err)
		}
		time.Sleep(2 * time.Second)
		var fe *FlowError
		if _, err := flow.OpenTicket(sealed); !errors.As(err, &fe) || fe.Reason != ReasonTicket || fe.Account != f.account {
			t.Errorf("after its end: %v", err)
		}
		broken := &Flow{Store: f.store, Keys: func() (*KeyRing, error) { return nil, errors.New("no key") }}
		if _, _, err := broken.NewTicket(f.client, f.account, "", ""); err == nil {
			t.Error("sealed without a key")
		}
		if _, err := broken.Begin(t.Context(), f.client, got); err == nil {
			t.Error("begun without a key")
		}
	})
}

func second[T any](_ T, err error) error { return err }

// A ticket and a cookie, sealed with a key of ones and good until 2199.
const (
	goldenTicket = "T01TUgEjCTv4pkCoxEILNP-IoEX_hiFOpRSKOvxmIqv3tuRSsrP642kmSXE3m3KqmAXoeBTMmxVnTQcJwVnYyzXANGxIk7M5G9VF" +
		"OrxI-ByhHxzZUS-WqfKxxHUP4r3Pln11-IvWn70uc2mUtsavHN7moq-6TeEyRNiBe0wEFs9a36kVqdxPD2MBRqepyzWn5A"
	goldenCookie = "T01TUgEjCTv47wtnP0GJgokuNqlyJdTlM2dtJf6vACz1Zt4pz0RHjIceenc8b-JtuIFXJnb0lr3dApXclBJU_Rk142OI101mmZ-l" +
		"KBQzYQy6NFVzl6hG9r7RryLT7McFhZC_afn0LHYi7DAt2aZR_0gneAo4rVMMudbXpIGmLtRlXtgZZGIecdCcKIJkvXdcguHVG7kw" +
		"UKTr5HLEN-oIwULf3wAh0wnhDii9Bou4-qmMuiNyTuIMAO-RXxPIGH2iMAzJgXZqLOM0LWFFP3gKgBwgwCaX8PTG2rNlmfb4L7v3" +
		"Z-TBKwQtrqqe33cbGRVwXwAkb0MaSGi1Cs4qIHJtCEsXy4ZJSeiYWK-0YyzGb1LebOU"
)

func FuzzTicket(f *testing.F) {
	ring := testRing(f, 1)
	flow := &Flow{Keys: func() (*KeyRing, error) { return ring, nil }}
	client := NewClient(Provider{Name: "lab"}, nil)
	if _, err := flow.OpenTicket(goldenTicket); err != nil {
		f.Fatal(err)
	}
	match := func(state, cookie string) error {
		var pend pending
		if err := flow.open(pendingName, cookie, &pend); err != nil {
			return err
		}
		return flow.match(client, url.Values{"state": {state}}, &pend)
	}
	if err := match("s", goldenCookie); err != nil {
		f.Fatal(err)
	}
	f.Add(goldenTicket, "s")
	f.Add(goldenCookie, "s")
	f.Add("", "")
	// Base64 leaves room for the same octets in another writing.
	same := func(text, good string) bool {
		a, err := base64.RawURLEncoding.DecodeString(text)
		b, _ := base64.RawURLEncoding.DecodeString(good)
		return err == nil && bytes.Equal(a, b)
	}
	f.Fuzz(func(t *testing.T, text, state string) {
		if _, err := flow.OpenTicket(text); err == nil && !same(text, goldenTicket) {
			t.Fatalf("forged ticket %q opens", text)
		}
		if err := match(state, text); err == nil && (state != "s" || !same(text, goldenCookie)) {
			t.Fatalf("forged cookie %q opens", text)
		}
	})
}
