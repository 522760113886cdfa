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
	// mostDoubts is how many replies to a message may be lost before a person decides: a
	// server whose every reply is lost must not get it every hour.
	mostDoubts = 3
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
		Stage: mailer.StageFinal, Kind: mailer.KindUnknown, Code: "interrupted",
		Err: errors.New("the process ended while it sent the message, which may have been sent"),
	}
	m.Attempts++
	m.Failure = NewFailure(now, e)
	if p.HoldUnknown {
		m.State = StateHeld
		s.held(m, e)
		return Outcome{Verdict: Hold}
	}
	m.State, m.Due = StateQueued, now.UTC()
	return Outcome{Verdict: Retry}
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
		return t.park(noTenant(m.Tenant))
	}
	release, wait, err := t.acquire()
	switch {
	case err != nil:
		return t.later(&mailer.Error{Stage: mailer.StageLimit, Kind: mailer.KindTemporary, RetryAfter: firstRest, Err: err}, finding{silent: true})
	case wait > 0:
		return t.limited(&mailer.Error{
			Stage: mailer.StageLimit, Kind: mailer.KindThrottled, Code: "mailbox_rate", RetryAfter: wait,
			Err: errors.New("the mailbox has sent what it may, by all instances together"),
		})
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
func (t *try) acquire() (release func(), again time.Duration, failed error) {
	if t.limits == nil || t.p.Mailbox == "" {
		return func() {}, 0, nil
	}
	l := t.p.Limits
	l.Drain = t.p.Drain
	release, again, failed = t.limits.Acquire(t.ctx, t.p.Mailbox, l, len(t.m.pending()))
	if failed != nil {
		failed = fmt.Errorf("asking for the mailbox's turn: %w", failed)
	}
	return release, again, failed
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
	ctx, cancel := context.WithTimeout(t.ctx, longestTry)
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

// done is the end of a try after which the server has the message.
func (t *try) done(r mailer.Receipt) Outcome {
	m := t.m
	m.Attempts++
	m.Delivery = &Delivery{Tenant: r.Tenant, Server: r.Server, Reply: r.Reply, QueueID: r.QueueID, Staging: r.Deliver.String()}
	rest := m.taken(r.Recipients)
	t.lanes.taken(m.Tenant)
	out := t.outcome(Sent, finding{state: LaneOpen})
	if rest != nil {
		return t.retry(out, rest)
	}
	m.Failure = nil
	t.finish(StateSent, t.s.KeepSent)
	r.ID, r.MessageID, r.Status = m.ID, m.MessageID, mailer.StatusSent
	r.Recipients = m.outcomes()
	t.waiters.tell(m.ID, time.Time{}, func() answer { return answer{receipt: r} })
	t.s.sent(m, r, t.now.Sub(t.began))
	return out
}

// failed is the end of a try after which the server has nothing, or nobody knows.
func (t *try) failed(e *mailer.Error) Outcome {
	m := t.m
	switch e.Kind.Outcome() {
	case mailer.Retry:
		switch {
		case t.ctx.Err() != nil && e.Reply.Code == 0:
			return t.later(e, finding{silent: true})
		case e.Stage == mailer.StageLimit:
			return t.limited(e)
		}
		_ = m.refused(e, t.all()) // all that are left are tried again
		return t.retry(t.outcome(Retry, t.way(e)), e)
	case mailer.Park:
		if t.ctx.Err() != nil && e.Reply.Code == 0 {
			return t.later(e, finding{silent: true})
		}
		return t.park(e)
	case mailer.Doubt:
		return t.doubt(e)
	default:
		return t.dead(e)
	}
}

// all reports whether the message goes to all its recipients or to none.
func (t *try) all() bool { return t.m.AllRecipients || t.p.AllRecipients }

// way says what a failure that may pass tells of the lane.
func (t *try) way(e *mailer.Error) finding {
	if !e.CannotSend() {
		return finding{silent: e.Reply.Code == 0}
	}
	f := finding{state: LaneResting, failure: NewFailure(t.now, e.WithoutMessage())}
	if e.Kind == mailer.KindThrottled && e.RetryAfter > 0 {
		f.until = t.now.Add(e.RetryAfter).UTC()
	}
	return f
}

// limited is the end of a try for which the mailbox has no room now. Where only the
// day's room for so many recipients is used up, others may go.
func (t *try) limited(e *mailer.Error) Outcome {
	if e.Code == "mailbox_recipients" && len(t.m.pending()) > 1 {
		return t.later(e, finding{silent: true})
	}
	wait := max(e.RetryAfter, leastRest)
	if e.RetryAfter <= 0 {
		wait = firstRest
	}
	return t.later(e, finding{state: LaneResting, until: t.now.Add(wait).UTC(), failure: NewFailure(t.now, e.WithoutMessage())})
}

// later is the end of a try that does not count.
func (t *try) later(e *mailer.Error, f finding) Outcome {
	out := t.outcome(Retry, f)
	at := t.now
	if e.RetryAfter > 0 {
		at = at.Add(max(e.RetryAfter, leastRest))
	}
	return t.queue(out, at, e)
}

// park is the end of a try that shows that a person must act. The message is due
// when the lane opens.
func (t *try) park(e *mailer.Error) Outcome {
	out := t.outcome(Retry, finding{state: LaneParked, until: t.now.Add(parkProbe).UTC(), failure: NewFailure(t.now, e.WithoutMessage())})
	return t.queue(out, t.now, e)
}

// retry is the end of a try that counts, and after which others follow.
func (t *try) retry(out Outcome, e *mailer.Error) Outcome {
	m := t.m
	if out.Verdict == Retry {
		m.Attempts++
	}
	out = t.queue(out, nextTry(t.now, m.Attempts, t.jitter(), e.RetryAfter), e)
	t.s.deferred(m, e, t.now.Sub(t.began))
	return out
}

// queue queues the message until a time, but no longer than it lives.
func (t *try) queue(out Outcome, at time.Time, e *mailer.Error) Outcome {
	m := t.m
	if at.After(m.Expires) {
		at = m.Expires
	}
	out.Verdict, out.At = Retry, at.UTC()
	m.State, m.Due = StateQueued, out.At
	m.Failure = NewFailure(t.now, e)
	due := m.Due
	if l := t.lanes.get(m.Tenant); l.closed(t.now) || t.ctx.Err() != nil {
		if l.Until.After(due) {
			due = l.Until
		}
		t.waiters.tell(m.ID, time.Time{}, func() answer { return t.queued(due, e) })
		return out
	}
	t.waiters.tell(m.ID, due, func() answer { return t.queued(due, e) })
	return out
}

func (t *try) queued(due time.Time, e *mailer.Error) answer {
	return answer{receipt: mailer.Receipt{Status: mailer.StatusQueued, Recipients: t.m.outcomes(), Cause: e, Due: due}}
}

// doubt is the end of a try whose reply was lost.
func (t *try) doubt(e *mailer.Error) Outcome {
	out := t.outcome(Retry, finding{silent: true})
	m := t.m
	m.Doubts++
	if !t.p.HoldUnknown && m.Doubts < mostDoubts {
		return t.retry(out, e)
	}
	out.Verdict = Hold
	m.Attempts++
	m.State, m.Due, m.Failure = StateHeld, time.Time{}, NewFailure(t.now, e)
	t.waiters.tell(m.ID, time.Time{}, func() answer { return t.queued(time.Time{}, e) })
	t.s.held(m, e)
	return out
}

// dead is the end of a try that was refused for good.
func (t *try) dead(e *mailer.Error) Outcome {
	f := finding{silent: e.Reply.Code == 0}
	if t.lanes.refused(t.m.Tenant, e, t.p.Brake) {
		f = finding{state: LaneParked, until: t.now.Add(brakeProbe).UTC(), failure: NewFailure(t.now, e.WithoutMessage())}
		t.s.Logger.Error("the mail server keeps refusing this tenant's messages for one reason; the tenant is parked until somebody resumes it",
			"tenant", t.m.Tenant, "messages", t.p.Brake, "reason", e.Error())
	}
	out := t.outcome(Dead, f)
	if rest := t.m.refused(e, t.all()); rest != nil {
		out.Verdict = Retry
		return t.retry(out, rest)
	}
	t.m.Attempts++
	return t.fail(out, e)
}

// fail gives the message up.
func (t *try) fail(out Outcome, e *mailer.Error) Outcome {
	m := t.m
	m.Failure = NewFailure(t.now, e)
	t.finish(StateFailed, t.s.KeepFailed)
	t.waiters.tell(m.ID, time.Time{}, func() answer { return answer{err: e} })
	t.s.failed(m, e, t.now.Sub(t.began))
	return out
}

// expired gives up a message that is too old, without a try.
func (t *try) expired() Outcome {
	m := t.m
	e := m.cause()
	if e == nil {
		e = &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary}
	}
	what := fmt.Errorf("it was not sent within %v", m.Expires.Sub(m.Accepted).Round(time.Second))
	if e.Err == nil {
		e.Err = what
	} else {
		e.Err = fmt.Errorf("%w; the last cause: %w", what, e.Err)
	}
	e.Code, e.Recipients = "expired", m.outcomes()
	return t.fail(t.outcome(Dead, finding{silent: true}), e)
}

func (t *try) finish(to State, keep time.Duration) {
	t.m.State, t.m.Due = to, time.Time{}
	t.m.Finished, t.m.Forget = t.now.UTC(), t.now.Add(keep).UTC()
}

// outcome begins an outcome with what was found out about the lane.
func (t *try) outcome(v Verdict, f finding) Outcome {
	set, before, after := t.lanes.learn(t.m.Tenant, t.era, t.now, f)
	t.changed(t.s, t.m.Tenant, before, after)
	return Outcome{Verdict: v, Lane: set}
}
