package caddymodule

import (
	"context"
	"crypto/sha256"
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
	// sendTimeout bounds a send up to the point where the content is on its way.
	// Clients give up after a minute.
	sendTimeout = 45 * time.Second
)

// sendRoutes are the calls of the send route.
var sendRoutes = routes[func(*Handler, http.ResponseWriter, *http.Request, *apiKey) error]{
	{http.MethodPost, "/emails", (*Handler).postEmail},
}

// serveSend serves the send route. Its answers have the shape that Resend's SDKs
// read.
func (h *Handler) serveSend(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	cleaned := cleanPath(r)
	handle, _, allowed := sendRoutes.find(r.Method, cleaned)
	if handle == nil && allowed == nil {
		notFound := func(w http.ResponseWriter, r *http.Request) {
			writeProblem(w, r, &problem{
				status: http.StatusNotFound, name: nameNotFound,
				message: "There is no such call here. This server knows POST /emails.",
			})
		}
		if strings.HasPrefix(cleaned, "/emails/") {
			notFound(w, r)
			return nil
		}
		return passOn(w, r, next, notFound)
	}
	if handle == nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, r, &problem{
			status: http.StatusMethodNotAllowed, name: nameMethodNotAllowed,
			message: "This call wants " + strings.Join(allowed, " or ") + ".",
		})
		return nil
	}
	key, err := h.authenticate(r)
	if err == nil {
		err = handle(h, w, r, key)
	}
	if err != nil {
		p := toProblem(err)
		if p.status == http.StatusInternalServerError {
			h.logger.Error("a request to send failed in this server", "error", err)
		}
		writeProblem(w, r, p)
	}
	return nil
}

// authenticate finds the key that a request carries.
func (h *Handler) authenticate(r *http.Request) (*apiKey, error) {
	secret := ""
	if scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		secret = strings.TrimSpace(rest)
	} else if _, password, ok := r.BasicAuth(); ok {
		secret = password
	}
	if secret == "" {
		return nil, &problem{
			status: http.StatusUnauthorized, name: nameMissingKey,
			message: "Send the API key in the header: Authorization: Bearer <key>.",
		}
	}
	// A lookup by hash takes the same time for keys that are nearly right.
	key := h.app.registry.load().keys[sha256.Sum256([]byte(secret))]
	if key == nil {
		return nil, h.wrongKey(r)
	}
	return key, nil
}

// wrongKey counts a wrong key against the client's address. Right ones from
// there still pass: behind one address there may be many programs.
func (h *Handler) wrongKey(r *http.Request) error {
	if wait, slowed := h.app.guard.wrong(parseClient(clientIP(r))); slowed {
		return &problem{
			status: http.StatusTooManyRequests, name: nameRateLimit, retryAfter: wait,
			message: "Too many wrong API keys came from this address. Correct the key, then wait a little.",
		}
	}
	h.logger.Warn("wrong API key", "remote_ip", clientIP(r))
	return &problem{
		status: http.StatusForbidden, name: nameInvalidKey,
		message: "The API key is not known here. Ask the operator of this server for a valid one.",
	}
}

// sent is the answer to a message that was sent.
type sent struct {
	ID        string     `json:"id"`
	MessageID string     `json:"message_id"`
	Status    string     `json:"status"`
	Rejected  []rejected `json:"rejected,omitempty"`
	Warnings  []string   `json:"warnings,omitempty"`
}

// rejected is a recipient that the mail server refused while it took others.
type rejected struct {
	Address string     `json:"address"`
	SMTP    *smtpReply `json:"smtp"`
}

// postEmail sends one message.
func (h *Handler) postEmail(w http.ResponseWriter, r *http.Request, key *apiKey) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return &problem{
			status: http.StatusUnsupportedMediaType, name: nameValidation, code: "media_type",
			message: "The body must be JSON, with the header Content-Type: application/json.",
		}
	}
	if n := len(r.Header.Get("Idempotency-Key")); r.Header.Values("Idempotency-Key") != nil && (n < 1 || n > 256) {
		return &problem{
			status: http.StatusBadRequest, name: nameInvalidIdempotencyKey,
			message: "An Idempotency-Key has 1 to 256 characters.",
		}
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	request, err := parseEmail(body)
	if err != nil {
		return err
	}
	if r.Header.Get("Idempotency-Key") != "" {
		request.warnings = append(request.warnings, "Idempotency-Key has no effect without an outbox: a repeated request sends again")
	}
	t := h.app.registry.load().tenants[key.tenant]
	m := request.message
	if m.From.IsZero() {
		m.From = t.from
	}
	if m.From.IsZero() {
		return missing("from")
	}
	id := mailer.NewID()
	m.Date = time.Now()
	if m.MessageID == "" {
		m.MessageID = mailer.NewMessageID(id, m.From)
	}
	content, err := m.Compose()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), sendTimeout)
	defer cancel()
	receipt, err := h.app.mailer.Send(ctx, mailer.Submission{
		ID:        id,
		MessageID: m.MessageID,
		Tenant:    key.tenant,
		Caller:    mailer.Caller{Kind: "key", Name: key.name, Addr: parseClient(clientIP(r))},
		From:      m.From,
		Envelope:  m.Envelope(),
		Content:   content,
	})
	if err != nil {
		return err
	}
	answer := sent{ID: receipt.ID, MessageID: receipt.MessageID, Status: string(receipt.Status), Warnings: request.warnings}
	for _, o := range receipt.Recipients {
		if o.Kind != mailer.KindNone {
			answer.Rejected = append(answer.Rejected, rejected{Address: o.Address.Mailbox(), SMTP: newSMTPReply(mailer.StageRcpt, o.Reply)})
		}
	}
	writeJSON(w, "application/json", http.StatusOK, answer)
	return nil
}

// readBody reads a body within its limits.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// Not every writer has deadlines; a server's own then hold alone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		return body, nil
	}
	var tooLarge *http.MaxBytesError
	var fromHandler caddyhttp.HandlerError
	if errors.As(err, &tooLarge) || errors.As(err, &fromHandler) && fromHandler.StatusCode == http.StatusRequestEntityTooLarge {
		return nil, &problem{
			status: http.StatusRequestEntityTooLarge, name: nameValidation, code: "too_large",
			message: "The request is too large; with attachments it may have 36 MiB.",
		}
	}
	return nil, &problem{
		status: http.StatusBadRequest, name: nameValidation, code: "body",
		message: "The request ended before its body was complete, or took too long.",
	}
}
