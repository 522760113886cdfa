package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// linesLog is a log as Caddy writes it, without times.
func linesLog(to *strings.Builder) *zap.Logger {
	format := zap.NewProductionEncoderConfig()
	format.TimeKey = ""
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(format), zapcore.AddSync(to), zapcore.InfoLevel))
}

// TestMessageLines: the lines that there are of each message have the fields that the
// documentation names, in one order.
func TestMessageLines(t *testing.T) {
	t.Parallel()
	address := func(text string) mailer.Address {
		t.Helper()
		a, err := mailer.ParseAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	receipt := mailer.Receipt{Tenant: "main", Server: "smtp.example.com:587", QueueID: "Q1", Status: mailer.StatusSent}
	staged := receipt
	staged.Deliver = mailer.Delivery{To: address("qa@example.com")}
	caller := mailer.Caller{Kind: "key", Name: "web", Addr: netip.MustParseAddr("192.0.2.1"), Request: "r1", Trace: "4bf92f3577b34da6a3ce929d0e0e4736"}
	message := mailed{
		id: "m1", request: "r1", tenant: "shop", caller: caller, from: address("a@example.com"), size: 1234,
		to: []mailer.Address{address("b@example.net"), address("c@example.net"), address("d@example.com")},
	}
	const said = `,"id":"m1","request_id":"r1","tenant":"`
	const fact = said + `shop","by":"key web","from":"a@example.com","remote_ip":"192.0.2.1","recipients":3,"to":["example.com","example.net"]`
	const sentFact = `{"level":"info","msg":"message.sent","event":"message.sent"` + fact + `,"server":"smtp.example.com:587","queue_id":"Q1","outcome":"sent"}`
	for name, tt := range map[string]struct {
		tell   func(*App, mailed)
		policy string
		want   []string
	}{
		"without an outbox": {tell: func(a *App, m mailed) { a.logSent(&m, receipt, 1500*time.Millisecond, 0) }, want: []string{
			`{"level":"info","msg":"message sent"` + said + `main","caller":"key web","recipients":3,"size":1234,"server":"smtp.example.com:587","queue_id":"Q1","duration":1.5,"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}`,
			sentFact,
		}},
		"at the second try": {tell: func(a *App, m mailed) { a.logSent(&m, receipt, time.Second, 2) }, want: []string{
			`{"level":"info","msg":"message sent"` + said + `main","caller":"key web","recipients":3,"size":1234,"server":"smtp.example.com:587","queue_id":"Q1","duration":1,"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","attempts":2}`,
			sentFact,
		}},
		"staging, of nobody's address": {policy: auditDrop, tell: func(a *App, m mailed) {
			m.caller = mailer.Caller{Kind: "operator", Name: "ops"}
			a.logSent(&m, staged, time.Second, 1)
		}, want: []string{
			`{"level":"info","msg":"message not delivered to its recipients: staging"` + said + `main","caller":"operator ops","recipients":3,"size":1234,"server":"smtp.example.com:587","queue_id":"Q1","duration":1,"attempts":1,"deliver":"qa@example.com"}`,
			`{"level":"info","msg":"message.sent","event":"message.sent"` + said + `shop","by":"operator ops","from":"a@example.com","recipients":3,"server":"smtp.example.com:587","queue_id":"Q1","outcome":"sent"}`,
		}},
		"accepted": {policy: auditFull, tell: func(a *App, m mailed) {
			a.auditMessage("message.accepted", func() (*mailed, zapcore.ObjectMarshaler) {
				return &m, auditAccepted{&outbox.Message{MessageID: "<m1@example.com>", Size: 1234}}
			})
		}, want: []string{
			`{"level":"info","msg":"message.accepted","event":"message.accepted"` + said + `shop","by":"key web","from":"a@example.com","remote_ip":"192.0.2.1","recipients":3,"to":["b@example.net","c@example.net","d@example.com"],"message_id":"<m1@example.com>","size":1234}`,
		}},
		"refused": {tell: func(a *App, m mailed) {
			e := &mailer.Error{
				Stage: mailer.StageRcpt, Kind: mailer.KindRejected, Server: "smtp.example.com:587",
				Reply: mailer.Reply{Code: 550, Text: "no b@example.net here"},
			}
			a.auditMessage("message.failed", func() (*mailed, zapcore.ObjectMarshaler) { return &m, auditFailure(e, m.to) })
		}, want: []string{
			`{"level":"info","msg":"message.failed","event":"message.failed"` + fact + `,"outcome":"rejected","stage":"rcpt","server":"smtp.example.com:587","reply":"550 no (recipient) here","diagnosis":"general.recipient_refused"}`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log strings.Builder
			a := &App{lines: linesLog(&log), auditLog: auditLog{linesLog(&log), auditDomain}}
			if tt.policy != "" {
				a.auditLog.recipients = tt.policy
			}
			tt.tell(a, message)
			if diff := cmp.Diff(tt.want, strings.Split(strings.TrimSpace(log.String()), "\n")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestAuditUnheard: where nobody listens to the audit log, nobody makes what it would
// say of a message.
func TestAuditUnheard(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	for name, logger := range map[string]*zap.Logger{"no log": nil, "for troubles only": linesLog(&log).WithOptions(zap.IncreaseLevel(zap.ErrorLevel))} {
		a := &App{auditLog: auditLog{logger, auditFull}}
		a.auditMessage("message.accepted", func() (*mailed, zapcore.ObjectMarshaler) {
			t.Errorf("%s: somebody asked for the recipients", name)
			return &mailed{}, auditAccepted{&outbox.Message{}}
		})
	}
	if log.Len() > 0 {
		t.Errorf("the log has %s", &log)
	}
}

// TestWriteJSON: an answer that cannot be made says so, and does no harm to the next one.
func TestWriteJSON(t *testing.T) {
	t.Parallel()
	for range 3 { // one after the other uses what the one before has given back
		for _, tt := range []struct {
			v      any
			status int
			want   string
		}{
			{map[string]any{"broken": make(chan int)}, 500, `{"statusCode":500,"name":"internal_server_error","message":"The answer could not be written."}`},
			{sent{ID: "m1", MessageID: "<m1@example.com>", Status: "queued"}, 202, `{"id":"m1","message_id":"<m1@example.com>","status":"queued"}` + "\n"},
			{strings.Repeat("x", maxKeptAnswer), 202, `"` + strings.Repeat("x", maxKeptAnswer) + "\"\n"},
		} {
			w := httptest.NewRecorder()
			writeJSON(w, "application/json", 202, tt.v)
			if got := w.Body.String(); w.Code != tt.status || got != tt.want {
				t.Errorf("status %d, want %d: %.200s", w.Code, tt.status, got)
			}
			if diff := cmp.Diff(http.Header{
				"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}, "X-Content-Type-Options": {"nosniff"},
			}, w.Header()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		}
	}
}
