package caddymodule

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

const (
	// maxBody is the most that a request to the send route may have.
	maxBody = 36 << 20
	// bodyTimeout bounds the reading of a body: a trickle is never idle.
	bodyTimeout = 60 * time.Second
	// sendTimeout bounds a send without an outbox up to the point where the content
	// is on its way. Clients give up after a minute.
	sendTimeout = 45 * time.Second
)

// postEmail sends one message.
func (h *Handler) postEmail(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := checkEmailHeaders(r.Header); err != nil {
		return err
	}
	// Not every writer has deadlines; a server's own then hold alone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	room, err := h.app.memory.acquire(r)
	if err != nil {
		return err
	}
	defer room.release()
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	room.shrink(len(body))
	outbox := h.app.mailer.Outbox != nil
	request, err := parseEmail(body, outbox)
	if err != nil {
		return err
	}
	if !outbox && r.Header.Get("Idempotency-Key") != "" {
		request.warn("Idempotency-Key has no effect without an outbox: a repeated request sends again")
	}
	ctx := r.Context()
	var prefer preferences
	var options mailer.Options
	if outbox {
		prefer = readPreferences(r.Header)
		options.Async, options.Wait, options.At = prefer.async(), prefer.patience(), request.at
		if err := makeIdempotent(&options, r.Header, c.key.tenant, request); err != nil {
			return err
		}
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sendTimeout)
		defer cancel()
	}
	s, err := newSubmission(request.message, c)
	if err != nil {
		return err
	}
	s.Caller.Addr, s.Caller.Request, s.Options = parseClient(clientIP(r)), requestID(r), options
	id, messageID := s.ID, s.MessageID
	room.untilAccepted(id)
	request.message = nil // nobody but the mailer has the content, so it goes when it is stored
	receipt, err := h.app.mailer.Send(ctx, s)
	if err != nil {
		p := toProblem(err)
		switch {
		case receipt.Replayed: // that one was accepted
			w.Header().Set("Idempotent-Replayed", "true")
			p.id, p.messageID = receipt.ID, receipt.MessageID
		case p.status != http.StatusConflict:
			p.id, p.messageID = id, messageID
		}
		return p
	}
	status := prefer.apply(w.Header(), receipt)
	if receipt.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	writeJSON(w, "application/json", status, newSent(receipt, request, languageOf(r)))
	return nil
}

// checkEmailHeaders refuses a body that is not understood before it is read.
func checkEmailHeaders(h http.Header) error {
	if media, _, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || media != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, nameValidation, "media_type",
			"The body must be JSON, with the header Content-Type: application/json.")
	}
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return refuse(http.StatusUnsupportedMediaType, nameValidation, "content_encoding",
			"The body must not be compressed.")
	}
	_, err := idempotencyKey(h)
	return err
}

// newSubmission accepts a message: it gets its id and its date.
func newSubmission(m *mailer.Message, c caller) (mailer.Submission, error) {
	if m.From.IsZero() {
		m.From = c.tenant.from
	}
	if m.From.IsZero() {
		return mailer.Submission{}, missing("from")
	}
	id := mailer.NewID()
	m.Date = time.Now().UTC()
	if !m.HasHeader("Message-ID") {
		m.MessageID = mailer.NewMessageID(id, m.From)
	}
	content, err := m.Compose()
	if err != nil {
		return mailer.Submission{}, err
	}
	return mailer.Submission{
		ID:        id,
		MessageID: m.MessageID,
		Tenant:    c.key.tenant,
		Caller:    mailer.Caller{Kind: "key", Name: c.key.name},
		From:      m.From,
		Envelope:  m.Envelope(),
		Content:   content,
	}, nil
}

// readBody reads a body within its limits.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		return body, nil
	}
	var tooLarge *http.MaxBytesError
	var fromHandler caddyhttp.HandlerError
	if errors.As(err, &tooLarge) || errors.As(err, &fromHandler) && fromHandler.StatusCode == http.StatusRequestEntityTooLarge {
		return nil, errTooLarge()
	}
	return nil, refuse(http.StatusBadRequest, nameValidation, "body",
		"The request ended before its body was complete, or took too long.")
}

func errTooLarge() error {
	return refuse(http.StatusRequestEntityTooLarge, nameValidation, "too_large",
		"The request is too large; with attachments it may have 36 MiB.")
}
