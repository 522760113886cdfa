package caddymodule

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sendCall is a call of the send route, and the scope that it wants.
type sendCall struct {
	scope string
	serve func(*Handler, http.ResponseWriter, *http.Request, caller) error
}

// sendRoutes are the calls of the send route.
var sendRoutes = routes[*sendCall]{
	{http.MethodPost, "/emails", &sendCall{scopeSend, (*Handler).postEmail}},
	{http.MethodPost, "/emails/batch", &sendCall{scopeSend, (*Handler).postBatch}},
	{http.MethodGet, "/emails", &sendCall{scopeRead, (*Handler).listEmails}},
	{http.MethodGet, "/emails/{id}", &sendCall{scopeRead, (*Handler).getEmail}},
	{http.MethodPatch, "/emails/{id}", &sendCall{scopeRead, (*Handler).moveEmail}},
	{http.MethodPost, "/emails/{id}/cancel", &sendCall{scopeRead, (*Handler).cancelEmail}},
	{http.MethodGet, "/emails/{id}/attachments", &sendCall{scopeRead, (*Handler).listAttachments}},
}

// provisionSend checks who may send without a key.
func (h *Handler) provisionSend() error {
	anyone := h.app.registry.load().anyone != nil
	switch {
	case h.AllowUnauthenticated && !anyone:
		return errors.New("oauth_mail send: allow_unauthenticated needs a key with `unauthenticated` in the global option oauth_mail, which says what such requests may do")
	case h.AllowUnauthenticated:
		h.logger.Error("oauth_mail send is open to everybody who reaches it (allow_unauthenticated)")
	}
	h.serve = h.serveSend
	if h.User != "" {
		return h.checkUser()
	}
	return nil
}

// serveSend serves the send route. Its answers have the shape that Resend's SDKs
// read.
func (h *Handler) serveSend(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	request := requestID(r)
	if request != "" {
		w.Header()["X-Request-Id"] = []string{request} // Set would first have to spell it like that
	}
	named, cleaned := tenantPath(cleanPath(r))
	if cleaned == openAPIPath {
		serveOpenAPI(w, r)
		return nil
	}
	call, params, allowed := sendRoutes.find(r.Method, cleaned)
	if call == nil && allowed == nil {
		notFound := func(w http.ResponseWriter, r *http.Request) {
			writeProblem(w, r, refuse(http.StatusNotFound, nameNotFound, "",
				"There is no such call here. /openapi.json lists those of this server."))
		}
		if strings.HasPrefix(cleaned, "/emails/") || h.elsewhere(r, cleaned) {
			notFound(w, r)
			return nil
		}
		return passOn(w, r, next, notFound)
	}
	if call == nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, r, refuse(http.StatusMethodNotAllowed, nameMethodNotAllowed, "",
			"This call wants "+strings.Join(allowed, " or ")+"."))
		return nil
	}
	c, err := h.authenticate(r, named)
	if err == nil {
		left, _ := c.key.use.take(0, c.key.rate, c.key.window)
		left.tell(w.Header())
		c.request, c.id = request, params["id"]
		err = c.want(call.scope)
	}
	if err == nil {
		err = call.serve(h, w, r, c)
	}
	if err != nil {
		p := toProblem(err)
		if p.status == http.StatusInternalServerError {
			h.logger.Error("a request to send failed in this server", "request_id", request, "id", p.id, "error", err)
		}
		writeProblem(w, r, p)
	}
	return nil
}

// otherCalls are where Resend has calls that are not here.
var otherCalls = []string{
	"/api-keys", "/audiences", "/broadcasts", "/contact-properties", "/contacts", "/domains", "/events", "/logs", "/segments", "/templates", "/topics",
	"/webhooks",
}

// elsewhere reports whether a request with a key of this server wants a call of
// Resend's that is not here. The site may have a page of the same name for others.
func (h *Handler) elsewhere(r *http.Request, cleaned string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(cleaned, "/"), "/")
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return slices.Contains(otherCalls, "/"+first) && strings.EqualFold(scheme, "Bearer") &&
		h.app.registry.load().keys[sha256.Sum256([]byte(strings.TrimSpace(secret)))] != nil
}

// tenantPath takes the tenant that a path names, as in /t/kyoto/emails, out of it.
func tenantPath(cleaned string) (tenant, rest string) {
	if under, ok := strings.CutPrefix(cleaned, "/t/"); ok {
		name, rest, _ := strings.Cut(under, "/")
		if rest == "emails" || strings.HasPrefix(rest, "emails/") {
			return name, "/" + rest
		}
	}
	return "", cleaned
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
