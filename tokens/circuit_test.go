package tokens

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func TestRefusesClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err   Error
		grant Grant
		want  bool
	}{
		{Error{Kind: KindConfig, Status: 401, Code: "invalid_client"}, GrantAuthorizationCode, true},
		{Error{Kind: KindConfig, Status: 400, Code: "unauthorized_client"}, GrantAuthorizationCode, true},
		{Error{Kind: KindConfig, Status: 400, Code: "invalid_scope"}, GrantClientCredentials, true},
		{Error{Kind: KindConfig, Status: 400, Code: "unsupported_grant_type"}, GrantAuthorizationCode, true},
		{Error{Kind: KindConfig, Status: 404}, GrantAuthorizationCode, true},
		{Error{Kind: KindConfig, Status: 400, Code: "unauthorized_client"}, GrantServiceAccount, false},
		{Error{Kind: KindConfig, Status: 400, Code: "invalid_grant"}, GrantServiceAccount, false},
		{Error{Kind: KindConfig, Status: 401, Code: "invalid_client"}, GrantServiceAccount, true},
		{Error{Kind: KindConfig, Op: "discovery", Status: 404}, GrantAuthorizationCode, false},
		{Error{Kind: KindConfig}, GrantAuthorizationCode, false}, // a secret that can't be read
		{Error{Kind: KindTransient, Status: 503}, GrantAuthorizationCode, false},
		{Error{Kind: KindNeedsPerson, Status: 400, Code: "invalid_grant"}, GrantAuthorizationCode, false},
	} {
		if got := refusesClient(&test.err, test.grant); got != test.want {
			t.Errorf("%+v with grant %d: %v", test.err, test.grant, got)
		}
	}
}

// A wrong secret costs one request in five minutes, not one for each account,
// and no account a mark.
func TestCircuit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		p := f.provider()
		p.Credentials = NewClientSecret("mistyped")
		wrong := NewClient(p, f.server)
		var sources, right []*Source
		for i := range 50 {
			f.account.User = fmt.Sprintf("user-%d@example.com", i)
			f.expired()
			cell := &Cell{}
			sources = append(sources, f.sourceOf(cell, wrong))
			right = append(right, f.sourceOf(cell, f.client))
		}
		stop := f.run(sources...)
		time.Sleep(time.Hour)
		for _, s := range sources {
			if e := f.mustFail(s, KindConfig); e.Code != "invalid_client" || e.Account != s.account {
				t.Errorf("%v of %v", e, e.Account)
			}
		}
		if n := f.posts(); n < 11 || n > 13 {
			t.Errorf("%d posts in an hour, want one in five minutes", n)
		}
		marked := 0
		for _, s := range sources {
			f.account = s.account
			if f.stored().Failure != nil {
				marked++
			}
		}
		if marked > f.posts() {
			t.Errorf("%d records are marked", marked)
		}
		// An operator is not held back.
		before := f.posts()
		if err := sources[7].Refresh(t.Context()); errors.Is(err, errOpen) || f.posts() != before+1 {
			t.Errorf("Refresh: %v, %d posts", err, f.posts()-before)
		}
		stop()
		// A new configuration is another client.
		for _, s := range right {
			f.mustToken(s)
		}
	})
}

// When the provider takes the client again, all accounts follow at once.
func TestCircuitCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		var sources []*Source
		for i := range 20 {
			f.account.User = fmt.Sprintf("user-%d@example.com", i)
			f.expired()
			sources = append(sources, f.source())
		}
		f.server.Next(tokenstest.Fail(401, "invalid_client", "the secret has expired"))
		stop := f.run(sources...)
		defer stop()
		time.Sleep(probeEvery - 10*time.Second)
		if n := f.posts(); n != 1 {
			t.Errorf("%d posts, want 1", n)
		}
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if n := f.posts(); n != 21 {
			t.Errorf("%d posts, want one more for each account", n)
		}
		if n := f.count("failed configuration"); n != 1 {
			t.Errorf("%d failures were told, want 1", n)
		}
		for _, s := range sources {
			f.mustToken(s)
		}
		if strings.Contains(f.log.String(), "panic") {
			t.Error(f.log.String())
		}
	})
}

// An account whose refresh token is another client's must not keep all others
// away for ever.
func TestCircuitOfOneAccount(t *testing.T) {
	t.Parallel()
	var c circuit
	now := time.Now()
	odd, even := Account{"lab", "odd"}, Account{"lab", "even"}
	refusal := &Error{Kind: KindConfig, Status: 400, Code: "unauthorized_client"}
	c.learn(odd, refusal, GrantAuthorizationCode, now)
	if c.refusal(now) == nil {
		t.Fatal("not open")
	}
	now = now.Add(probeEvery)
	if c.enter(now, false) != nil || c.enter(now, false) == nil {
		t.Error("not one probe")
	}
	c.learn(even, nil, GrantAuthorizationCode, now)
	if c.refusal(now) != nil {
		t.Error("a success did not close it")
	}
	c.learn(odd, refusal, GrantAuthorizationCode, now)
	if c.refusal(now) != nil {
		t.Error("it opened again for an account that is refused alone")
	}
	c.learn(even, refusal, GrantAuthorizationCode, now)
	if c.refusal(now) == nil {
		t.Error("it does not open any more")
	}
	if c.refusal(now.Add(-time.Hour)) != nil {
		t.Error("a clock that was set back puts the probe off")
	}
}
