package caddymodule

import (
	"crypto/sha256"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sendRoutes are the calls of the send route.
var sendRoutes = routes[func(*Handler, http.ResponseWriter, *http.Request, caller) error]{
	{http.MethodPost, "/emails", (*Handler).postEmail},
	{http.MethodPost, "/emails/batch", (*Handler).postBatch},
}

// serveSend serves the send route. Its answers have the shape that Resend's SDKs
// read.
func (h *Handler) serveSend(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	cleaned := cleanPath(r)
	handle, _, allowed := sendRoutes.find(r.Method, cleaned)
	if handle == nil && allowed == nil {
		notFound := func(w http.ResponseWriter, r *http.Request) {
			writeProblem(w, r, refuse(http.StatusNotFound, nameNotFound, "",
				"There is no such call here. This server knows POST /emails."))
		}
		if strings.HasPrefix(cleaned, "/emails/") {
			notFound(w, r)
			return nil
		}
		return passOn(w, r, next, notFound)
	}
	if handle == nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, r, refuse(http.StatusMethodNotAllowed, nameMethodNotAllowed, "",
			"This call wants "+strings.Join(allowed, " or ")+"."))
		return nil
	}
	c, err := h.authenticate(r)
	if err == nil {
		err = handle(h, w, r, c)
	}
	if err != nil {
		p := toProblem(err)
		if p.status == http.StatusInternalServerError {
			h.logger.Error("a request to send failed in this server", "request_id", requestID(r), "id", p.id, "error", err)
		}
		writeProblem(w, r, p)
	}
	return nil
}

// caller is who sends: a key, and the tenant that it sends with.
type caller struct {
	key    *apiKey
	tenant *tenant
}

// authenticate finds the key that a request carries.
func (h *Handler) authenticate(r *http.Request) (caller, error) {
	secret := ""
	if scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		secret = strings.TrimSpace(rest)
	} else if _, password, ok := r.BasicAuth(); ok {
		secret = password
	}
	if secret == "" {
		return caller{}, refuse(http.StatusUnauthorized, nameMissingKey, "",
			"Send the API key in the header: Authorization: Bearer <key>.")
	}
	// A lookup by hash takes the same time for keys that are nearly right.
	s := h.app.registry.load()
	key := s.keys[sha256.Sum256([]byte(secret))]
	if key == nil {
		return caller{}, h.wrongKey(r)
	}
	return caller{key, s.tenants[key.tenant]}, nil
}

// wrongKey counts a wrong key against the client's address. Right ones from
// there still pass: behind one address there may be many programs.
func (h *Handler) wrongKey(r *http.Request) error {
	h.logger.Warn("wrong API key", "remote_ip", clientIP(r))
	if wait, slowed := h.app.guard.wrong(r.Context(), parseClient(clientIP(r))); slowed {
		p := refuse(http.StatusTooManyRequests, nameRateLimit, "",
			"Too many wrong API keys came from this address. Correct the key, then wait a little.")
		p.retryAfter = wait
		return p
	}
	return refuse(http.StatusForbidden, nameInvalidKey, "",
		"The API key is not known here. Ask the operator of this server for a valid one.")
}
