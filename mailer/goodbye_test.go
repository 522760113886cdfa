package mailer

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// TestGoodbyeAtRecipient: what sounds like a good-bye and is about a recipient
// costs the others nothing, and nobody gets the message twice; where the server
// really goes, the message was not sent.
func TestGoodbyeAtRecipient(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		second string // the answer to the second RCPT
		closes bool
	}{
		{"about the recipient", "451 4.4.2 <c@example.net>: recipient verification timed out", false},
		{"a server that goes on", "421 4.3.2 <c@example.net>: recipient server is not available", false},
		{"a server that goes", "421 4.3.2 closing", true},
	}
	for _, shape := range shapes {
		for _, tt := range tests {
			for _, reused := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", shape.name, tt.name, reused), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						s := &mailertest.Script{Offer: shape.offer, Strict: true, Answers: map[string][]string{}}
						tenant := plainTenant(s)
						tenant.Pool = &Pool{Max: 1}
						defer tenant.Pool.Close()
						before := 0
						if reused {
							submit(t, tenant)
							before = 1
						}
						s.Answers["RCPT"] = append([]string{""}, tt.second, "")
						if tt.closes {
							s.Answers["RCPT"] = append([]string{""}, tt.second, mailertest.Close, "")
						}
						env := Envelope{From: sender, To: []Address{someone, other, sender}}
						r, err := tenant.Submit(t.Context(), env, hello, Options{})
						sent := len(s.Contents()) - before
						switch {
						case tt.closes && !reused:
							if e := wantError(t, err, StageRcpt, KindTemporary); sent != 0 || e.Reply.Code != 421 {
								t.Errorf("%v, and it was sent %d times", e, sent)
							}
						case err != nil:
							t.Error(err)
						case sent != 1:
							t.Errorf("it was sent %d times", sent)
						case !tt.closes && (r.Recipients[0].Kind != KindNone || r.Recipients[1].Kind != KindTemporary || r.Recipients[2].Kind != KindNone):
							t.Errorf("recipients %v", r.Recipients)
						}
						submit(t, tenant)
						if sessions := s.Sessions(); (sessions == 1) != (tt.second[:3] == "451") {
							t.Errorf("%d sessions", sessions)
						}
					})
				})
			}
		}
	}
}

// TestSlowReplies: replies that take long, each within its time, do no harm in
// sum.
func TestSlowReplies(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes {
		for _, all := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", shape.name, all), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					const delay = 50 * time.Second
					s := &mailertest.Script{Offer: shape.offer}
					tenant := plainTenant(s)
					tenant.Server.Dial = func(context.Context, string, string) (net.Conn, error) {
						client, server := mailertest.Pipe(delay)
						go s.Serve(server)
						return client, nil
					}
					env := Envelope{From: sender, To: []Address{someone, other, sender}}
					if _, err := tenant.Submit(t.Context(), env, bigger, Options{AllRecipients: all}); err != nil {
						t.Errorf("after %v: %v", delay, err)
					}
					time.Sleep(10 * delay) // until the server has noticed
				})
			})
		}
	}
}
