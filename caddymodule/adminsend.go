package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// callerOperator is the kind of caller that administrators are.
const callerOperator = "operator"

// mailRoutes are the calls of the administration that send.
var mailRoutes = routes[*adminCall]{
	{http.MethodPost, "/tenants/{tenant}/mail", &adminCall{"operator", serveTestMail}},
	{http.MethodPost, "/tenants/{tenant}/send", operatorSendCall},
}

// operatorSendCall takes a message instead of JSON. A page of another site cannot post one
// without asking first, which is not granted.
var operatorSendCall = &adminCall{role: "admin"}

func init() { operatorSendCall.serve = serveOperatorSend } // it asks for itself, in adminDoor.serve

const (
	mediaMessage = "message/rfc822"
	// The envelope is in the header: what is sent stays as it is, and no address comes
	// into a log of requests.
	envelopeFromHeader = "Envelope-From"
	envelopeToHeader   = "Envelope-To"
	operatorWait       = 25 * time.Second
)

// testMail is what an operator sends to see whether mail arrives.
func testMail(from, to mailer.Address, tenant, by string, now time.Time) *mailer.Message {
	return &mailer.Message{
		From: from, To: []mailer.Address{to}, Date: now,
		Subject: "Test mail / テストメール (" + tenant + ")",
		Text: "This is a test mail of the tenant " + tenant + ", sent by " + by + " at " + now.Format(time.RFC3339) + ".\n" +
			"If you can read it, sending works. There is nothing to do.\n\n" +
			"これはテナント " + tenant + " のテストメールです。\n" +
			"このメールが届いていれば、送信は正常に動作しています。対応は不要です。\n",
	}
}

// mailVerdict is the outcome of a test mail.
type mailVerdict struct {
	OK bool `json:"ok"`
	// Test is the connection test that came first.
	Test mailer.Verdict `json:"test"`
	// Message is what became of the mail, if it was accepted, and Problem why it was not.
	Message *sent          `json:"message,omitempty"`
	Problem map[string]any `json:"problem,omitempty"`
}

// testMail prepares to try a tenant's connection and then to send a mail by it.
func (a admin) testMail(name, from, to, by string) (run func(context.Context, diagnosis.Language, func(mailer.Step)) mailVerdict, err error) {
	test, err := a.connectionTest(name, from, by)
	if err != nil {
		return nil, err
	}
	rcpt, err := mailer.ParseAddress(to)
	if err != nil {
		return nil, &adminError{kind: adminInvalid, err: fmt.Errorf("to: %w", reason(err))}
	}
	t := a.app.registry.load().tenants[name]
	sender := t.from
	if from != "" {
		sender, _ = mailer.ParseAddress(from) // connectionTest has
	}
	if sender.IsZero() {
		return nil, &adminError{kind: adminInvalid, err: fmt.Errorf("from: tenant %s has no sender of its own; name one", name)}
	}
	return func(ctx context.Context, l diagnosis.Language, report func(mailer.Step)) mailVerdict {
		v := mailVerdict{Test: test(ctx, report)}
		if v.Test.Err != nil {
			return v
		}
		m := testMail(sender, rcpt, name, by, time.Now().UTC())
		id := mailer.NewID()
		m.MessageID = mailer.NewMessageID(id, m.From)
		content, err := m.Compose()
		if err == nil {
			v.Message, err = a.submit(ctx, mailer.Submission{
				ID: id, MessageID: m.MessageID, Tenant: name, From: m.From, Envelope: m.Envelope(), Content: content,
			}, by, l)
		}
		if err != nil {
			p := toProblem(err)
			v.Problem = p.about(l)
			v.Problem["detail"] = p.message
		}
		v.OK = v.Message != nil && v.Message.Status == string(mailer.StatusSent)
		return v
	}, nil
}

// submit sends a message of an operator.
func (a admin) submit(ctx context.Context, s mailer.Submission, by string, l diagnosis.Language) (*sent, error) {
	s.Caller.Kind, s.Caller.Name = callerOperator, by
	s.Options.Wait = operatorWait
	receipt, err := a.app.mailer.Send(ctx, s)
	if err != nil {
		return nil, err
	}
	v := newSent(receipt, new(emailRequest), l)
	return &v, nil
}

// about is what an administrator hears of a problem besides its message.
func (p *problem) about(l diagnosis.Language) map[string]any {
	v := map[string]any{"name": p.name}
	if p.code != "" {
		v["code"] = p.code
	}
	if p.smtp != nil {
		v["smtp"] = p.smtp
	}
	if p.diagnosis != nil {
		v["diagnosis"] = p.diagnosis.Advice(l)
	}
	return v
}

// serveTestMail serves a test mail: as one answer, or stage by stage and then the
// verdict where the caller accepts that.
func serveTestMail(a admin, r *adminRequest) (int, any, error) {
	var from, to string
	if err := r.settings(fields{"from": decodeText(&from), "to": decodeText(&to)}); err != nil {
		return 0, nil, err
	}
	if to == "" {
		return 0, nil, missing("to")
	}
	run, err := a.testMail(r.tenant, from, to, r.by)
	if err != nil {
		return 0, nil, err
	}
	l := languageOf(r.Request)
	if !accepts(r.Request, ndjson) {
		return http.StatusOK, run(r.Context(), l, nil), nil
	}
	return http.StatusOK, records(func(emit func(any)) {
		verdict := run(r.Context(), l, func(s mailer.Step) { emit(s) })
		verdict.Test.Steps = nil // they were told
		emit(verdict)
	}), nil
}

// serveOperatorSend sends a message as it is.
func serveOperatorSend(a admin, r *adminRequest) (int, any, error) {
	t := a.app.registry.load().tenants[r.tenant]
	if t == nil {
		return 0, nil, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no tenant %q", r.tenant)}
	}
	env := mailer.Envelope{}
	for _, list := range r.Header.Values(envelopeToHeader) {
		to, err := mailer.ParseAddressList(list)
		if err != nil {
			return 0, nil, &adminError{kind: adminInvalid, err: fmt.Errorf("%s: %w", envelopeToHeader, reason(err))}
		}
		env.To = append(env.To, to...)
	}
	if len(env.To) == 0 {
		return 0, nil, &adminError{kind: adminInvalid, err: errors.New("the header " + envelopeToHeader + " names no recipient")}
	}
	env.To = (&mailer.Message{To: env.To}).Envelope().To // each once
	intake := mailer.Intake{MaxSize: a.app.memory.largest, Spool: smtpSpool, DefaultFrom: t.from}
	id := mailer.NewID()
	received, err := intake.Read(r.Body, id)
	if err != nil {
		a.app.memory.discard(r.Request)
		return 0, nil, &adminError{kind: adminInvalid, err: reason(err)}
	}
	defer received.Close()
	env.From = received.From
	if from := r.Header.Get(envelopeFromHeader); from != "" {
		if env.From, err = mailer.ParseAddress(from); err != nil {
			return 0, nil, &adminError{kind: adminInvalid, err: fmt.Errorf("%s: %w", envelopeFromHeader, reason(err))}
		}
	}
	s := mailer.Submission{
		ID: id, MessageID: received.MessageID, Tenant: r.tenant, From: received.From, Envelope: env, Content: received.Content,
	}
	if a.app.mailer.Outbox != nil {
		if err := operatorOptions(&s.Options, r, t.name); err != nil {
			return 0, nil, err
		}
	}
	v, err := a.submit(r.Context(), s, r.by, languageOf(r.Request))
	if err != nil {
		return 0, nil, toProblem(err)
	}
	return http.StatusOK, v, nil
}

// operatorOptions reads the wishes that a message came with.
func operatorOptions(o *mailer.Options, r *adminRequest, tenant string) error {
	key, err := idempotencyKey(r.Header)
	if err != nil || key == "" {
		return err
	}
	o.IdempotencyKey = key
	sum := digest("operator", tenant, r.Header.Values(envelopeToHeader))
	o.Fingerprint = sum[:]
	return nil
}

// isMessage reports whether a request has a message for its body, and answers if not.
func isMessage(w http.ResponseWriter, r *http.Request) bool {
	if err := crossOrigin.Check(r); err != nil {
		adminProblem(w, r, http.StatusForbidden, "The request comes from another site's page and was refused.", nil)
		return false
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != mediaMessage {
		adminProblem(w, r, http.StatusUnsupportedMediaType, "The body must be a message, with the header Content-Type: "+mediaMessage+".", nil)
		return false
	}
	return true
}
