package caddymodule

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// TestLimits: a tenant's own words win over the preset's, which hold for what
// they were made for.
func TestLimits(t *testing.T) {
	t.Parallel()
	own := oauthTenant("m", "own@contoso.com")
	own.Rate, own.RecipientsPerDay = Rate{5, caddy.Duration(time.Second)}, 100
	own.MaxAge, own.MaxIdle, own.MaxMessages = caddy.Duration(time.Hour), caddy.Duration(time.Second), 7
	volume := oauthTenant("m", "hve@contoso.com")
	volume.Server = "smtp-hve.office365.com"
	s := mustBuild(t, settings{
		redirectBase: "https://a.example/cb",
		providers: map[string]providerSettings{
			"m": {Provider: Provider{Preset: "microsoft", Directory: "contoso.com", ClientID: "c"}},
			"g": {Provider: Provider{Preset: "google", ClientID: "c"}},
		},
		tenants: map[string]tenantSettings{
			"preset": oauthTenant("m", "a@contoso.com"), "own": own, "volume": volume, "google": oauthTenant("g", "a@example.com"),
		},
	})
	for name, want := range map[string]limits{
		"preset": {connections: 3, rate: 30, window: time.Minute, recipientsPerDay: 10_000},
		"own": {
			connections: 3, rate: 5, window: time.Second, recipientsPerDay: 100,
			maxAge: time.Hour, maxIdle: time.Second, maxMessages: 7,
		},
		"volume": {connections: 3},
		"google": {connections: 2},
	} {
		if diff := cmp.Diff(want, s.tenants[name].limits, cmp.AllowUnexported(limits{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestLimitsFromJSON: what no Caddyfile can say is refused, too.
func TestLimitsFromJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		change func(*Tenant)
		want   string
	}{
		{func(t *Tenant) { t.Connections = -1 }, "tenant a, connections: must be above zero"},
		{func(t *Tenant) { t.Rate = Rate{-1, 1} }, "tenant a, rate: must be above zero"},
		{func(t *Tenant) { t.Rate.Messages = 30 }, "tenant a, rate: needs messages and a window"},
		{func(t *Tenant) { t.Rate.Window = 30 }, "tenant a, rate: needs messages and a window"},
		{func(t *Tenant) { t.RecipientsPerDay = -1 }, "tenant a, recipients_per_day: must be above zero"},
		{func(t *Tenant) { t.MaxIdle = -1 }, "tenant a, max_idle: must be above zero"},
		{func(t *Tenant) { t.Recipients = "most" }, `tenant a, recipients: "most" must be one of some, all`},
		{func(t *Tenant) { t.Deliver = Deliver{None: true, To: "b@example.com"} }, "tenant a, deliver: takes none or an address, not both"},
	} {
		a := Tenant{Server: "smtp.example", Auth: Auth{Method: "none"}, From: "a@example.com"}
		tt.change(&a)
		_, err := build(settings{tenants: map[string]tenantSettings{"a": {Tenant: a}}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}

// TestMailboxOutlivesConfiguration: what a mailbox has sent counts for all its
// tenants, and in the next configuration.
func TestMailboxOutlivesConfiguration(t *testing.T) {
	attach := func(rate int) (*App, *snapshot) {
		a := &App{logger: slog.New(slog.DiscardHandler)}
		tenant := func(from string) tenantSettings {
			return tenantSettings{Tenant: Tenant{
				Server: "limits.example", Auth: Auth{Method: "password", Username: "u", Password: from}, From: from,
				Rate: Rate{rate, caddy.Duration(time.Minute)}, Recipients: "all", Deliver: Deliver{To: "c@example.com"},
			}}
		}
		other := tenant("a@example.com")
		other.Server = "other.example"
		s := mustBuild(t, settings{tenants: map[string]tenantSettings{
			"a": tenant("a@example.com"), "A": tenant("a@example.com"), "b": other,
		}})
		t.Cleanup(a.holdings.release)
		if err := a.attach(s); err != nil {
			t.Fatal(err)
		}
		return a, s
	}
	first, before := attach(30)
	second, after := attach(30)
	third, changed := attach(31)
	a := before.tenants["a"].mail
	if a.Limits != before.tenants["A"].mail.Limits || a.Breaker != before.tenants["A"].mail.Breaker {
		t.Error("one mailbox has two limits")
	}
	if a.Limits == before.tenants["b"].mail.Limits {
		t.Error("two mailboxes have one limit")
	}
	for _, s := range []*snapshot{after, changed} {
		if a.Limits != s.tenants["a"].mail.Limits || a.Breaker != s.tenants["a"].mail.Breaker {
			t.Error("the next configuration has forgotten the mailbox")
		}
	}
	if a.Limits.Rate != 30 || a.Limits.Per != time.Minute || a.Limits.Connections != 2 || !a.AllRecipients || a.Deliver.To.Mailbox() != "c@example.com" {
		t.Errorf("%+v", a.Deliver)
	}
	first.holdings.release()
	second.holdings.release()
	third.holdings.release()
	if _, again := attach(30); a.Limits == again.tenants["a"].mail.Limits {
		t.Error("mailboxes are kept that no configuration has")
	}
}

// TestMailboxOutlivesChanges: no change of a tenant's settings forgets what its
// mailbox has sent; one of its credentials forgets that it could not send.
func TestMailboxOutlivesChanges(t *testing.T) {
	attach := func(change func(*Tenant)) *mailer.Tenant {
		t.Helper()
		a := &App{logger: slog.New(slog.DiscardHandler)}
		tenant := Tenant{
			Server: "changes.example", Auth: Auth{Method: "password", Username: "u@changes.example", Password: "p"}, From: "a@example.com",
			Rate: Rate{30, caddy.Duration(time.Minute)}, RecipientsPerDay: 1000,
		}
		change(&tenant)
		s := mustBuild(t, settings{tenants: map[string]tenantSettings{"a": {Tenant: tenant}}})
		t.Cleanup(a.holdings.release)
		if err := a.attach(s); err != nil {
			t.Fatal(err)
		}
		return s.tenants["a"].mail
	}
	before := attach(func(*Tenant) {})
	word := attach(func(t *Tenant) { t.Auth.Username = "apikey" })
	for _, tt := range []struct {
		name                     string
		change                   func(*Tenant)
		sameLimiter, sameBreaker bool
	}{
		{"nothing", func(*Tenant) {}, true, true},
		{"max_idle", func(t *Tenant) { t.MaxIdle = caddy.Duration(30 * time.Second) }, true, true},
		{"max_age", func(t *Tenant) { t.MaxAge = caddy.Duration(5 * time.Minute) }, true, true},
		{"max_messages", func(t *Tenant) { t.MaxMessages = 50 }, true, true},
		{"connections", func(t *Tenant) { t.Connections = 3 }, true, true},
		{"rate", func(t *Tenant) { t.Rate.Messages = 3 }, true, true},
		{"recipients_per_day", func(t *Tenant) { t.RecipientsPerDay = 3 }, true, true},
		{"case of the user", func(t *Tenant) { t.Auth.Username = "U@Changes.example" }, true, false},
		{"password", func(t *Tenant) { t.Auth.Password = "better" }, true, false},
		{"user", func(t *Tenant) { t.Auth.Username = "v@changes.example" }, false, false},
		{"server", func(t *Tenant) { t.Server = "other.changes.example" }, false, false},
	} {
		after := attach(tt.change)
		if got := after.Limits == before.Limits; got != tt.sameLimiter {
			t.Errorf("%s changed: the same limiter: %v", tt.name, got)
		}
		if got := after.Breaker == before.Breaker; got != tt.sameBreaker {
			t.Errorf("%s changed: the same breaker: %v", tt.name, got)
		}
	}
	if other := attach(func(t *Tenant) { t.Auth.Username, t.Auth.Password = "apikey", "another" }); other.Limits == word.Limits {
		t.Error("two customers of a service have one limit")
	}
}

// TestLimitsInForce: those of the newest configuration that has started.
func TestLimitsInForce(t *testing.T) {
	key := mailboxKey{host: t.Name()}
	var l *mailer.Limiter
	hold := func(rate int) *holdings {
		t.Helper()
		h := new(holdings)
		t.Cleanup(h.release)
		for range 2 { // tenants
			got, err := h.limiter(key.hash(), limits{rate: rate, window: time.Hour, recipientsPerDay: 10 * rate, connections: rate})
			if err != nil || l != nil && got != l {
				t.Fatalf("another limiter, %v", err)
			}
			l = got
		}
		return h
	}
	inForce := func(rate int) {
		t.Helper()
		if l.Rate != rate || l.Per != time.Hour || l.RecipientsPerDay != 10*rate || l.Connections != rate {
			t.Errorf("%d in %v, %d a day, %d connections; want %d", l.Rate, l.Per, l.RecipientsPerDay, l.Connections, rate)
		}
	}
	first := hold(1)
	inForce(1)
	first.begin()
	second := hold(2)
	inForce(1) // it may fail yet
	second.release()
	inForce(1)
	third := hold(3)
	third.begin()
	inForce(3)
	third.release() // another part of it could not start
	inForce(1)
	fourth := hold(4)
	fourth.begin()
	first.release() // a reload
	inForce(4)
	fourth.release()
	fourth.release()
	if n, there := mailboxes.References(key); there {
		t.Errorf("%d references are left", n)
	}
}

// TestLimitAnswers: the answer tells which limit was met, and when to come back.
func TestLimitAnswers(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"mailbox_rate": "429 rate_limit_exceeded mailbox_rate", "mailbox_paused": "429 rate_limit_exceeded mailbox_paused",
		"mailbox_recipients": "429 daily_quota_exceeded mailbox_recipients", "": "503 application_error mailbox_busy",
	} {
		p := mailProblem(&mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindThrottled, Code: code, RetryAfter: time.Hour})
		if got := fmt.Sprint(p.status, " ", p.name, " ", p.code); got != want || p.retryAfter != time.Hour || strings.Contains(p.message, "connections") != (code == "") {
			t.Errorf("%s: %+v, want %s", code, p, want)
		}
	}
}
