package caddymodule

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestQueuedAnswers: whoever hears that a message waits is not led to send it again.
func TestQueuedAnswers(t *testing.T) {
	t.Parallel()
	address := func(s string) mailer.Address {
		a, err := mailer.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	later := mailer.Reply{Code: 451, Enhanced: mailer.EnhancedCode{4, 3, 0}, Text: "later"}
	due := time.Now().Add(time.Minute)
	lost := &mailer.Error{Stage: mailer.StageFinal, Kind: mailer.KindUnknown}
	for _, tt := range []struct {
		name     string
		receipt  mailer.Receipt
		has      []string // in the warning
		japanese string
	}{
		{
			"later",
			mailer.Receipt{Due: due, Cause: &mailer.Error{Stage: mailer.StageMail, Kind: mailer.KindTemporary, Server: "mx:25", Reply: later}},
			[]string{"The message is not sent yet", "This server sends it again; do not"},
			"送り直さないでください",
		},
		{
			"for somebody",
			mailer.Receipt{Due: due, Cause: &mailer.Error{Stage: mailer.StageAuth, Kind: mailer.KindUnauthorized, Server: "mx:25", Reply: mailer.Reply{Code: 535}}},
			[]string{"The message is not sent yet", "This server sends it again; do not"},
			"送り直さないでください",
		},
		{
			"lost",
			mailer.Receipt{Due: due, Cause: lost},
			[]string{"may have been sent", "so it may arrive twice; do not"},
			"二重に届く",
		},
		{
			"held",
			mailer.Receipt{Cause: lost},
			[]string{"may have been sent", "never sends it again by itself"},
			"自動では再送しません",
		},
		{
			"partly",
			mailer.Receipt{
				Due: due, Server: "mx:25", Cause: &mailer.Error{Stage: mailer.StageRcpt, Kind: mailer.KindTemporary, Reply: later},
				Recipients: []mailer.RecipientOutcome{{Address: address("a@example.net")}, {Address: address("b@example.net")}, {Address: address("c@example.net"), Kind: mailer.KindTemporary, Reply: later}},
			},
			[]string{"went to 2 of its recipients; the others are tried again"},
			"宛先のうち 2 件",
		},
		{
			"paused",
			mailer.Receipt{Cause: &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindConfig, Code: "tenant_paused"}},
			[]string{"The message is not sent yet", "operator of this server has paused"},
			"一時停止",
		},
		{
			"too many wait",
			mailer.Receipt{Due: due, Cause: &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary, Code: outbox.CodeBusy}},
			[]string{"The message is not sent yet", "Too many requests wait", "sent as any other. Do not send it again"},
			"送り直さないでください",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.receipt.Status = mailer.StatusQueued
			v := newSent(tt.receipt, new(emailRequest), diagnosis.English)
			if len(v.Warnings) != 1 {
				t.Fatalf("warnings %q", v.Warnings)
			}
			text := v.Warnings[0]
			for _, part := range tt.has {
				if !strings.Contains(text, part) {
					t.Errorf("%q is not in %q", part, text)
				}
			}
			if v.Diagnosis != nil {
				text += strings.Join(v.Diagnosis.Do, " ")
			}
			for _, bad := range []string{"if your program does not", "before sending it again", "not sent yet, and waits"} {
				if strings.Contains(text, bad) && (bad != "not sent yet, and waits" || tt.name == "lost" || tt.name == "held" || tt.name == "partly") {
					t.Errorf("%q is in %q", bad, text)
				}
			}
			if v := newSent(tt.receipt, new(emailRequest), diagnosis.Japanese); len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], tt.japanese) {
				t.Errorf("warnings %q", v.Warnings)
			}
		})
	}
}

// TestHeldAnswer: a message whose reply was lost is held where the settings want that,
// and its sender is told; a person retries it.
func TestHeldAnswer(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{mailertest.Content: {mailertest.Close, ""}, "BDAT": {mailertest.Close, ""}}}
	p := startCaddy(t, scripted(t, script, "on_unknown hold"))
	v := accepted(t, p.post(mailBody), 200, "queued")
	if len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "never sends it again by itself") || v.NextTryAt != nil {
		t.Errorf("answer %+v", v)
	}
	var m messageView
	await(t, "it is held", func() bool {
		m = messageView{}
		p.ops(&m, "GET", "/outbox/messages/"+v.ID)
		return m.State == "held"
	})
	if m.ExpiresAt != nil || m.NextTryAt != nil || m.Failure == nil || m.Failure.Kind != "unknown" {
		t.Errorf("message %+v", m)
	}
	p.ops(&m, "POST", "/outbox/messages/"+v.ID+"/retry")
	await(t, "it is sent", func() bool {
		m = messageView{}
		p.ops(&m, "GET", "/outbox/messages/"+v.ID)
		return m.State == "sent"
	})
}

// TestPartlySent: of a message that some have got, its sender and the log tell so, and
// the others' wait is an event.
func TestPartlySent(t *testing.T) {
	t.Parallel()
	script := &mailertest.Script{Answers: map[string][]string{"RCPT": {"", "451 4.3.0 later"}}}
	p := startCaddy(t, scripted(t, script))
	p.mustReload("\toauth_mail {", "\tevents {\n\t\ton mail_deferred test_log\n\t}\n\toauth_mail {")
	v := accepted(t, p.post(strings.Replace(mailBody, `"a@example.net"`, `["a@example.net","b@example.net"]`, 1)), 200, "queued")
	if len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "went to 1 of its recipients; the others are tried again") {
		t.Errorf("warnings %q", v.Warnings)
	}
	await(t, "log and event are there", func() bool {
		line := grepLines(p.output.String(), `"message sent to some of its recipients; the others are tried again"`)
		return strings.Contains(line, `"sent":1`) && strings.Contains(line, v.ID) && strings.Contains(line, `"queue_id"`) &&
			strings.Contains(grepLines(p.output.String(), `"seen event"`), `"event":"mail_deferred"`)
	})
}

// TestUncertain: where nobody knows whether a message was stored, its sender hears what
// to do, and so does the log.
func TestUncertain(t *testing.T) {
	t.Parallel()
	e := &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindUnknown, Code: outbox.CodeUncertain}
	p := toProblem(e)
	if p.status != 504 || p.name != nameApplication || p.code != "outbox_uncertain" || p.retryAfter != 0 || p.diagnosis != nil {
		t.Errorf("%+v", p)
	}
	for _, part := range []string{"may be accepted", "repeat the request with the same Idempotency-Key"} {
		if !strings.Contains(p.message, part) {
			t.Errorf("%q is not in %q", part, p.message)
		}
	}
	b := newBench(t, nil)
	new(outboxState).notAccepted(b.app, &mailed{id: "one"}, e)
	if log := b.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "id=one") || !strings.Contains(log, "code=outbox_uncertain") || strings.Contains(log, "not accepted") {
		t.Errorf("log: %s", log)
	}
}
