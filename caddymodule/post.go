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

// noIdempotency is a warning.
const noIdempotency = "Idempotency-Key has no effect without an outbox: a repeated request sends again"

// postEmail sends one message.
func (h *Handler) postEmail(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := checkEmailHeaders(r.Header); err != nil {
		return err
	}
	body, room, err := h.body(w, r)
	if err != nil {
		return err
	}
	defer room.release()
	outbox := h.app.mailer.Outbox != nil
	request, err := parseEmail(body, outbox)
	if err != nil {
		return err
	}
	if !outbox && r.Header.Get("Idempotency-Key") != "" {
		request.warn(noIdempotency)
	}
	s, err := h.prepare(r, c, request)
	if err != nil {
		return err
	}
	prefer := readPreferences(r.Header)
	if outbox {
		s.Options.Async, s.Options.Wait = prefer.async(), prefer.patience()
		if err := makeIdempotent(&s.Options, r.Header, s.Tenant, request); err != nil {
			return err
		}
	}
	if err := c.spend(w.Header(), 1); err != nil {
		return err
	}
	room.untilAccepted(s.ID)
	return h.sendOne(w, r, request, s, prefer)
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
		ctx, cancel = context.WithTimeout(ctx, sendTimeout)
		defer cancel()
	}
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
	if status == http.StatusAccepted {
		w.Header().Set("Location", calledPath(r)+"/"+receipt.ID)
	}
	if receipt.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	writeJSON(w, "application/json", status, newSent(receipt, request, languageOf(r)))
	return nil
}

// body reads the body of a request. Room is given back when all that is made of it
// is gone.
func (h *Handler) body(w http.ResponseWriter, r *http.Request) ([]byte, *share, error) {
	// Not every writer has deadlines; a server's own then hold alone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	room, err := h.app.memory.acquire(r)
	if err != nil {
		return nil, nil, err
	}
	body, err := readBody(w, r)
	if err != nil {
		room.release()
		return nil, nil, err
	}
	room.shrink(len(body))
	return body, room, nil
}

// prepare makes what is to be sent of a request for one message.
func (h *Handler) prepare(r *http.Request, c caller, request *emailRequest) (mailer.Submission, error) {
	c, err := c.permit(request.message)
	if err != nil {
		return mailer.Submission{}, err
	}
	request.tenant = c.named()
	s, err := newSubmission(request.message, c)
	if err != nil {
		return s, err
	}
	s.Caller.Addr, s.Caller.Request, s.Caller.Trace = parseClient(clientIP(r)), requestID(r), traceID(r)
	s.Options.At = request.at
	return s, nil
}

// checkEmailHeaders refuses a body that is not understood before it is read.
func checkEmailHeaders(h http.Header) error {
	if mediaType(h) != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, nameValidation, "media_type",
			"The body must be JSON, with the header Content-Type: application/json.")
	}
	if err := checkEncoding(h); err != nil {
		return err
	}
	_, err := idempotencyKey(h)
	return err
}

func checkEncoding(h http.Header) error {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return refuse(http.StatusUnsupportedMediaType, nameValidation, "content_encoding",
			"The body must not be compressed.")
	}
	return nil
}

// mediaType is that of a request, in lower case and without parameters; empty where
// it is not known.
func mediaType(h http.Header) string {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return media
}

// newSubmission accepts a message: it gets its id and its date.
func newSubmission(m *mailer.Message, c caller) (mailer.Submission, error) {
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
		Tenant:    c.tenant.name,
		Caller:    mailer.Caller{Kind: callerKey, Name: c.key.name},
		From:      m.From,
		Envelope:  m.Envelope(),
		Content:   content,
		Summary:   m.Summary(),
	}, nil
}

// readBody reads a body within its limits.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, unreadable(err)
	}
	return body, nil
}

// unreadable is a body that could not be read.
func unreadable(err error) error {
	var tooLarge *http.MaxBytesError
	var fromHandler caddyhttp.HandlerError
	if errors.As(err, &tooLarge) || errors.As(err, &fromHandler) && fromHandler.StatusCode == http.StatusRequestEntityTooLarge {
		return errTooLarge()
	}
	return refuse(http.StatusBadRequest, nameValidation, "body",
		"The request ended before its body was complete, or took too long.")
}

func errTooLarge() error {
	return refuse(http.StatusRequestEntityTooLarge, nameValidation, "too_large",
		"The request is too large; with attachments it may have 36 MiB.")
}
