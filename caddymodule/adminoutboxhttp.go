package caddymodule

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// outboxRoutes are the calls of the administration that are about the outbox.
var outboxRoutes = routes[*adminCall]{
	{http.MethodGet, "/outbox", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		v, err := a.outbox(r.Context(), languageOf(r.Request))
		return http.StatusOK, v, err
	}}},
	{http.MethodGet, "/outbox/messages", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		f, err := readFilter(r)
		if err != nil {
			return 0, nil, err
		}
		v, err := a.messages(r.Context(), f, languageOf(r.Request))
		return http.StatusOK, v, err
	}}},
	{http.MethodGet, "/outbox/messages/{id}", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		v, err := a.message(r.Context(), r.id, languageOf(r.Request))
		return http.StatusOK, v, err
	}}},
	{http.MethodGet, "/outbox/messages/{id}/eml", &adminCall{"admin", func(a admin, r *adminRequest) (int, any, error) {
		content, release, err := a.content(r.Context(), r.id, r.by)
		return http.StatusOK, eml{r.id, content, release}, err
	}}},
	{http.MethodPost, "/outbox/messages/{id}/retry", &adminCall{"operator", serveOperation("retry", retry)}},
	{http.MethodPost, "/outbox/messages/{id}/cancel", &adminCall{"operator", serveOperation("cancel", (*outbox.Outbox).Cancel)}},
	{http.MethodDelete, "/outbox/messages/{id}", &adminCall{"operator", func(a admin, r *adminRequest) (int, any, error) {
		if err := r.settings(nil); err != nil {
			return 0, nil, err
		}
		return http.StatusOK, map[string]any{"id": r.id, "dropped": true}, a.drop(r.Context(), r.id, r.by)
	}}},
	{http.MethodPost, "/outbox/tenants/{tenant}/pause", &adminCall{"operator", func(a admin, r *adminRequest) (int, any, error) {
		if err := r.settings(nil); err != nil {
			return 0, nil, err
		}
		v, err := a.pause(r.Context(), r.tenant, r.by, languageOf(r.Request))
		return http.StatusOK, v, err
	}}},
	{http.MethodPost, "/outbox/tenants/{tenant}/resume", &adminCall{"operator", func(a admin, r *adminRequest) (int, any, error) {
		if err := r.settings(nil); err != nil {
			return 0, nil, err
		}
		v, err := a.resume(r.Context(), r.tenant, r.by, languageOf(r.Request))
		return http.StatusOK, v, err
	}}},
}

func serveOperation(name string, do operation) func(admin, *adminRequest) (int, any, error) {
	return func(a admin, r *adminRequest) (int, any, error) {
		if err := r.settings(nil); err != nil {
			return 0, nil, err
		}
		v, err := a.operate(r.Context(), name, do, r.id, r.by, languageOf(r.Request))
		return http.StatusOK, v, err
	}
}

// maxPage is the most messages in one answer.
const maxPage = 1000

var messageStates = []outbox.State{
	outbox.StateScheduled, outbox.StateQueued, outbox.StateSending, outbox.StateHeld,
	outbox.StateSent, outbox.StateFailed, outbox.StateCanceled,
}

// readFilter reads which messages are asked for.
func readFilter(r *adminRequest) (outbox.Filter, error) {
	q := r.URL.Query()
	for name := range q {
		if !slices.Contains([]string{"tenant", "state", "before", "limit"}, name) {
			return outbox.Filter{}, invalid(name, "unsupported", "this call does not know it")
		}
	}
	f := outbox.Filter{Tenant: q.Get("tenant"), State: outbox.State(q.Get("state")), Before: q.Get("before")}
	if f.State != "" && !slices.Contains(messageStates, f.State) {
		names := make([]string, len(messageStates))
		for i, state := range messageStates {
			names[i] = string(state)
		}
		return f, invalid("state", "unsupported", "must be one of %s", strings.Join(names, ", "))
	}
	if limit := q.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 1 || n > maxPage {
			return f, invalid("limit", "unsupported", "must be a number from 1 to %d", maxPage)
		}
		f.Limit = n
	}
	return f, nil
}

// eml is an answer that is a message.
type eml struct {
	id      string
	content mailer.Content
	release func()
}

// writeEML answers with a message for a mail program. No browser may take what a
// stranger wrote for a page of this site.
func writeEML(w http.ResponseWriter, m eml) {
	defer m.release()
	h := w.Header()
	h.Set("Content-Type", "message/rfc822")
	h.Set("Content-Disposition", `attachment; filename="`+m.id+`.eml"`)
	h.Set("Content-Length", strconv.FormatInt(m.content.Size(), 10))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(http.StatusOK)
	_, _ = m.content.WriteTo(w) // whoever went away needs it no more
}
