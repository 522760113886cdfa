package caddymodule

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// tenantView is a tenant as administrators see it.
type tenantView struct {
	Name        string   `json:"name"`
	Origin      origin   `json:"origin"`
	Server      string   `json:"server"`
	Security    string   `json:"security"`
	Auth        string   `json:"auth"`
	Provider    string   `json:"provider,omitempty"`
	User        string   `json:"user,omitempty"`
	From        string   `json:"from,omitempty"`
	Senders     []string `json:"senders"`
	Connections int      `json:"connections"`
	// Messages in Window, and recipients in a day, are the limits; zero for none.
	Messages         int    `json:"messages,omitempty"`
	Window           string `json:"window,omitempty"`
	RecipientsPerDay int    `json:"recipients_per_day,omitempty"`
	// Recipients is "some" or "all".
	Recipients string `json:"recipients"`
	Failover   string `json:"failover,omitempty"`
	// Deliver is "none" or an address where mail does not reach its recipients.
	Deliver string `json:"deliver,omitempty"`
	// Proxy has no user and no password.
	Proxy string `json:"proxy,omitempty"`
	// State is the account's, with OAuth; else "ready".
	State string `json:"state"`
	sendingView
	// Outbox is the state of its messages in the outbox: "open", "resting", "parked" or
	// "paused"; empty without an outbox, and where that cannot be read.
	Outbox string `json:"outbox,omitempty"`
	runtimeView
}

// sendingView says whether a tenant sends at present.
type sendingView struct {
	// Sending is "ready"; "failed_over" while messages go to the failover tenant,
	// "paused" after the mail server asked for less mail, "used_up" where no
	// recipients are left for the day.
	Sending string `json:"sending"`
	// Until is when the next message may try, and Cause why not now.
	Until *time.Time `json:"until,omitempty"`
	Cause string     `json:"cause,omitempty"`
}

func viewSending(t *tenant) sendingView {
	if t.mail.Deliver.Nowhere {
		return sendingView{Sending: "ready"}
	}
	view := func(sending string, until time.Time, cause *mailer.Error) sendingView {
		return sendingView{sending, given(until.UTC().Round(time.Second)), cause.Error()}
	}
	if cause, next := t.mail.Breaker.Down(); cause != nil && t.mail.Failover != "" && !t.mail.Deliver.Astray() {
		return view("failed_over", next, cause)
	}
	held := t.mail.Limits.Held()
	switch {
	case held == nil:
		return sendingView{Sending: "ready"}
	case held.Code == "mailbox_recipients":
		return view("used_up", time.Now().Add(held.RetryAfter), held)
	}
	return view("paused", time.Now().Add(held.RetryAfter), held)
}

// tenants lists tenants by names.
func (a admin) tenants(ctx context.Context, l listing) ([]tenantView, string) {
	s := a.app.snapshot(ctx)
	lanes, hasLanes := a.lanes(ctx)
	names, next := l.page(s.names(kindTenant))
	views := make([]tenantView, 0, len(names))
	for _, name := range names {
		views = append(views, viewTenant(ctx, s, name, lanes, hasLanes, false))
	}
	return views, next
}

// tenant shows one tenant.
func (a admin) tenant(ctx context.Context, name string) (tenantView, error) {
	s := a.app.snapshot(ctx)
	if s.tenants[name] == nil && s.entries[entryRef{kindTenant, name}] == nil {
		return tenantView{}, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no tenant %q", name)}
	}
	lanes, hasLanes := a.lanes(ctx)
	return viewTenant(ctx, s, name, lanes, hasLanes, true), nil
}

func viewTenant(ctx context.Context, s *snapshot, name string, lanes map[string]outbox.Lane, hasLanes, whole bool) tenantView {
	about := s.viewEntry(entryRef{kindTenant, name}, whole)
	t := s.tenants[name]
	if t == nil { // its problem is told
		return tenantView{Name: name, Origin: originRuntime, Senders: []string{}, State: "not_in_force", runtimeView: about}
	}
	v := tenantView{
		Name: name, Origin: t.origin, Server: net.JoinHostPort(t.mail.Server.Host, strconv.Itoa(t.mail.Server.Port)), Security: t.mail.Server.Security.String(),
		Auth: t.auth.Method, Provider: t.account.Provider, User: strings.ToLower(t.user),
		Senders: t.senderRules, Connections: t.limits.connections, State: "ready",
		Messages: t.limits.rate, RecipientsPerDay: t.limits.recipientsPerDay, Recipients: "some",
		Failover: t.mail.Failover, Deliver: t.mail.Deliver.To.Mailbox(), Proxy: t.mail.Server.Proxy.String(), sendingView: viewSending(t),
		runtimeView: about,
	}
	if hasLanes {
		v.Outbox = viewLaneState(lanes[name])
	}
	if t.limits.rate > 0 {
		v.Window = t.limits.window.String()
	}
	if t.mail.AllRecipients {
		v.Recipients = "all"
	}
	if t.mail.Deliver.Nowhere {
		v.Deliver = "none"
	}
	if t.auth.Method == "password" {
		v.User = t.auth.Username
	}
	if !t.from.IsZero() {
		v.From = t.from.String()
	}
	if t.source != nil {
		v.State = string(t.source.Status(ctx).State)
	}
	return v
}
