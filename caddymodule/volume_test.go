package caddymodule

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestVolumes: what is abnormal.
func TestVolumes(t *testing.T) {
	t.Parallel()
	begin := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	type burst struct {
		at     time.Duration
		n      int
		caller string
	}
	for _, tt := range []struct {
		name   string
		limits volumeLimits
		bursts []burst
		want   string // when, by whose message
	}{
		{"no brake", volumeLimits{}, []burst{{0, 100_000, "a"}}, ""},
		{"within the limit", volumeLimits{messages: 100, window: time.Hour}, []burst{{0, 100, "a"}, {time.Hour + time.Minute, 100, "a"}}, ""},
		{"over the limit", volumeLimits{messages: 100, window: time.Hour}, []burst{{0, 50, "a"}, {30 * time.Minute, 51, "a"}}, "30m0s a: more than 100"},
		{"over the limit together", volumeLimits{messages: 100, window: time.Hour}, []burst{{0, 60, "a"}, {time.Minute, 41, "b"}}, "1m0s b: more than 100"},
		{"no past yet", volumeLimits{jump: 10}, []burst{{0, 1, "a"}, {23 * time.Hour, 5000, "a"}}, ""},
		{"as ever", volumeLimits{jump: 10}, []burst{{0, 100, "a"}, {50 * time.Hour, 1000, "a"}}, ""},
		{"ten times as much", volumeLimits{jump: 10}, []burst{{0, 100, "a"}, {50 * time.Hour, 1001, "a"}}, "50h0m0s a: 1001 messages"},
		{"little is no measure", volumeLimits{jump: 10}, []burst{{0, 1, "a"}, {50 * time.Hour, 200, "a"}}, ""},
		{"one caller among many", volumeLimits{jump: 10}, []burst{{0, 1000, "a"}, {0, 10, "b"}, {50 * time.Hour, 201, "b"}}, "50h0m0s b: 201 messages"},
		{"after more than a week", volumeLimits{jump: 10}, []burst{{0, 5000, "a"}, {200 * time.Hour, 201, "a"}}, "200h0m0s a: 201 messages"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var v volumes
			var got []string
			for _, b := range tt.bursts {
				for range b.n {
					if why := v.note("t", b.caller, tt.limits, begin.Add(b.at)); why != "" {
						got = append(got, fmt.Sprint(b.at, " ", b.caller, ": ", why))
					}
				}
			}
			if len(got) > 1 || tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tt.want)) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestVolumeBrake: too many messages pause the tenant and are told; none is lost, and an
// operator lets them go.
func TestVolumeBrake(t *testing.T) {
	t.Parallel()
	inbox := newWebhookInbox(t)
	sink := &mailertest.Sink{Keep: true}
	host, port := sink.Listen(t)
	p := startCaddy(t, tenantAt(net.JoinHostPort(host, fmt.Sprint(port)), "volume_limit 3 1h")+
		fmt.Sprintf("alert {\nwebhook %s/hook %s\n}\n", inbox.URL, inbox.secret()))
	p.managementToken()
	const mail = `{"to":"a@example.net","subject":"x","text":"x"}`
	for range 4 {
		if got := p.send(mail); got.status != 200 {
			t.Fatal(got.body)
		}
	}
	var want []string
	expect := func(line string) {
		t.Helper()
		want = append(want, line)
		await(t, line, func() bool { return len(inbox.told()) >= len(want) })
		if diff := cmp.Diff(want, inbox.told()); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	}
	expect("alert.raised volume_abnormal")
	sent := len(sink.Messages())
	for range 3 {
		if got := p.post(mail, "Prefer", "respond-async"); got.status != 202 {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
	}
	if r := p.run("", "status"); r.code != 11 || !strings.Contains(r.out, "more than 3 messages came in 1h0m0s") || !strings.Contains(r.out, "key web") {
		t.Errorf("status: %+v", r)
	}
	if n := len(sink.Messages()); n != sent || n > 4 {
		t.Errorf("%d mails were sent, %d before", n, sent)
	}
	if r := p.run("", "outbox", "resume", "default"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	expect("alert.recovered volume_abnormal")
	await(t, "all are sent", func() bool { return len(sink.Messages()) == 7 })
}
