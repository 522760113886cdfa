package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// TestTenantsSending: the administration tells which tenants do not send, until
// when, and why.
func TestTenantsSending(t *testing.T) {
	t.Parallel()
	tenant := func(user, failover string) tenantSettings {
		return tenantSettings{Tenant: Tenant{
			Server: "sending.example", Auth: Auth{Method: "password", Username: user, Password: "geheim"}, From: "a@example.com",
			RecipientsPerDay: 1, Failover: failover,
		}}
	}
	staging := tenant("down", "ready")
	staging.Deliver = Deliver{None: true}
	s := mustBuild(t, settings{tenants: map[string]tenantSettings{
		"ready": tenant("ready", ""), "down": tenant("down", "ready"), "alone": tenant("down", ""), "staging": staging,
		"paused": tenant("paused", ""), "used": tenant("used", ""),
	}})
	a := &App{logger: slog.New(slog.DiscardHandler)}
	t.Cleanup(a.holdings.release)
	if err := a.attach(s); err != nil {
		t.Fatal(err)
	}
	a.registry.current.Store(s)
	for _, down := range s.tenants {
		down.mail.Server.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
	}
	from, err := mailer.ParseAddress("a@example.com")
	if err != nil {
		t.Fatal(err)
	}
	content, err := (&mailer.Message{From: from, To: []mailer.Address{from}, Subject: "s", Text: "t", Date: time.Now()}).Compose()
	if err != nil {
		t.Fatal(err)
	}
	m := mailer.Mailer{Lookup: a.registry.lookup}
	if _, err := m.Send(t.Context(), mailer.Submission{
		ID: "1", MessageID: "<1@example.com>", Tenant: "down", From: from,
		Envelope: mailer.Envelope{From: from, To: []mailer.Address{from}}, Content: content,
	}); err == nil {
		t.Fatal("sent")
	}
	done := func(name string, err error) {
		r, e := s.tenants[name].mail.Limits.Reserve(t.Context(), 1)
		if e != nil {
			t.Fatal(e)
		}
		r.Done(mailer.Receipt{Status: mailer.StatusSent}, err)
	}
	done("paused", &mailer.Error{Kind: mailer.KindThrottled, Reply: mailer.Reply{Code: 421}, RetryAfter: time.Hour})
	done("used", nil)
	views, _ := admin{a}.tenants(t.Context(), listing{})
	for _, v := range views {
		want, ok := map[string]struct {
			sending, cause string
			until          time.Duration
		}{
			"down":   {"failed_over", "no route", 10 * time.Second},
			"paused": {"paused", "asked for less mail", time.Hour},
			"used":   {"used_up", "0 are left", 24*time.Hour + 30*time.Second},
		}[v.Name]
		switch {
		case !ok:
			if v.Sending != "ready" || v.Until != nil || v.Cause != "" {
				t.Errorf("%s: %+v", v.Name, v.sendingView)
			}
		case v.Sending != want.sending || v.Until == nil || !strings.Contains(v.Cause, want.cause) || strings.Contains(v.Cause, "geheim"):
			t.Errorf("%s: %+v", v.Name, v.sendingView)
		case (time.Until(*v.Until) - want.until).Abs() > 45*time.Second:
			t.Errorf("%s: until %v", v.Name, v.Until)
		}
	}
}

// TestNobodySignsIn: where nobody signs in, each tenant has limits and
// connections of its own, and one in staging may name another in staging.
func TestNobodySignsIn(t *testing.T) {
	t.Parallel()
	tenant := func(rate int, failover string) tenantSettings {
		return tenantSettings{Tenant: Tenant{
			Server: "relay.example", Auth: Auth{Method: "none"}, From: "a@example.com", Rate: Rate{rate, caddy.Duration(time.Minute)},
			Failover: failover,
		}}
	}
	elsewhere := tenant(5, "")
	elsewhere.Server, elsewhere.Deliver = "other.example", Deliver{None: true}
	staging := tenant(5, "elsewhere")
	staging.Deliver = Deliver{None: true}
	s := mustBuild(t, settings{tenants: map[string]tenantSettings{
		"a": tenant(5, ""), "b": tenant(5, ""), "c": tenant(6, ""), "staging": staging, "elsewhere": elsewhere,
	}})
	a := &App{logger: slog.New(slog.DiscardHandler)}
	t.Cleanup(a.holdings.release)
	if err := a.attach(s); err != nil {
		t.Fatal(err)
	}
	first, second := s.tenants["a"].mail, s.tenants["b"].mail
	if first.Limits == second.Limits || first.Breaker == second.Breaker {
		t.Error("two tenants have one limit")
	}
	if first.Pool == second.Pool {
		t.Error("two tenants share their connections")
	}
}
