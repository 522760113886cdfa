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
		"interval long":     {members: map[string]any{"interval": 120}, interval: 2 * time.Minute},
		"interval huge":     {members: map[string]any{"interval": 1e18}, interval: time.Hour},
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
		"lost answer":        {reply: tokenstest.Lose(), wait: 10 * time.Second},
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

// Tokens that were lost with an answer are spoken of only where they may have
// been.
func TestDeviceTokensLost(t *testing.T) {
	t.Parallel()
	const lost = "tokens been lost"
	for name, between := range map[string]tokenstest.Reply{"at once": nil, "after a wait": tokenstest.Fail(400, "slow_down", ""), "not yet": tokenstest.Fail(400, "authorization_pending", "")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				c := f.deviceClient()
				session := allowedDevice(f, &signIn{flow: f.flow(), client: c}, f.account.User)
				ask := func() error {
					flow := &Flow{Store: NewStore(f.storage, f.keys), Keys: f.keys}
					poll, err := flow.PollDevice(t.Context(), c, f.account, session)
					if err == nil {
						session = poll.Session
						time.Sleep(poll.Wait)
					}
					return err
				}
				f.server.Next(tokenstest.Lose())
				if err := ask(); err != nil {
					t.Fatal(err)
				}
				if between != nil {
					f.server.Next(between)
					if err := ask(); err != nil {
						t.Fatal(err)
					}
				}
				var fe *FlowError
				if err := ask(); !errors.As(err, &fe) || fe.Reason != ReasonExchange || strings.Contains(err.Error(), lost) == (name == "not yet") {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// A device code that was used never reaches the provider again, whichever
// session comes, as long as it lives.
func TestDeviceCodeOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		c := f.deviceClient()
		f.server.Next(tokenstest.Set(map[string]any{"expires_in": 3600}))
		first := allowedDevice(f, &signIn{flow: f.flow(), client: c}, f.account.User)
		flow := f.flow()
		if poll, err := flow.PollDevice(t.Context(), c, f.account, first); err != nil || poll.Completed == nil {
			t.Fatalf("%+v, %v", poll, err)
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		for _, wait := range []time.Duration{0, 21 * time.Minute, 38 * time.Minute} {
			time.Sleep(wait)
			if err := f.store.SweepStates(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			for name, ctx := range map[string]context.Context{"caller": t.Context(), "caller who leaves": canceled} {
				elsewhere := &Flow{Store: NewStore(f.storage, f.keys), Keys: f.keys}
				for place, flow := range map[string]*Flow{"here": flow, "elsewhere": elsewhere} {
					var fe *FlowError
					if _, err := flow.PollDevice(ctx, c, f.account, first); !errors.As(err, &fe) || fe.Reason != ReasonSpent {
						t.Errorf("%s, %s, after %v: %v", name, place, wait, err)
					}
				}
			}
		}
		if n := f.polls(); n != 1 {
			t.Errorf("%d polls", n)
		}
	})
}

func TestDevicePollsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow, c := f.flow(), f.deviceClient()
		session := allowedDevice(f, &signIn{flow: flow, client: c}, f.account.User)
		gate := make(chan struct{})
		f.server.Next(tokenstest.Wait(gate))
		done := make(chan *DevicePoll, 1)
		go func() {
			poll, _ := flow.PollDevice(t.Context(), c, f.account, session)
			done <- poll
		}()
		synctest.Wait()
		for range 3 {
			poll, err := flow.PollDevice(t.Context(), c, f.account, session)
			if err != nil || poll.Completed != nil || poll.Wait != 5*time.Second || poll.Session == "" {
				t.Errorf("beside it: %+v, %v", poll, err)
			}
		}
		close(gate)
		if poll := <-done; poll == nil || poll.Completed == nil || f.polls() != 1 {
			t.Errorf("%+v; %d polls", poll, f.polls())
		}
	})
}

// An old session asks no earlier, and no oftener, than the newest.
func TestDeviceOldSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow, c := f.flow(), f.deviceClient()
		d, err := flow.BeginDevice(t.Context(), c, f.account, "")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(d.Interval)
		for range 2 {
			f.server.Next(tokenstest.Fail(400, "slow_down", ""))
			for n := range 5 {
				polls := f.polls()
				poll, err := flow.PollDevice(t.Context(), c, f.account, d.Session)
				if err != nil || (f.polls() > polls) != (n == 0) || poll.Session == d.Session || poll.Wait <= d.Interval {
					t.Fatalf("call %d: %+v, %v, %d polls", n, poll, err, f.polls()-polls)
				}
			}
			d.Interval += deviceInterval
			time.Sleep(d.Interval)
		}
		if err := f.server.Allow(d.UserCode, f.account.User); err != nil {
			t.Fatal(err)
		}
		if poll, err := flow.PollDevice(t.Context(), c, f.account, d.Session); err != nil || poll.Completed == nil {
			t.Errorf("%+v, %v", poll, err)
		}
		// Codes that have expired are forgotten.
		time.Sleep(deviceLifeMax)
		if d, err = flow.BeginDevice(t.Context(), c, f.account, ""); err != nil {
			t.Fatal(err)
		}
		_, _ = flow.PollDevice(t.Context(), c, f.account, d.Session)
		if n := len(flow.devices.codes); n != 1 {
			t.Errorf("%d codes are remembered", n)
		}
	})
}

// Trouble lengthens the interval and never shortens it.
func TestDeviceIntervalGrows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		flow, c := f.flow(), f.deviceClient()
		f.server.Next(tokenstest.Set(map[string]any{"interval": 60}))
		d, err := flow.BeginDevice(t.Context(), c, f.account, "")
		if err != nil {
			t.Fatal(err)
		}
		session, wait := d.Session, d.Interval
		for _, reply := range []tokenstest.Reply{tokenstest.Fail(400, "slow_down", ""), tokenstest.Status(503, ""), tokenstest.Lose()} {
			time.Sleep(wait)
			f.server.Next(reply)
			poll, err := flow.PollDevice(t.Context(), c, f.account, session)
			if err != nil || poll.Wait != 65*time.Second {
				t.Fatalf("%+v, %v", poll, err)
			}
			session, wait = poll.Session, poll.Wait
		}
	})
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
