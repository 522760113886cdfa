package tokens

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// deviceClient is a client of a provider that allows device codes.
func (f *fixture) deviceClient() *Client {
	p := f.provider()
	p.DeviceCode = true
	p.DeviceAuthorizationEndpoint = f.server.Issuer + tokenstest.PathDevice
	return NewClient(p, f.server)
}

// polls returns how often the provider was asked for the token of a device code.
func (f *fixture) polls() int { return f.posts() }

func TestDevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		c := f.deviceClient()
		began := time.Now()
		d, err := f.flow().BeginDevice(t.Context(), c, f.account, "ops")
		if err != nil {
			t.Fatal(err)
		}
		if form := f.server.Requests()[0].Form; form.Get("scope") != "smtp.send offline_access openid email" || form.Get("client_id") != f.server.ClientID {
			t.Errorf("asked with %v", form)
		}
		if d.VerificationURI != f.server.Issuer+"/device" || !strings.HasSuffix(d.VerificationURIComplete, d.UserCode) ||
			d.Message != "Enter "+d.UserCode+"." || d.Interval != 5*time.Second || !d.Expires.Equal(began.Add(tokenstest.DeviceLife)) {
			t.Errorf("begun: %+v", d)
		}
		if strings.Contains(d.Session, "device-") || strings.Contains(d.Session, "noreply") {
			t.Errorf("session %q", d.Session)
		}
		session := d.Session
		ask := func(wantPolls int, wantWait time.Duration) *Completed {
			t.Helper()
			// Another instance each time: nothing is kept here.
			flow := &Flow{Store: NewStore(f.storage, f.keys), Keys: f.keys}
			poll, err := flow.PollDevice(t.Context(), c, f.account, session)
			if err != nil {
				t.Fatal(err)
			}
			if n := f.polls(); n != wantPolls || poll.Wait != wantWait || poll.Trouble != nil {
				t.Fatalf("%d polls, wait %v, trouble %v; want %d, %v", n, poll.Wait, poll.Trouble, wantPolls, wantWait)
			}
			session = poll.Session
			return poll.Completed
		}
		ask(0, 5*time.Second) // too early: nobody is asked
		time.Sleep(3 * time.Second)
		ask(0, 2*time.Second)
		time.Sleep(2 * time.Second)
		ask(1, 5*time.Second)
		time.Sleep(5 * time.Second)
		f.server.Next(tokenstest.Fail(403, "slow_down", "")) // Google's status
		ask(2, 10*time.Second)
		time.Sleep(10 * time.Second)
		f.server.Next(tokenstest.Fail(428, "authorization_pending", "")) // Google's status
		ask(3, 10*time.Second)                                           // for good
		time.Sleep(9 * time.Second)
		ask(3, time.Second)
		time.Sleep(time.Second)
		if err := f.server.Allow(d.UserCode, f.account.User); err != nil {
			t.Fatal(err)
		}
		done := ask(4, 0)
		stored := f.stored()
		switch {
		case done == nil || stored == nil:
			t.Fatal("not completed")
		case stored.RefreshToken.Reveal() != done.Token.RefreshToken.Reveal() || stored.AuthorizedBy != "ops" || stored.Identity.Subject != "subject of "+f.account.User:
			t.Errorf("saved %+v", stored)
		}
		f.mustToken(f.source())
	})
}

// What a provider leaves out, or writes in its own way.
func TestDeviceAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		members  map[string]any
		interval time.Duration
		life     time.Duration
		fails    string
	}{
		"no interval":       {members: map[string]any{"interval": nil}, interval: 5 * time.Second},
		"interval zero":     {members: map[string]any{"interval": 0}, interval: 5 * time.Second},
		"interval a string": {members: map[string]any{"interval": "7"}, interval: 7 * time.Second},
		"interval odd":      {members: map[string]any{"interval": []int{1}}, interval: 5 * time.Second},
		"interval huge":     {members: map[string]any{"interval": 1e18}, interval: time.Minute},
		"no end":            {members: map[string]any{"expires_in": nil}, life: 15 * time.Minute},
		"an end far off":    {members: map[string]any{"expires_in": 1e18}, life: time.Hour},
		"Google's URL":      {members: map[string]any{"verification_uri": nil, "verification_url": "https://www.google.com/device"}},
		"loopback":          {members: map[string]any{"verification_uri": "http://127.0.0.1:8080/device"}},
		"no complete URI":   {members: map[string]any{"verification_uri_complete": nil}},
		"bad complete URI":  {members: map[string]any{"verification_uri_complete": "http://login.example.net/"}, fails: "https"},
		"no device code":    {members: map[string]any{"device_code": nil}, fails: "lacks"},
		"no user code":      {members: map[string]any{"user_code": nil}, fails: "lacks"},
		"no URI":            {members: map[string]any{"verification_uri": nil}, fails: "lacks"},
		"user code a list":  {members: map[string]any{"user_code": []string{"x"}}, fails: "shape"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setUp(t)
			f.server.Next(tokenstest.Set(test.members))
			now := time.Now()
			flow := f.flow()
			flow.Now = func() time.Time { return now }
			d, err := flow.BeginDevice(t.Context(), f.deviceClient(), f.account, "")
			if test.fails != "" {
				var fe *FlowError
				if !errors.As(err, &fe) || fe.Reason != ReasonExchange || !strings.Contains(err.Error(), test.fails) || strings.Contains(err.Error(), "device-") {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if test.interval != 0 && d.Interval != test.interval || test.life != 0 && !d.Expires.Equal(now.Add(test.life)) {
				t.Errorf("interval %v, life %v", d.Interval, d.Expires.Sub(now))
			}
			if d.VerificationURI == "" {
				t.Error("no URI")
			}
		})
	}
}

// What a poll that brings no token means.
func TestDevicePollFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reply  tokenstest.Reply
		reason Reason        // the end
		wait   time.Duration // or how long to wait
		text   string
	}{
		"declined":           {reply: tokenstest.Fail(400, "authorization_declined", ""), reason: ReasonDenied},
		"denied at Google":   {reply: tokenstest.Fail(403, "access_denied", ""), reason: ReasonDenied},
		"expired":            {reply: tokenstest.Fail(400, "expired_token", ""), reason: ReasonExpired, text: "start again"},
		"unknown code":       {reply: tokenstest.Fail(400, "bad_verification_code", ""), reason: ReasonExchange, text: "start again"},
		"no public client":   {reply: tokenstest.Fail(401, "invalid_client", "AADSTS7000218"), reason: ReasonExchange},
		"lost answer":        {reply: tokenstest.Lose(), reason: ReasonExchange, text: "tokens are lost with that answer: start again"},
		"code in the answer": {reply: tokenstest.Echo(), reason: ReasonExchange, text: redacted},
		"server in trouble":  {reply: tokenstest.Status(503, ""), wait: 10 * time.Second},
		"word of a broken":   {reply: tokenstest.Fail(500, "access_denied", ""), wait: 10 * time.Second},
		"too many requests":  {reply: tokenstest.Status(429, "", "Retry-After", "45"), wait: 45 * time.Second},
		"Google's limit":     {reply: tokenstest.Fail(403, "rate_limit_exceeded", ""), wait: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				flow, c := f.flow(), f.deviceClient()
				d, err := flow.BeginDevice(t.Context(), c, f.account, "")
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(d.Interval)
				f.server.Next(test.reply)
				poll, err := flow.PollDevice(t.Context(), c, f.account, d.Session)
				if test.reason != "" {
					var fe *FlowError
					if !errors.As(err, &fe) || fe.Reason != test.reason || !strings.Contains(err.Error(), test.text) {
						t.Errorf("error %v", err)
					}
					if err != nil && strings.Contains(err.Error(), "device-") {
						t.Errorf("the device code shows in %v", err)
					}
					return
				}
				if err != nil || poll.Completed != nil || poll.Wait != test.wait || poll.Trouble == nil {
					t.Fatalf("poll %+v, %v", poll, err)
				}
				if err := f.server.Allow(d.UserCode, f.account.User); err != nil {
					t.Fatal(err)
				}
				time.Sleep(poll.Wait)
				if poll, err = flow.PollDevice(t.Context(), c, f.account, poll.Session); err != nil || poll.Completed == nil {
					t.Errorf("afterwards: %+v, %v", poll, err)
				}
			})
		})
	}
}

// The endpoint is found in the metadata, also where the others were given.
func TestDeviceDiscovery(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*fixture, *Provider)
		reason Reason
	}{
		"all discovered": {change: func(_ *fixture, p *Provider) { p.AuthorizationEndpoint, p.TokenEndpoint = "", "" }},
		"only this":      {change: func(*fixture, *Provider) {}},
		"none there": {reason: ReasonUnavailable, change: func(f *fixture, _ *Provider) {
			f.server.Metadata = func(m map[string]any) { delete(m, "device_authorization_endpoint") }
		}},
		"no issuer": {reason: ReasonUnavailable, change: func(_ *fixture, p *Provider) { p.Issuer = "" }},
		"without TLS": {reason: ReasonExchange, change: func(f *fixture, _ *Provider) {
			f.server.Metadata = func(m map[string]any) { m["device_authorization_endpoint"] = "http://idp.example.net/device" }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setUp(t)
			p := f.provider()
			p.DeviceCode = true
			test.change(f, &p)
			_, err := f.flow().BeginDevice(t.Context(), NewClient(p, f.server), f.account, "")
			if fe, _ := errors.AsType[*FlowError](err); (fe == nil) != (test.reason == "") || fe != nil && fe.Reason != test.reason {
				t.Errorf("error %v", err)
			}
		})
	}
}

// The caller's going away does not lose the tokens.
func TestDevicePollOutlivesTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow, c := f.flow(), f.deviceClient()
		session := allowedDevice(f, &signIn{flow: flow, client: c}, f.account.User)
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = flow.PollDevice(ctx, c, f.account, session) }()
		synctest.Wait()
		cancel()
		close(gate)
		synctest.Wait()
		if f.stored() == nil {
			t.Error("the token was lost with the caller")
		}
	})
}

// Where no person signs in, no way of signing in is open.
func TestUnattendedProviders(t *testing.T) {
	t.Parallel()
	for name, grant := range map[string]Grant{"client credentials": GrantClientCredentials, "service account": GrantServiceAccount} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				flow, attended := f.flow(), f.deviceClient()
				s := f.signIn(flow, attended, f.account.User)
				paste := beginPaste(f, s)
				address := consentAt(f, paste.URL, f.account.User)
				session := allowedDevice(f, s, f.account.User)
				p := attended.provider
				p.Grant, p.DisplayName = grant, "Example Mail"
				c := NewClient(p, f.server)
				ctx := t.Context()
				_, _, ticket := flow.NewTicket(c, f.account, "", "")
				for way, err := range map[string]error{
					"NewTicket":     ticket,
					"Begin":         second(flow.Begin(ctx, c, Ticket{Account: f.account})),
					"Complete":      second(flow.Complete(ctx, c, s.response, s.cookie)),
					"BeginPaste":    second(flow.BeginPaste(ctx, c, f.account, "", "")),
					"CompletePaste": second(flow.CompletePaste(ctx, c, f.account, address, paste.Session)),
					"BeginDevice":   second(flow.BeginDevice(ctx, c, f.account, "")),
					"PollDevice":    second(flow.PollDevice(ctx, c, f.account, session)),
					"Import":        second(flow.Import(ctx, c, f.account, NewSecret("x"), "")),
				} {
					var fe *FlowError
					if !errors.As(err, &fe) || fe.Reason != ReasonUnavailable ||
						!strings.Contains(err.Error(), "nobody signs in to Example Mail; it works with the client's own credentials") {
						t.Errorf("%s: %v", way, err)
					}
				}
				if n := f.posts(); n != 0 {
					t.Errorf("%d posts", n)
				}
			})
		})
	}
}
