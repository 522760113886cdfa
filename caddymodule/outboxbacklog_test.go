package caddymodule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestBacklogs: each backlog is told once, and its end.
func TestBacklogs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	of := func(age time.Duration) outbox.TenantStats {
		return outbox.TenantStats{
			Messages: map[outbox.State]int{outbox.StateQueued: 3, outbox.StateScheduled: 5, outbox.StateSent: 7}, Oldest: now.Add(-age),
		}
	}
	var b backlogs
	for i, tt := range []struct {
		tenants      map[string]outbox.TenantStats
		began, ended string
	}{
		{map[string]outbox.TenantStats{"a": of(14 * time.Minute), "none": {}}, "", ""},
		{map[string]outbox.TenantStats{"a": of(15 * time.Minute), "b": of(time.Hour), "none": {}}, "a 3, b 3", ""},
		{map[string]outbox.TenantStats{"a": of(16 * time.Minute), "b": of(time.Minute)}, "", "b"},
		{map[string]outbox.TenantStats{"b": of(time.Hour)}, "b 3", "a"},
		{nil, "", "b"},
	} {
		began, ended := b.look(outbox.Stats{Tenants: tt.tenants}, now)
		var starts, ends []string
		for _, x := range began {
			starts = append(starts, fmt.Sprint(x.tenant, " ", x.messages))
		}
		for _, x := range ended {
			ends = append(ends, x.tenant)
		}
		if diff := cmp.Diff([]string{tt.began, tt.ended}, []string{strings.Join(starts, ", "), strings.Join(ends, ", ")}); diff != "" {
			t.Errorf("look %d (-want +got):\n%s", i+1, diff)
		}
	}
}

// TestOutboxFull: what has no room is refused. That is told once, and so is the end.
func TestOutboxFull(t *testing.T) {
	t.Parallel()
	p := startCaddy(t, "outbox bbolt {\nmax_size 1MiB\n}\n"+scripted(t, new(mailertest.Script)))
	p.mustReload("\toauth_mail {", "\tevents {\n\t\ton mail_outbox_full test_log\n\t}\n\toauth_mail {", "max_size 1MiB", "max_size 9MiB")
	p.awaitLog("settings of the outbox have changed that count from when it is opened") // the new max_size is not in force
	big := strings.NewReplacer("{", `{"scheduled_at":"in 2 hours",`, `"text":"t"`, `"text":"`+strings.Repeat("0123456789", 40<<10)+`"`).Replace(mailBody)
	var ids []string
	var got answer
	for len(ids) < 10 {
		if got = p.post(big); got.status != 200 {
			break
		}
		ids = append(ids, accepted(t, got, 200, "scheduled").ID)
	}
	if got.status != 507 || !strings.Contains(got.body, field("detail_code", "outbox_full")) || got.header.Get("Retry-After") == "" || len(ids) == 0 {
		t.Fatalf("after %d: status %d: %.300s", len(ids), got.status, got.body)
	}
	if got := p.post(big); got.status != 507 {
		t.Errorf("again: status %d", got.status)
	}
	var box outboxView
	p.ops(&box, "GET", "/outbox")
	if box.Accepting || box.Refusing != "outbox_full" {
		t.Errorf("outbox %+v", box)
	}
	await(t, "the metric tells", func() bool { return p.metric("caddy_oauth_mail_outbox_accepting") == 0 })
	for _, id := range ids {
		p.ops(nil, "DELETE", "/outbox/messages/"+id)
	}
	await(t, "there is room again", func() bool { return p.post(mailBody).status == 200 })
	box = outboxView{}
	p.ops(&box, "GET", "/outbox")
	if !box.Accepting || box.Refusing != "" || p.metric("caddy_oauth_mail_outbox_accepting") != 1 {
		t.Errorf("outbox %+v", box)
	}
	await(t, "the event is there", func() bool {
		return strings.Contains(grepLines(p.output.String(), `"seen event"`), "mail_outbox_full")
	})
	for _, line := range []string{`"the outbox takes no messages; senders are told"`, `"the outbox takes messages again"`, `"seen event"`} {
		p.awaitLog(line)
		log := p.output.String()
		if n := strings.Count(log, line); n != 1 {
			t.Errorf("%d lines with %s:\n%s", n, line, grepLines(log, line))
		}
	}
}
