package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

const (
	// longestTry is the most time that a try has until its content begins.
	longestTry = 5 * time.Minute
	// longestTurn is how long a message waits in a try for the mailbox's turn. For
	// more its lane rests, so that it is not in doubt when the process ends.
	longestTurn = 10 * time.Second
)

// handler is the policy as an engine sees it.
type handler struct{ *Outbox }

// Window lets twice as many messages out as the mailbox has connections, so that one
// is ready when a connection becomes free.
func (h handler) Window(tenant string) int {
	p, _ := h.settings.Load().policy(tenant)
	return 2 * p.Connections
}

// Interrupted treats a message that was being sent when its process ended as one whose
// reply was lost.
func (h handler) Interrupted(m *Message) Outcome {
	s := h.settings.Load()
	p, _ := s.policy(m.Tenant)
	now := time.Now()
	e := &mailer.Error{
		Stage: mailer.StageFinal, Kind: mailer.KindUnknown, Code: CodeInterrupted,
		Err: errors.New("the process ended while it sent the message, which may have been sent"),
	}
	m.Attempts++
	m.Doubts++
	m.Failure = NewFailure(now, e)
	if p.HoldUnknown || m.Doubts >= mostInterruptions {
		m.State = StateHeld
		s.call(func() { s.Hooks.Held(m, e) })
		return Outcome{Verdict: Hold}
	}
	m.State, m.Due = StateQueued, now.UTC()
	if m.Doubts > 1 {
		m.Due = nextTry(now, m.Doubts-1, h.jitter(), 0).UTC()
	}
	s.call(func() { s.Hooks.Interrupted(m) })
	return Outcome{Verdict: Retry, At: m.Due}
}

// Deliver tries to send a message.
func (h handler) Deliver(ctx context.Context, m *Message, c mailer.Content) Outcome {
	now := time.Now()
	t := try{Outbox: h.Outbox, s: h.settings.Load(), ctx: ctx, m: m, era: h.lanes.begin(m.Tenant), began: now, now: now}
	h.waiters.trying(m.ID)
	var known bool
	t.p, known = t.s.policy(m.Tenant)
	if !t.began.Before(m.Expires) {
		return t.expired()
	}
	if !known {
		return t.park(tenantGone(m.Tenant))
	}
	release, full, err := t.acquire()
	switch {
	case err != nil:
		return t.later(&mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindTemporary, RetryAfter: firstRest, Err: err}, finding{silent: true})
	case full != nil:
		return t.limited(full.failure())
	}
	r, e := t.deliver(c)
	release()
	if e != nil {
		return t.failed(e)
	}
	return t.done(r)
}

// try is one try of a message.
type try struct {
	*Outbox
	s     *Settings
	p     Policy
	ctx   context.Context //nolint:containedctx // the struct is one call
	m     *Message
	era   int // of the lane that it probes; see lanes
	began time.Time
	now   time.Time // when it ended
}

// acquire takes a place in limits that are shared with other processes.
func (t *try) acquire() (release func(), full *Full, failed error) {
	if t.limits == nil || t.p.Mailbox == "" {
		return func() {}, nil, nil
	}
	release, full, failed = t.limits.Acquire(t.ctx, t.p.Mailbox, t.p.Limits, len(t.m.pending()))
	if failed != nil {
		failed = fmt.Errorf("asking for the mailbox's turn: %w", failed)
	}
	return release, full, failed
}

// deliver hands the message to the mailer, for those who have not got it.
func (t *try) deliver(c mailer.Content) (r mailer.Receipt, e *mailer.Error) {
	defer func() {
		if p := recover(); p != nil {
			t.s.Logger.Error("sending a message panicked; this is a defect of the program", "id", t.m.ID, "tenant", t.m.Tenant, "panic", p)
			e = &mailer.Error{Stage: mailer.StageFinal, Kind: mailer.KindUnknown, Code: "panic", Err: fmt.Errorf("panic: %v", p)}
		}
		t.now = time.Now()
	}()
	ctx, cancel := mailer.Within(t.ctx, longestTry)
	defer cancel()
	m := t.m
	r, err := t.s.Deliver(ctx, mailer.Submission{
		ID: m.ID, MessageID: m.MessageID, Tenant: m.Tenant, Caller: m.Caller, From: m.From,
		Envelope: mailer.Envelope{From: m.Sender, To: m.pending()},
		Content:  c,
		Options:  mailer.Options{AllRecipients: m.AllRecipients, RequireTLS: m.RequireTLS, DSN: m.DSN, Wait: longestTurn},
	})
	if err == nil {
		return r, nil
	}
	if e, ok := errors.AsType[*mailer.Error](err); ok {
		return r, e
	}
	return r, &mailer.Error{Stage: mailer.StageConnect, Kind: mailer.KindTemporary, Err: err}
}
