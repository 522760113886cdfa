package tokens

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// failed completes a sign-in that must fail.
func (s *signIn) failed(t *testing.T) *FlowError {
	t.Helper()
	_, err := s.complete(t.Context())
	var fe *FlowError
	if !errors.As(err, &fe) {
		t.Fatalf("error %v is no *FlowError", err)
	}
	return fe
}

func TestRenew(t *testing.T) {
	t.Parallel()
	scope := func(f *fixture) { f.server.Scope = "openid" }
	for name, test := range map[string]struct {
		reason Reason
		person string
		before func(*fixture)
		then   func(*fixture, *signIn)
		ok     bool
	}{
		"denied":        {reason: ReasonDenied, then: deny, ok: true},
		"scope":         {reason: ReasonScope, before: scope, ok: true},
		"wrong account": {reason: ReasonIdentity, person: "boss@example.com", ok: true},
		"exchange":      {reason: ReasonExchange, then: func(f *fixture, _ *signIn) { f.server.Next(tokenstest.Status(503, "")) }, ok: true},
		"no refresh":    {reason: ReasonRefresh, before: func(f *fixture) { f.server.WithoutRefresh = true }},
		"storage":       {reason: ReasonStorage, before: func(f *fixture) { f.storage.Put(f.account.storageKey(), []byte("rubbish")) }},
		"issuer":        {reason: ReasonIssuer, then: func(_ *fixture, s *signIn) { s.response.Set("iss", "https://evil.example") }},
		"spent": {reason: ReasonSpent, then: func(f *fixture, s *signIn) {
			if _, err := s.complete(f.t.Context()); err != nil {
				f.t.Fatal(err)
			}
		}},
		"no cookie":      {reason: ReasonBrowser, then: func(_ *fixture, s *signIn) { s.cookie = "" }},
		"foreign state":  {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Set("state", "x") }},
		"cookie expired": {reason: ReasonExpired, then: func(*fixture, *signIn) { time.Sleep(flowLife + time.Second) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				if test.before != nil {
					test.before(f)
				}
				if test.person == "" {
					test.person = f.account.User
				}
				flow := f.flow()
				began := time.Now()
				s := f.signIn(flow, f.client, test.person)
				if test.then != nil {
					test.then(f, s)
				}
				time.Sleep(time.Minute)
				e := s.failed(t)
				if e.Reason != test.reason {
					t.Fatalf("reason %q, want %q", e.Reason, test.reason)
				}
				sealed, expires, ok := flow.Renew(e, "select_account")
				if ok != test.ok {
					t.Fatalf("Renew: %v", ok)
				}
				if !ok {
					if sealed != "" || !expires.IsZero() {
						t.Errorf("Renew = %q, %v", sealed, expires)
					}
					return
				}
				got, err := flow.OpenTicket(sealed)
				if err != nil {
					t.Fatal(err)
				}
				if want := (Ticket{f.account, "select_account", "ops", began.UTC(), time.Now().UTC().Add(flowLife)}); got != want || expires != want.Expires {
					t.Errorf("renewed: %+v, want %+v", got, want)
				}
			})
		})
	}
}

// However often it is renewed, an invitation ends half an hour after it was
// made.
func TestRenewEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow := f.flow()
		end := time.Now().Add(invitationLife)
		sealed, _, err := flow.NewTicket(f.client, f.account, "ops", "login")
		if err != nil {
			t.Fatal(err)
		}
		renewals := 0
		for ; ; renewals++ {
			ticket, err := flow.OpenTicket(sealed)
			if err != nil {
				t.Fatal(err)
			}
			if ticket.By != "ops" || ticket.Prompt != "login" {
				t.Errorf("ticket %+v", ticket)
			}
			begun, err := flow.Begin(t.Context(), f.client, ticket)
			if err != nil {
				t.Fatal(err)
			}
			response, err := f.server.Consent(begun.URL, "boss@example.com")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(7 * time.Minute)
			e := (&signIn{flow: flow, client: f.client, begun: begun, response: response, cookie: begun.CookieValue}).failed(t)
			var expires time.Time
			var ok bool
			if sealed, expires, ok = flow.Renew(e, ""); !ok {
				break
			}
			if expires.After(end) {
				t.Errorf("good for %v longer than it may be", expires.Sub(end))
			}
		}
		if renewals != 4 || time.Now().Before(end) {
			t.Errorf("renewed %d times, the last %v before the end", renewals, time.Until(end))
		}
	})
}

func TestRenewNeedsAProof(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	flow := f.flow()
	p := f.provider()
	p.Name = "other"
	_, err := flow.Begin(t.Context(), NewClient(p, f.server), Ticket{Account: f.account, Issued: time.Now()})
	var begin *FlowError
	if !errors.As(err, &begin) {
		t.Fatal(err)
	}
	// A cookie of an earlier version says nothing of when it was asked for.
	value, err := flow.seal(pendingName, pending{Ticket: Ticket{Account: f.account, Expires: time.Now().Add(time.Minute)}, Registration: f.client.registration, State: "s"})
	if err != nil {
		t.Fatal(err)
	}
	old := (&signIn{flow: flow, client: f.client, response: url.Values{"state": {"s"}, "iss": {f.server.Issuer}, "error": {"access_denied"}}, cookie: value}).failed(t)
	// A pasted address comes from whoever has the session.
	p0, err := flow.BeginPaste(t.Context(), f.client, f.account, "ops", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = flow.CompletePaste(t.Context(), f.client, f.account, strings.Replace(consentAt(f, p0.URL, f.account.User), "code=", "error=access_denied&x=", 1), p0.Session)
	var pasted *FlowError
	if !errors.As(err, &pasted) || pasted.Reason != ReasonDenied {
		t.Fatal(err)
	}
	for name, e := range map[string]*FlowError{
		"none":          nil,
		"pasted":        pasted,
		"made up":       {Reason: ReasonDenied, Account: f.account},
		"from Begin":    begin,
		"without times": old,
	} {
		if _, _, ok := flow.Renew(e, ""); ok {
			t.Errorf("%s: renewed", name)
		}
	}
	s := f.signIn(flow, f.client, "boss@example.com")
	e := s.failed(t)
	flow.Keys = func() (*KeyRing, error) { return nil, errors.New("no key") }
	if _, _, ok := flow.Renew(e, ""); ok {
		t.Error("renewed without a key")
	}
}
