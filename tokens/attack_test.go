package tokens

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// failing is a sign-in that must fail and leave the token there was.
type failing struct {
	reason Reason
	posts  int // to the token endpoint, by what is refused
	person string
	// before changes the server and the provider's settings.
	before func(*fixture, *Provider)
	// then changes the sign-in, to which the person has consented.
	then func(*fixture, *signIn)
	// by is what is tried; nil for completing the sign-in.
	by      func(*fixture, *signIn) error
	verify  error
	verdict bool // whether verify is asked
	// first: then has completed the sign-in, and its token is to stay.
	first bool
}

func (r failing) run(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow := f.flow()
		old, err := f.signIn(flow, f.client, f.account.User).complete(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := f.provider()
		p.DeviceCode = true
		p.DeviceAuthorizationEndpoint = f.server.Issuer + tokenstest.PathDevice
		if r.before != nil {
			r.before(f, &p)
		}
		if r.person == "" {
			r.person = f.account.User
		}
		asked := false
		s := f.signIn(flow, NewClient(p, f.server), r.person)
		if r.then != nil {
			r.then(f, s)
		}
		if r.verdict {
			flow.Verify = func(context.Context, Account, string) error { asked = true; return r.verify }
		}
		if r.first {
			newer := f.stored()
			if !newer.supersedes(old) {
				t.Fatal("the first use did not succeed")
			}
			old = newer
		}
		posted := f.posts()
		if r.by != nil {
			err = r.by(f, s)
		} else {
			_, err = s.complete(t.Context())
		}
		var fe *FlowError
		if !errors.As(err, &fe) {
			t.Fatalf("error %v is no *FlowError", err)
		}
		if fe.Reason != r.reason {
			t.Errorf("%v: reason %q, want %q", err, fe.Reason, r.reason)
		}
		if n := f.posts() - posted; n != r.posts {
			t.Errorf("%d posts, want %d", n, r.posts)
		}
		if asked != r.verdict {
			t.Errorf("the mail server was asked: %v", asked)
		}
		if got := f.stored(); got == nil || got.RefreshToken.Reveal() != old.RefreshToken.Reveal() || got.Generation != old.Generation || got.Revoked {
			t.Error("the old token was not kept")
		}
		if f.storage.Locked() != 0 {
			t.Error("a lock is left")
		}
		for _, secret := range []string{s.response.Get("code"), s.response.Get("state"), f.server.ClientSecret, "refresh-", "access-", "device-"} {
			if len(secret) > 4 && strings.Contains(err.Error(), secret) {
				t.Errorf("%q shows in %v", secret, err)
			}
		}
	})
}

// minAttacks is how many attacks the suite knows at least.
const minAttacks = 40

// TestAttacks tries what is known to be done to sign-ins (RFC 6819; RFC 9700;
// RFC 8628, section 5; RFC 9207). Each must be refused, for the right reason,
// with the code redeemed only where nothing earlier can tell, and with the old
// token untouched.
func TestAttacks(t *testing.T) {
	t.Parallel()
	attacks := map[string]failing{
		// The answer.
		"state missing":    {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Del("state") }},
		"state empty":      {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Set("state", "") }},
		"state foreign":    {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Set("state", "x"+s.response.Get("state")) }},
		"state cut":        {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Set("state", s.response.Get("state")[1:]) }},
		"state twice":      {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Add("state", s.response.Get("state")) }},
		"code twice":       {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Add("code", "x") }},
		"iss twice":        {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Add("iss", "https://evil.example") }},
		"error twice":      {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response["error"] = []string{"", "x"} }},
		"no code":          {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response.Del("code") }},
		"answer elsewhere": {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.response = url.Values{} }}, // response_mode fragment or form_post
		"error with script": {reason: ReasonDenied, then: func(_ *fixture, s *signIn) {
			s.response.Set("error", "<script>alert(1)</script>")
		}},
		"error beside a code": {reason: ReasonDenied, then: func(_ *fixture, s *signIn) { s.response.Set("error", "access_denied") }},
		"code made up":        {reason: ReasonExchange, posts: 1, then: func(_ *fixture, s *signIn) { s.response.Set("code", "x") }},
		"code injected": {reason: ReasonExchange, posts: 1, then: func(f *fixture, s *signIn) {
			s.response.Set("code", other(f, s, "boss@example.com").response.Get("code"))
		}},
		"iss wrong":           {reason: ReasonIssuer, then: func(_ *fixture, s *signIn) { s.response.Set("iss", "https://evil.example") }},
		"iss with a slash":    {reason: ReasonIssuer, then: func(_ *fixture, s *signIn) { s.response.Set("iss", s.response.Get("iss")+"/") }},
		"iss empty":           {reason: ReasonIssuer, then: func(_ *fixture, s *signIn) { s.response.Set("iss", "") }},
		"iss missing":         {reason: ReasonIssuer, before: func(_ *fixture, p *Provider) { p.IssRule = IssRequired }, then: func(_ *fixture, s *signIn) { s.response.Del("iss") }},
		"iss dropped":         {reason: ReasonIssuer, before: func(_ *fixture, p *Provider) { p.TokenEndpoint = "" }, then: func(_ *fixture, s *signIn) { s.response.Del("iss") }},
		"mix-up of providers": {reason: ReasonProvider, then: func(f *fixture, s *signIn) { p := f.provider(); p.Name = "other"; s.client = NewClient(p, f.server) }},
		"mix-up, iss ignored": {reason: ReasonProvider, then: func(f *fixture, s *signIn) {
			p := f.provider()
			p.Name, p.IssRule = "other", IssIgnored
			s.client = NewClient(p, f.server)
		}},
		"settings changed meanwhile":     {reason: ReasonProvider, then: func(_ *fixture, s *signIn) { s.client = reregistered(s.client) }},
		"replay":                         {reason: ReasonSpent, first: true, then: win},
		"replay elsewhere":               {reason: ReasonSpent, first: true, then: func(f *fixture, s *signIn) { win(f, s); anotherInstance(f, s) }},
		"replay in parallel":             {reason: ReasonSpent, first: true, then: winOneOf(10)},
		"replay in parallel, marks lost": {reason: ReasonSpent, first: true, then: func(f *fixture, s *signIn) { forgetStates(f); winOneOf(10)(f, s) }},
		"replay, marks lost":             {reason: ReasonExchange, posts: 1, first: true, then: func(f *fixture, s *signIn) { forgetStates(f); win(f, s); anotherInstance(f, s) }},
		"replay of an error":             {reason: ReasonSpent, then: func(f *fixture, s *signIn) { deny(f, s); lose(f, s) }},
		"state of a sign-in before": {reason: ReasonState, first: true, then: func(f *fixture, s *signIn) {
			win(f, s)
			s.cookie = other(f, s, f.account.User).cookie
		}},

		// The browser.
		"cookie missing":        {reason: ReasonBrowser, then: func(_ *fixture, s *signIn) { s.cookie = "" }},
		"cookie rubbish":        {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.cookie = "rubbish" }},
		"cookie not base64":     {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.cookie = "ä" }},
		"cookie cut":            {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.cookie = s.cookie[:len(s.cookie)-8] }},
		"cookie changed":        {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.cookie = flip(s.cookie, -20) }},
		"cookie's salt changed": {reason: ReasonState, then: func(_ *fixture, s *signIn) { s.cookie = flip(s.cookie, sealHeader-1) }},
		"cookie of another":     {reason: ReasonState, then: func(f *fixture, s *signIn) { s.cookie = other(f, s, "x@example.com").cookie }},
		"cookie of another key": {reason: ReasonState, then: func(f *fixture, s *signIn) { s.flow.Keys = func() (*KeyRing, error) { return testRing(f.t, 5), nil } }},
		"cookie from a record": {reason: ReasonState, then: func(f *fixture, s *signIn) {
			s.cookie = base64.RawURLEncoding.EncodeToString(f.storage.Get(f.account.storageKey()))
		}},
		"cookie years old":       {reason: ReasonExpired, then: func(*fixture, *signIn) { time.Sleep(30 * 24 * time.Hour) }},
		"ticket as a cookie":     {reason: ReasonState, then: func(f *fixture, s *signIn) { s.cookie, _, _ = s.flow.NewTicket(f.client, f.account, "", "") }},
		"paste as a cookie":      {reason: ReasonState, then: func(f *fixture, s *signIn) { s.cookie = beginPaste(f, s).Session }},
		"device as a cookie":     {reason: ReasonState, then: func(f *fixture, s *signIn) { s.cookie = beginDevice(f, s).Session }},
		"handed over at consent": {reason: ReasonBrowser, then: func(f *fixture, s *signIn) { *s = *other(f, s, f.account.User); s.cookie = "" }},
		"fixed by a foreign cookie": {reason: ReasonState, then: func(f *fixture, s *signIn) {
			victim := other(f, s, f.account.User)
			s.response = victim.response // with the attacker's cookie
		}},

		// The link.
		"ticket expired": {reason: ReasonTicket, by: func(f *fixture, s *signIn) error {
			sealed := newTicket(f, s)
			time.Sleep(flowLife + time.Second)
			return second(s.flow.OpenTicket(sealed))
		}},
		"ticket forged": {reason: ReasonTicket, by: func(f *fixture, s *signIn) error {
			return second((&Flow{Keys: foreignKeys(f)}).OpenTicket(newTicket(f, s)))
		}},
		"ticket cut":         {reason: ReasonTicket, by: func(f *fixture, s *signIn) error { return second(s.flow.OpenTicket(newTicket(f, s)[:40])) }},
		"ticket changed":     {reason: ReasonTicket, by: func(f *fixture, s *signIn) error { return second(s.flow.OpenTicket(flip(newTicket(f, s), -20))) }},
		"cookie as a ticket": {reason: ReasonTicket, by: func(_ *fixture, s *signIn) error { return second(s.flow.OpenTicket(s.cookie)) }},
		"paste as a ticket":  {reason: ReasonTicket, by: func(f *fixture, s *signIn) error { return second(s.flow.OpenTicket(beginPaste(f, s).Session)) }},
		"ticket at another provider": {reason: ReasonProvider, by: func(f *fixture, s *signIn) error {
			ticket, err := s.flow.OpenTicket(newTicket(f, s))
			if err != nil {
				f.t.Fatal(err)
			}
			p := f.provider()
			p.Name = "other"
			return second(s.flow.Begin(f.t.Context(), NewClient(p, f.server), ticket))
		}},
		"ticket for another provider": {reason: ReasonProvider, by: func(f *fixture, s *signIn) error {
			_, _, err := s.flow.NewTicket(f.client, Account{Provider: "other", User: f.account.User}, "", "")
			return err
		}},
		"ticket used again by another": {reason: ReasonIdentity, posts: 1, first: true, then: func(f *fixture, s *signIn) {
			win(f, s)
			*s = *other(f, s, "boss@example.com") // a ticket can be opened again in its time
		}},

		// What the token endpoint answers.
		"redirect of the token endpoint": {reason: ReasonExchange, posts: 1, then: func(f *fixture, _ *signIn) {
			f.server.Next(tokenstest.Status(307, "", "Location", f.server.Issuer+tokenstest.PathToken))
		}},
		"secrets sent back":     {reason: ReasonExchange, posts: 1, then: func(f *fixture, _ *signIn) { f.server.Next(tokenstest.Echo()) }},
		"scopes downgraded":     {reason: ReasonScope, posts: 1, before: func(f *fixture, _ *Provider) { f.server.Scope = "openid email" }},
		"no refresh token":      {reason: ReasonRefresh, posts: 1, before: func(f *fixture, _ *Provider) { f.server.WithoutRefresh = true }},
		"nonce of another":      {reason: ReasonExchange, posts: 1, before: claim("nonce", "x")},
		"nonce missing":         {reason: ReasonExchange, posts: 1, before: claim("nonce", nil)},
		"audience of another":   {reason: ReasonExchange, posts: 1, before: claim("aud", "client-2")},
		"audiences of others":   {reason: ReasonExchange, posts: 1, before: claim("aud", []string{"client-2", "client-3"})},
		"audience odd":          {reason: ReasonExchange, posts: 1, before: claim("aud", 7)},
		"issuer of another":     {reason: ReasonExchange, posts: 1, before: claim("iss", "https://evil.example")},
		"ID token expired":      {reason: ReasonExchange, posts: 1, before: claim("exp", 1000)},
		"ID token for ever":     {reason: ReasonExchange, posts: 1, before: claim("exp", nil)},
		"ID token rubbish":      {reason: ReasonExchange, posts: 1, then: func(f *fixture, _ *signIn) { f.server.Next(tokenstest.Set(map[string]any{"id_token": "a.b"})) }},
		"another person":        {reason: ReasonIdentity, posts: 1, person: "boss@example.com"},
		"another with the name": {reason: ReasonIdentity, posts: 1, before: claim("sub", "somebody else")},
		"another, let in":       {reason: ReasonIdentity, posts: 1, before: claim("sub", "somebody else"), verdict: true},
		"token that breaks SMTP": {reason: ReasonExchange, posts: 1, then: func(f *fixture, _ *signIn) {
			f.server.Next(tokenstest.Set(map[string]any{"access_token": "a\x01auth=x"}))
		}},

		// The pasted address.
		"paste of another host":     {reason: ReasonAddress, by: paste("https://mail.example.com/", "https://evil.example/")},
		"paste of a longer host":    {reason: ReasonAddress, by: paste("mail.example.com", "mail.example.com.evil.example")},
		"paste of another port":     {reason: ReasonAddress, by: paste("mail.example.com", "mail.example.com:8443")},
		"paste of another scheme":   {reason: ReasonAddress, by: paste("https:", "http:")},
		"paste of a scheme alone":   {reason: ReasonAddress, by: paste("https://mail.example.com", "http://mail.example.com:443")},
		"paste of another path":     {reason: ReasonAddress, by: paste("/lab?", "/lab/?")},
		"paste of a path around":    {reason: ReasonAddress, by: paste("/lab?", "/x/../lab?")},
		"paste of an escaped path":  {reason: ReasonAddress, by: paste("/lab?", "/l%61b?")},
		"paste of another provider": {reason: ReasonAddress, by: paste("/lab?", "/other?")},
		"paste with a user":         {reason: ReasonAddress, by: paste("https://", "https://evil@")},
		"paste with a fragment":     {reason: ReasonAddress, by: paste("?", "#")},
		"paste with an end":         {reason: ReasonAddress, by: paste("?", "?x=y#&")},
		"paste with a backslash":    {reason: ReasonAddress, by: paste("https://", `https:\\evil.example\`)},
		"paste of no address":       {reason: ReasonAddress, by: paste("https://mail.example.com/oauth/callback/lab", "")},
		"paste of a bad query":      {reason: ReasonAddress, by: paste("?", "?%zz&")},
		"paste of two states":       {reason: ReasonState, by: paste("?", "?state=x&")},
		"paste of a foreign state":  {reason: ReasonState, by: paste("state=", "state=x")},
		"paste of a wrong iss":      {reason: ReasonIssuer, by: paste("iss=", "iss=x")},
		"paste without its session": {reason: ReasonSession, by: pasteWith(func(_ *fixture, _ *signIn, a *pasted) { a.session = "" })},
		"paste with a cookie":       {reason: ReasonSession, by: pasteWith(func(_ *fixture, s *signIn, a *pasted) { a.session = s.cookie })},
		"paste with a ticket":       {reason: ReasonSession, by: pasteWith(func(f *fixture, s *signIn, a *pasted) { a.session = newTicket(f, s) })},
		"paste with a device":       {reason: ReasonSession, by: pasteWith(func(f *fixture, s *signIn, a *pasted) { a.session = beginDevice(f, s).Session })},
		"paste session changed":     {reason: ReasonSession, by: pasteWith(func(_ *fixture, _ *signIn, a *pasted) { a.session = flip(a.session, -20) })},
		"paste, settings changed":   {reason: ReasonProvider, by: pasteWith(func(_ *fixture, s *signIn, _ *pasted) { s.client = reregistered(s.client) })},
		"paste to another account":  {reason: ReasonSession, by: pasteWith(func(_ *fixture, _ *signIn, a *pasted) { a.account.User = "boss@example.com" })},
		"paste of another session":  {reason: ReasonState, by: pasteWith(func(f *fixture, s *signIn, a *pasted) { a.session = beginPaste(f, s).Session })},
		"paste too late":            {reason: ReasonExpired, by: pasteWith(func(*fixture, *signIn, *pasted) { time.Sleep(flowLife + time.Second) })},
		"paste of another person":   {reason: ReasonIdentity, posts: 1, by: pasteWith(func(*fixture, *signIn, *pasted) {}), person: "boss@example.com"},
		"paste of a browser's answer": {reason: ReasonState, by: pasteWith(func(f *fixture, s *signIn, a *pasted) {
			a.address = f.client.provider.RedirectURI + "?" + s.response.Encode()
		})},
		"paste again": {reason: ReasonSpent, first: true, then: func(f *fixture, s *signIn) {
			p := beginPaste(f, s)
			s.begun.URL, s.cookie = consentAt(f, p.URL, f.account.User), p.Session
			if _, err := s.flow.CompletePaste(f.t.Context(), s.client, f.account, s.begun.URL, s.cookie); err != nil {
				f.t.Fatal(err)
			}
		}, by: func(f *fixture, s *signIn) error {
			return second(s.flow.CompletePaste(f.t.Context(), s.client, f.account, s.begun.URL, s.cookie))
		}},

		// The device code.
		"device code that is off": {reason: ReasonUnavailable, before: func(_ *fixture, p *Provider) { p.DeviceCode = false }, by: func(f *fixture, s *signIn) error {
			return second(s.flow.BeginDevice(f.t.Context(), s.client, f.account, ""))
		}},
		"device page without TLS":    {reason: ReasonExchange, by: devicePage("http://login.example.net/device")},
		"device page of a script":    {reason: ReasonExchange, by: devicePage("javascript:alert(1)")},
		"device page with a user":    {reason: ReasonExchange, by: devicePage("https://login.example.net@evil.example/")},
		"device session forged":      {reason: ReasonSession, by: poll(func(_ *fixture, _ *signIn, d *polled) { d.session = flip(d.session, -20) })},
		"device with a paste":        {reason: ReasonSession, by: poll(func(f *fixture, s *signIn, d *polled) { d.session = beginPaste(f, s).Session })},
		"device with a cookie":       {reason: ReasonSession, by: poll(func(_ *fixture, s *signIn, d *polled) { d.session = s.cookie })},
		"device of another account":  {reason: ReasonSession, by: poll(func(_ *fixture, _ *signIn, d *polled) { d.account.User = "boss@example.com" })},
		"device of another provider": {reason: ReasonSession, by: poll(func(_ *fixture, _ *signIn, d *polled) { d.account.Provider = "other" })},
		"device of another client": {reason: ReasonSession, by: poll(func(f *fixture, s *signIn, _ *polled) {
			p := f.provider()
			p.ClientID = "client-2"
			s.client = NewClient(p, f.server)
		})},
		"device at another provider": {reason: ReasonProvider, by: poll(func(_ *fixture, s *signIn, _ *polled) {
			p := s.client.provider // the same registration under another name
			p.Name = "other"
			s.client = NewClient(p, s.client.http.Transport)
		})},
		"device allowed by another":     {reason: ReasonIdentity, posts: 1, person: "boss@example.com", by: poll(nil)},
		"device with fewer scopes":      {reason: ReasonScope, posts: 1, before: func(f *fixture, _ *Provider) { f.server.Scope = "openid" }, by: poll(nil)},
		"device too late":               {reason: ReasonExpired, by: poll(func(*fixture, *signIn, *polled) { time.Sleep(tokenstest.DeviceLife) })},
		"device switched off meanwhile": {reason: ReasonUnavailable, by: poll(func(f *fixture, s *signIn, _ *polled) { s.client = f.client })},
		"device again": {reason: ReasonSpent, first: true, then: func(f *fixture, s *signIn) {
			s.cookie = allowedDevice(f, s, f.account.User)
			if done, err := s.flow.PollDevice(f.t.Context(), s.client, f.account, s.cookie); err != nil || done.Completed == nil {
				f.t.Fatalf("poll: %+v, %v", done, err)
			}
			anotherInstance(f, s)
		}, by: func(f *fixture, s *signIn) error {
			return second(s.flow.PollDevice(f.t.Context(), s.client, f.account, s.cookie))
		}},

		// The refresh token from elsewhere.
		"import of another person's": {reason: ReasonIdentity, posts: 1, by: imported(func(f *fixture, good string) string {
			f.server.Next(tokenstest.Set(map[string]any{"id_token": idToken(f, "boss@example.com")}))
			return good
		})},
		"import of fewer scopes": {reason: ReasonScope, posts: 1, before: func(f *fixture, _ *Provider) { f.server.Scope = "openid" }, by: imported(nil)},
		"import of what was in use": {reason: ReasonSpent, first: true, then: func(f *fixture, s *signIn) {
			s.cookie = f.stored().RefreshToken.Reveal()
			if err := f.source().Refresh(f.t.Context()); err != nil {
				f.t.Fatal(err)
			}
		}, by: func(f *fixture, s *signIn) error {
			return second(s.flow.Import(f.t.Context(), s.client, f.account, NewSecret(s.cookie), "ops"))
		}},
		"import of rubbish":          {reason: ReasonRefresh, by: imported(func(*fixture, string) string { return "a\r\nb" })},
		"import of nothing":          {reason: ReasonRefresh, by: imported(func(*fixture, string) string { return "" })},
		"import of what is in use":   {reason: ReasonSpent, by: imported(func(f *fixture, _ string) string { return f.stored().RefreshToken.Reveal() })},
		"import of what ended":       {reason: ReasonExchange, posts: 1, by: imported(func(f *fixture, r string) string { f.server.End(f.account.User); return r })},
		"import of a client's other": {reason: ReasonExchange, posts: 1, by: imported(func(*fixture, string) string { return "refresh-of-another-client" })},
	}
	if len(attacks) < minAttacks {
		t.Errorf("%d attacks, there must be %d", len(attacks), minAttacks)
	}
	for name, attack := range attacks {
		t.Run(name, attack.run)
	}
	t.Logf("%d attacks", len(attacks))
}

// other begins another sign-in with the same flow and client.
func other(f *fixture, s *signIn, person string) *signIn {
	f.t.Helper()
	return f.signIn(s.flow, s.client, person)
}

// win completes the sign-in as its owner does.
func win(f *fixture, s *signIn) {
	f.t.Helper()
	time.Sleep(time.Second)
	if _, err := s.complete(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// reregistered is a client of the same provider after its settings were changed:
// another server would get the code, and what proves whose it is.
func reregistered(c *Client) *Client {
	p := c.provider
	p.Issuer, p.ClientID = "", "another-client"
	return NewClient(p, c.http.Transport)
}

// lose completes a sign-in that fails.
func lose(f *fixture, s *signIn) {
	f.t.Helper()
	if _, err := s.complete(f.t.Context()); err == nil {
		f.t.Fatal("it succeeded")
	}
}

// winOneOf completes the sign-in many times at once; one is to succeed.
func winOneOf(n int) func(*fixture, *signIn) {
	return func(f *fixture, s *signIn) {
		f.t.Helper()
		posted, errs := f.posts(), make(chan error, n)
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				_, err := s.complete(f.t.Context())
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		won := 0
		for err := range errs {
			var fe *FlowError
			if err == nil {
				won++
			} else if !errors.As(err, &fe) || fe.Reason != ReasonSpent {
				f.t.Error(err)
			}
		}
		if n := f.posts() - posted; won != 1 || n != 1 {
			f.t.Errorf("%d succeeded, the code was redeemed %d times", won, n)
		}
	}
}

// anotherInstance goes on with a process that shares the storage and the keys.
func anotherInstance(f *fixture, s *signIn) {
	s.flow = &Flow{Store: NewStore(f.storage, f.keys), Keys: f.keys}
	s.client = NewClient(s.client.provider, f.server)
}

// forgetStates makes the storage unable to keep marks of used states.
func forgetStates(f *fixture) {
	f.storage.Hook(func(_ context.Context, _ tokenstest.Op, key string) error {
		if strings.HasPrefix(key, prefixStates) {
			return tokenstest.ErrFault
		}
		return nil
	})
}

func foreignKeys(f *fixture) func() (*KeyRing, error) {
	return func() (*KeyRing, error) { return testRing(f.t, 5), nil }
}

func newTicket(f *fixture, s *signIn) string {
	f.t.Helper()
	sealed, _, err := s.flow.NewTicket(f.client, f.account, "ops", "")
	if err != nil {
		f.t.Fatal(err)
	}
	return sealed
}

// flip changes one octet of a sealed text; a negative place counts from the end.
func flip(text string, at int) string {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		panic(err)
	}
	if at < 0 {
		at += len(sealed)
	}
	sealed[at] ^= 1
	return base64.RawURLEncoding.EncodeToString(sealed)
}

func beginPaste(f *fixture, s *signIn) *Paste {
	f.t.Helper()
	p, err := s.flow.BeginPaste(f.t.Context(), s.client, f.account, "ops", "")
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// consentAt has a person consent, and returns the address where the browser
// arrives.
func consentAt(f *fixture, address, person string) string {
	f.t.Helper()
	response, err := f.server.Consent(address, person)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.client.provider.RedirectURI + "?" + response.Encode()
}

// pasted is what is handed in at the end of a paste.
type pasted struct {
	account          Account
	address, session string
}

// pasteWith changes what is handed in. The person is the one who consented to
// the sign-in.
func pasteWith(change func(*fixture, *signIn, *pasted)) func(*fixture, *signIn) error {
	return func(f *fixture, s *signIn) error {
		p := beginPaste(f, s)
		a := &pasted{f.account, consentAt(f, p.URL, s.person), p.Session}
		change(f, s, a)
		return second(s.flow.CompletePaste(f.t.Context(), s.client, a.account, a.address, a.session))
	}
}

// paste changes a part of the address that is handed in.
func paste(part, by string) func(*fixture, *signIn) error {
	return pasteWith(func(f *fixture, _ *signIn, a *pasted) {
		if !strings.Contains(a.address, part) {
			f.t.Fatalf("no %q in the address", part)
		}
		a.address = strings.Replace(a.address, part, by, 1)
	})
}

func beginDevice(f *fixture, s *signIn) *Device {
	f.t.Helper()
	d, err := s.flow.BeginDevice(f.t.Context(), s.client, f.account, "ops")
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

// allowedDevice is the session of a device code that a person has allowed, when
// the provider may be asked.
func allowedDevice(f *fixture, s *signIn, person string) string {
	f.t.Helper()
	d := beginDevice(f, s)
	if err := f.server.Allow(d.UserCode, person); err != nil {
		f.t.Fatal(err)
	}
	time.Sleep(d.Interval)
	return d.Session
}

// polled is what a poll is made with.
type polled struct {
	account Account
	session string
}

// poll changes what a poll is made with, if change is not nil.
func poll(change func(*fixture, *signIn, *polled)) func(*fixture, *signIn) error {
	return func(f *fixture, s *signIn) error {
		d := &polled{f.account, allowedDevice(f, s, s.person)}
		if change != nil {
			change(f, s, d)
		}
		return second(s.flow.PollDevice(f.t.Context(), s.client, d.account, d.session))
	}
}

// devicePage makes the provider send people to another page.
func devicePage(uri string) func(*fixture, *signIn) error {
	return func(f *fixture, s *signIn) error {
		f.server.Next(tokenstest.Set(map[string]any{"verification_uri": uri}))
		return second(s.flow.BeginDevice(f.t.Context(), s.client, f.account, ""))
	}
}

// imported imports a refresh token that change, if it is not nil, makes of a
// good one.
func imported(change func(f *fixture, good string) string) func(*fixture, *signIn) error {
	return func(f *fixture, s *signIn) error {
		_, good := f.server.Issue(f.account.User, "smtp.send")
		if change != nil {
			good = change(f, good)
		}
		return second(s.flow.Import(f.t.Context(), s.client, f.account, NewSecret(good), "ops"))
	}
}

// idToken is an ID token as the server makes them, for answers that have none.
func idToken(f *fixture, person string) string {
	part := func(v map[string]any) string {
		b, err := json.Marshal(v)
		if err != nil {
			f.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]any{"alg": "none"}) + "." + part(map[string]any{
		"iss": f.server.Issuer, "aud": f.server.ClientID, "sub": "subject of " + person, "email": person,
		"exp": time.Now().Add(time.Hour).Unix(),
	}) + ".c2ln"
}
