package caddymodule

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// roleRank orders the roles: a higher one may do what a lower one may.
var roleRank = map[string]int{"viewer": 1, "operator": 2, "admin": 3}

// anyUser stands for all users that are not named.
const anyUser = "*"

// adminCall is one call of the administration.
type adminCall struct {
	role  string
	serve func(a admin, r *http.Request, by string, params map[string]string) (status int, answer any, err error)
}

// adminRoutes are the calls of the administration.
var adminRoutes = routes[*adminCall]{
	{http.MethodGet, "/providers", &adminCall{"viewer", func(a admin, _ *http.Request, _ string, _ map[string]string) (int, any, error) {
		return http.StatusOK, map[string]any{"providers": a.providers()}, nil
	}}},
	{http.MethodGet, "/tenants", &adminCall{"viewer", func(a admin, r *http.Request, _ string, _ map[string]string) (int, any, error) {
		return http.StatusOK, map[string]any{"tenants": a.tenants(r.Context())}, nil
	}}},
	{http.MethodGet, "/accounts", &adminCall{"viewer", func(a admin, r *http.Request, _ string, _ map[string]string) (int, any, error) {
		return http.StatusOK, map[string]any{"accounts": a.accounts(r.Context())}, nil
	}}},
	{http.MethodGet, "/accounts/{provider}/{user}", &adminCall{"viewer", func(a admin, r *http.Request, _ string, p map[string]string) (int, any, error) {
		v, err := a.account(r.Context(), p["provider"], p["user"])
		return http.StatusOK, v, err
	}}},
	{http.MethodPost, "/accounts/{provider}/{user}/authorize", &adminCall{"operator", func(a admin, _ *http.Request, by string, p map[string]string) (int, any, error) {
		v, err := a.authorize(p["provider"], p["user"], by)
		return http.StatusCreated, v, err
	}}},
	{http.MethodPost, "/accounts/{provider}/{user}/disconnect", &adminCall{"operator", func(a admin, r *http.Request, by string, p map[string]string) (int, any, error) {
		v, err := a.disconnect(r.Context(), p["provider"], p["user"], by)
		return http.StatusOK, v, err
	}}},
	{http.MethodPost, "/accounts/{provider}/{user}/refresh", &adminCall{"operator", func(a admin, r *http.Request, _ string, p map[string]string) (int, any, error) {
		v, err := a.refresh(r.Context(), p["provider"], p["user"])
		return http.StatusOK, v, err
	}}},
}

// serveAdmin serves the administration. Its errors are RFC 9457 problems.
func (h *Handler) serveAdmin(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	call, params, allowed := adminRoutes.find(r.Method, cleanPath(r))
	if call == nil && allowed == nil {
		return passOn(w, r, next, func(w http.ResponseWriter, r *http.Request) {
			adminProblem(w, r, http.StatusNotFound, "There is no such call here.")
		})
	}
	by, rank, ok := h.who(r)
	if !ok {
		h.logger.Warn("administration refused: no user", "remote_ip", clientIP(r), "uri", r.URL.Path)
		adminProblem(w, r, http.StatusUnauthorized, "Nobody is signed in. Put an authentication directive, such as basic_auth, before oauth_mail admin.")
		return nil
	}
	if call == nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		adminProblem(w, r, http.StatusMethodNotAllowed, "This call wants "+strings.Join(allowed, " or ")+".")
		return nil
	}
	if rank < roleRank[call.role] {
		adminProblem(w, r, http.StatusForbidden, "This needs the role "+call.role+", which "+by+" does not have.")
		return nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if err := crossOrigin.Check(r); err != nil {
			adminProblem(w, r, http.StatusForbidden, "The request comes from another site's page and was refused.")
			return nil
		}
		// No HTML form can send this type, and a script of another site only
		// with a permission that is never given.
		if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
			adminProblem(w, r, http.StatusUnsupportedMediaType, "The body must be JSON, with the header Content-Type: application/json.")
			return nil
		}
		_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<16)) // these calls take no settings yet
	}
	status, answer, err := call.serve(admin{h.app}, r, by, params)
	if err != nil {
		h.adminFailed(w, r, err)
		return nil
	}
	writeJSON(w, "application/json", status, answer)
	return nil
}

// who returns who is calling and the rank of his role. ok is false where that
// is not known and must be.
func (h *Handler) who(r *http.Request) (user string, rank int, ok bool) {
	if repl, found := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); found {
		// The setting is the operator's; what replaces it is not expanded again.
		user = repl.ReplaceAll(h.User, "")
	}
	if user == "" {
		return "anybody", roleRank["admin"], h.AllowUnauthenticated
	}
	if len(h.Roles) == 0 {
		return user, roleRank["admin"], true
	}
	role, named := h.Roles[user]
	if !named {
		role = h.Roles[anyUser]
	}
	return user, roleRank[role], true
}

func (h *Handler) adminFailed(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	if e, ok := errors.AsType[*adminError](err); ok {
		switch e.kind {
		case adminNotFound:
			status = http.StatusNotFound
		case adminInvalid:
			status = http.StatusUnprocessableEntity
		case adminConflict:
			status = http.StatusConflict
		case adminUpstream:
			status = http.StatusBadGateway
		}
	}
	if status >= 500 {
		h.logger.Error("an administration call failed", "uri", r.URL.Path, "error", err)
	}
	adminProblem(w, r, status, capitalized(err.Error())+".")
}

// adminProblem answers with an RFC 9457 problem.
func adminProblem(w http.ResponseWriter, r *http.Request, status int, detail string) {
	body := map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail}
	if id := requestID(r); id != "" {
		body["request_id"] = id
	}
	writeJSON(w, "application/problem+json", status, body)
}
