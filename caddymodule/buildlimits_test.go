package caddymodule

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"

	"github.com/caddyserver/caddy/v2"
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
	_, changed := attach(31)
	a := before.tenants["a"].mail
	if a.Limits != before.tenants["A"].mail.Limits || a.Breaker != before.tenants["A"].mail.Breaker {
		t.Error("one mailbox has two limits")
	}
	if a.Limits == before.tenants["b"].mail.Limits {
		t.Error("two mailboxes have one limit")
	}
	if a.Limits != after.tenants["a"].mail.Limits || a.Limits == changed.tenants["a"].mail.Limits {
		t.Error("the limit is not that of the settings")
	}
	if a.Limits.Rate != 30 || a.Limits.Per != time.Minute || a.Limits.Connections != 2 || !a.AllRecipients || a.Deliver.To.Mailbox() != "c@example.com" {
		t.Errorf("%+v", a.Deliver)
	}
	first.holdings.release()
	second.holdings.release()
	if _, again := attach(30); a.Limits == again.tenants["a"].mail.Limits {
		t.Error("mailboxes are kept that no configuration has")
	}
}

// TestLimitAnswers: the answer tells which limit was met, and when to come back.
func TestLimitAnswers(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"mailbox_rate", "mailbox_paused", "mailbox_recipients", ""} {
		p := mailProblem(&mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindThrottled, Code: code, RetryAfter: time.Hour})
		want := code
		if want == "" {
			want = "mailbox_busy"
		}
		if p.status != 503 || p.code != want || p.retryAfter != time.Hour || strings.Contains(p.message, "connections") != (code == "") {
			t.Errorf("%s: %+v", code, p)
		}
	}
}
