package outbox

import (
	"fmt"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// mostDoubts is how many replies to a message may be lost before a person decides: a
// server whose every reply is lost must not get it every hour.
const mostDoubts = 3

// mostInterruptions is how many processes may end while they send a message, lost
// replies included, before a person decides: perhaps it is the message that ends them.
const mostInterruptions = 5

// expiredDiagnosis is that of messages which only time was wrong with.
const expiredDiagnosis = "general.expired"

// done is the end of a try after which the server has the message.
func (t *try) done(r mailer.Receipt) Outcome {
	m := t.m
	m.Attempts++
	rest := m.took(r)
	t.lanes.taken(m.Tenant)
	out := t.outcome(Sent, finding{state: LaneOpen})
	if rest != nil {
		t.s.call(func() { t.s.Hooks.Partly(m, r, t.now.Sub(t.began)) })
		return t.retry(out, rest)
	}
	m.Failure = nil
	t.finish(StateSent, t.s.KeepSent)
	r.ID, r.MessageID, r.Status = m.ID, m.MessageID, mailer.StatusSent
	r.Recipients = m.outcomes()
	t.waiters.tell(m.ID, time.Time{}, func() answer { return answer{receipt: r} })
	t.s.call(func() { t.s.Hooks.Sent(m, r, t.now.Sub(t.began)) })
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
	t.s.call(func() { t.s.Hooks.Deferred(m, e, t.now.Sub(t.began)) })
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
	r := mailer.Receipt{Status: mailer.StatusQueued, Recipients: t.m.outcomes(), Cause: e, Due: due}
	if d := t.m.Delivery; d != nil { // some have got it
		r.Server, r.Reply, r.QueueID = d.Server, d.Reply, d.QueueID
	}
	return answer{receipt: r}
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
	t.s.call(func() { t.s.Hooks.Held(m, e) })
	return out
}

// dead is the end of a try that was refused for good.
func (t *try) dead(e *mailer.Error) Outcome {
	f := finding{silent: e.Reply.Code == 0}
	if t.lanes.refused(t.m.Tenant, e, t.p.Brake) {
		f = finding{state: LaneParked, until: t.now.Add(brakeProbe).UTC(), failure: NewFailure(t.now, e.WithoutMessage())}
	}
	out := t.outcome(Dead, f)
	if rest := t.m.refused(e, t.all()); rest != nil {
		out.Verdict = Retry
		return t.retry(out, rest)
	}
	t.m.Attempts++
	return t.fail(out, e)
}

// fail gives the message up. Its idempotency key may be used again where nobody can
// have got it.
func (t *try) fail(out Outcome, e *mailer.Error) Outcome {
	m := t.m
	if m.Doubts == 0 && m.Delivered() == 0 {
		m.Idempotency, m.Fingerprint = nil, nil
	}
	m.Failure = NewFailure(t.now, e)
	t.finish(StateFailed, t.s.KeepFailed)
	t.waiters.tell(m.ID, time.Time{}, func() answer { return answer{err: e} })
	t.s.call(func() { t.s.Hooks.Failed(m, e, t.now.Sub(t.began)) })
	return out
}

// expired gives up a message that is too old, without a try. Where a person had to act
// for it, it is still that what is wrong.
func (t *try) expired() Outcome {
	m := t.m
	e := m.cause()
	if e == nil {
		e = t.lanes.get(m.Tenant).cause()
	}
	if e == nil {
		e = &mailer.Error{Stage: mailer.StageAccept, Kind: mailer.KindTemporary}
	}
	e.DiagnosisID = e.Diagnosis().ID
	if e.Kind.Outcome() != mailer.Park {
		e.DiagnosisID = expiredDiagnosis
	}
	what := fmt.Errorf("it was not sent within %v", m.Expires.Sub(m.Accepted).Round(time.Second))
	if n := m.Delivered(); n > 0 {
		what = fmt.Errorf("%d of %d recipients did not get it within %v", len(m.Recipients)-n, len(m.Recipients), m.Expires.Sub(m.Accepted).Round(time.Second))
	}
	if e.Err == nil {
		e.Err = what
	} else {
		e.Err = fmt.Errorf("%w; the last cause: %w", what, e.Err)
	}
	e.Code, e.Recipients = CodeExpired, m.outcomes()
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
