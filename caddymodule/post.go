package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

const (
	// bodyTimeout bounds the reading of a body: a trickle is never idle.
	bodyTimeout = 60 * time.Second
	// sendTimeout bounds a send without an outbox up to the point where the content
	// is on its way. Clients give up after a minute.
	sendTimeout = 45 * time.Second
)

// statusClientGone is what Caddy notes for a client that has gone away.
const statusClientGone = 499

// noIdempotency is a warning.
const noIdempotency = "Idempotency-Key has no effect without an outbox: a repeated request sends again"

// postEmail sends one message.
func (h *Handler) postEmail(w http.ResponseWriter, r *http.Request, c caller) error {
	in, err := h.receive(w, r, emailTypes)
	if err != nil {
		return err
	}
	defer in.close()
	request, err := in.email(c)
	if err != nil {
		return in.refused(err)
	}
	defer request.close()
	in.room.read(request.kept())
	if !in.outbox && r.Header.Get("Idempotency-Key") != "" {
		request.warn(noIdempotency)
	}
	s, err := h.prepare(r, c, request)
	if err != nil {
		return err
	}
	if request.dryRun {
		if err := h.app.mailer.Check(s); err != nil {
			return err
		}
		writeJSON(w, "application/json", http.StatusOK, newDryRun(s, request))
		return nil
	}
	prefer := readPreferences(r.Header)
	if in.outbox {
		s.Options.Async, s.Options.Wait = prefer.async(), prefer.patience()
		if err := makeIdempotent(&s.Options, r.Header, s.Tenant, request); err != nil {
			return err
		}
	}
	if err := c.spend(w.Header(), 1); err != nil {
		return err
	}
	if in.outbox {
		in.room.untilAccepted(s.ID, request.close)
	}
	return h.sendOne(w, r, request, s, prefer)
}

// newDryRun is the answer to a message that would be accepted, and was not.
func newDryRun(s mailer.Submission, request *emailRequest) sent {
	return sent{ID: s.ID, MessageID: s.MessageID, Status: "dry_run", Tenant: request.tenant, Warnings: request.warnings}
}

// sendOne sends a message and answers. Nobody else may have the content, so that it
// goes when it is stored.
func (h *Handler) sendOne(w http.ResponseWriter, r *http.Request, request *emailRequest, s mailer.Submission, prefer preferences) error {
	id, messageID := s.ID, s.MessageID
	request.message = nil
	ctx := r.Context()
	if h.app.mailer.Outbox == nil {
		prefer = preferences{}
		var cancel context.CancelFunc
		ctx, cancel = mailer.Within(ctx, sendTimeout)
		defer cancel()
	}
	receipt, err := h.app.mailer.Send(ctx, s)
	if err != nil {
		p := toProblem(err)
		switch {
		case r.Context().Err() != nil && errors.Is(err, context.Canceled):
			p.status = statusClientGone // nobody reads it, and nothing is wrong here
		case receipt.Replayed: // that one was accepted
			w.Header().Set("Idempotent-Replayed", "true")
			p.id, p.messageID = receipt.ID, receipt.MessageID
		case p.status != http.StatusConflict:
			p.id, p.messageID = id, messageID
		}
		return p
	}
	status := prefer.apply(w.Header(), receipt)
	if status == http.StatusAccepted {
		w.Header().Set("Location", calledPath(r)+"/"+receipt.ID)
	}
	if receipt.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	writeJSON(w, "application/json", status, newSent(receipt, request, languageOf(r)))
	return nil
}

// prepare makes what is to be sent of a request for one message.
func (h *Handler) prepare(r *http.Request, c caller, request *emailRequest) (mailer.Submission, error) {
	c, err := c.permit(request)
	if err != nil {
		return mailer.Submission{}, err
	}
	request.tenant = c.named()
	request.dryRun = request.dryRun || r.Header.Get("X-Mail-Dry-Run") == "1"
	s, err := newSubmission(request, c)
	if err != nil {
		return s, err
	}
	s.Caller.Addr, s.Caller.Request, s.Caller.Trace = parseClient(clientIP(r)), c.request, traceID(r)
	s.Options.At = request.at
	return s, nil
}

// newSubmission accepts a message: it gets its id and its date.
func newSubmission(r *emailRequest, c caller) (mailer.Submission, error) {
	s := mailer.Submission{Tenant: c.tenant.name, Caller: mailer.Caller{Kind: callerKey, Name: c.key.name}}
	if r.received != nil {
		s.ID, s.MessageID, s.From, s.Envelope, s.Content = r.id, r.received.MessageID, r.received.From, *r.envelope, r.received.Content
		s.Summary = &mailer.Summary{To: s.Envelope.To}
		return s, nil
	}
	m := r.message
	s.ID = mailer.NewID()
	m.Date = time.Now().UTC()
	if !m.HasHeader("Message-ID") {
		m.MessageID = mailer.NewMessageID(s.ID, m.From)
	}
	var err error
	if s.Content, err = m.Compose(); err != nil {
		return s, err
	}
	s.MessageID, s.From, s.Envelope, s.Summary = m.MessageID, m.From, m.Envelope(), m.Summary()
	s.Summary.Tags, s.Summary.Metadata = r.tags, r.metadata
	if e := r.envelope; e != nil {
		s.Envelope.To = e.To
		if !e.From.IsZero() {
			s.Envelope.From = e.From
		}
	}
	return s, nil
}
