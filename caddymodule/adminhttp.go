package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// maxAdminBody is the largest body of a call, in octets.
const maxAdminBody = 64 << 10

// roleRank orders the roles: a higher one may do what a lower one may.
var roleRank = map[string]int{"viewer": 1, "operator": 2, "admin": 3}

// anyUser stands for all users that are not named.
const anyUser = "*"

// adminCall is one call of the administration.
type adminCall struct {
	role  string
	serve func(a admin, r *adminRequest) (status int, answer any, err error)
}

// adminRequest is a request for a call of the administration.
type adminRequest struct {
	*http.Request
	// by is who is calling.
	by string
	// provider and user name an account, tenant a tenant, id a message and key an API
	// key, where the path does, or the call has found out.
	provider, user, tenant, id, key string
	body                            []byte
	// about is what the audit log tells besides.
	about []any
}

// settings reads the body, which may have the given fields and no others. An
// empty body has none.
func (r *adminRequest) settings(known fields) error {
	body := r.body
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if err := checkText(body); err != nil {
		return err
	}
	return decodeObject(body, "", known, func(path, _ string, _ json.RawMessage) error {
		return invalid(path, "unsupported", "this call does not know it")
	})
}

// adminRoutes are the calls of the administration.
var adminRoutes = slices.Concat(changeRoutes, settingsRoutes, outboxRoutes, healthRoutes, statusRoutes, mailRoutes)

// settingsRoutes are those about what is configured, and about sign-ins.
var settingsRoutes = routes[*adminCall]{
	{http.MethodGet, "/accounts/{provider}/{user}", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		v, err := a.account(r.Context(), r.provider, r.user)
		return http.StatusOK, v, err
	}}},
	{http.MethodGet, "/storage", &adminCall{"viewer", func(a admin, _ *adminRequest) (int, any, error) {
		return http.StatusOK, a.storage(), nil
	}}},
	{http.MethodGet, "/inventory", &adminCall{"viewer", func(a admin, _ *adminRequest) (int, any, error) {
		return http.StatusOK, map[string]any{"clients": a.inventory()}, nil
	}}},
	{http.MethodPost, "/tenants/{tenant}/test", &adminCall{"operator", serveTest}},
	{http.MethodPost, "/accounts/{provider}/{user}/authorize", &adminCall{"operator", func(a admin, r *adminRequest) (int, any, error) {
		flow := flowBrowser
		if err := r.settings(fields{"flow": decodeText(&flow)}); err != nil {
			return 0, nil, err
		}
		v, err := a.authorize(r.Context(), r.provider, r.user, flow, r.by)
		return http.StatusCreated, v, err
	}}},
	{http.MethodPost, "/accounts/{provider}/{user}/complete", &adminCall{"operator", func(a admin, r *adminRequest) (int, any, error) {
		var session, address string
		if err := r.settings(fields{"session": decodeText(&session), "url": decodeText(&address)}); err != nil {
			return 0, nil, err
		}
		if session == "" {
			return 0, nil, missing("session")
		}
		v, err := a.complete(r.Context(), r.provider, r.user, session, address)
		if v.Account == nil {
			return http.StatusAccepted, v, err
		}
		return http.StatusOK, v, err
	}}},
	{http.MethodPost, "/accounts/{provider}/{user}/import", &adminCall{"admin", func(a admin, r *adminRequest) (int, any, error) {
		var refreshToken string
		if err := r.settings(fields{"refresh_token": decodeText(&refreshToken)}); err != nil {
			return 0, nil, err
		}
		if refreshToken == "" {
			return 0, nil, missing("refresh_token")
		}
		v, err := a.importToken(r.Context(), r.provider, r.user, tokens.NewSecret(refreshToken), r.by)
		return http.StatusOK, v, err
	}}},
	{http.MethodPost, "/accounts/{provider}/{user}/disconnect", &adminCall{"operator", func(a admin, r *adminRequest) (int, any, error) {
		if err := r.settings(nil); err != nil {
			return 0, nil, err
		}
		v, err := a.disconnect(r.Context(), r.provider, r.user, r.by)
		return http.StatusOK, v, err
	}}},
	{http.MethodPost, "/accounts/{provider}/{user}/refresh", &adminCall{"operator", func(a admin, r *adminRequest) (int, any, error) {
		if err := r.settings(nil); err != nil {
			return 0, nil, err
		}
		v, err := a.refresh(r.Context(), r.provider, r.user)
		return http.StatusOK, v, err
	}}},
}

// serveAdmin serves the administration. Its errors are RFC 9457 problems.
func (h *Handler) serveAdmin(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	call, params, allowed := adminRoutes.find(r.Method, cleanPath(r))
	if call == nil && allowed == nil {
		return passOn(w, r, next, func(w http.ResponseWriter, r *http.Request) {
			adminProblem(w, r, http.StatusNotFound, "There is no such call here.", nil)
		})
	}
	by, rank, ok := h.who(r)
	if !ok {
		h.app.auditDenied(r, "", "")
		h.logger.Warn("administration refused: no user", "remote_ip", clientIP(r), "uri", r.URL.Path)
		adminProblem(w, r, http.StatusUnauthorized, "Nobody is signed in. Put an authentication directive, such as basic_auth, before oauth_mail admin.", nil)
		return nil
	}
	adminDoor{h.app, h.logger}.serve(w, r, call, params, allowed, by, rank)
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

// adminDoor is an entrance to the administration: a route of a site, or Caddy's own
// admin API. The calls are the same.
type adminDoor struct {
	app    *App
	logger *slog.Logger
}

// serve serves a call of somebody who is known; call is nil where the path knows other
// methods only.
func (d adminDoor) serve(w http.ResponseWriter, r *http.Request, call *adminCall, params map[string]string, allowed []string, by string, rank int) {
	if call == nil {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		adminProblem(w, r, http.StatusMethodNotAllowed, "This call wants "+strings.Join(allowed, " or ")+".", nil)
		return
	}
	if rank < roleRank[call.role] {
		d.app.auditDenied(r, by, call.role)
		adminProblem(w, r, http.StatusForbidden, "This needs the role "+call.role+", which "+by+" does not have.", nil)
		return
	}
	request := &adminRequest{Request: r, by: by, provider: params["provider"], user: params["user"], tenant: params["tenant"], id: params["id"], key: params["key"]}
	switch {
	case call == operatorSendCall:
		if !isMessage(w, r) {
			return
		}
	case r.Method != http.MethodGet && r.Method != http.MethodHead && !request.read(w, call.maxBody()):
		return
	}
	status, answer, err := call.serve(admin{d.app}, request)
	d.app.auditCall(call, request, status, err)
	if err != nil {
		d.failed(w, r, err)
		return
	}
	switch v := answer.(type) {
	case records:
		writeRecords(w, v)
	case eml:
		writeEML(w, v)
	default:
		if s, ok := answer.(interface{ tag() string }); ok && s.tag() != "" {
			w.Header().Set("ETag", s.tag())
		}
		writeJSON(w, "application/json", status, answer)
	}
}

// maxBody is the largest body of a call, in octets.
func (c *adminCall) maxBody() int64 {
	if c == importCall {
		return maxImport
	}
	return maxAdminBody
}

// read reads the body of a call that changes something, of at most so many octets. Where it must not be served,
// read answers and returns false.
func (r *adminRequest) read(w http.ResponseWriter, most int64) bool {
	if err := crossOrigin.Check(r.Request); err != nil {
		adminProblem(w, r.Request, http.StatusForbidden, "The request comes from another site's page and was refused.", nil)
		return false
	}
	// No HTML form can send this type, and a script of another site only
	// with a permission that is never given.
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		adminProblem(w, r.Request, http.StatusUnsupportedMediaType, "The body must be JSON, with the header Content-Type: application/json.", nil)
		return false
	}
	if r.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, most)); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			adminProblem(w, r.Request, http.StatusRequestEntityTooLarge, "The body is too large for this call.", nil)
			return false
		}
		adminProblem(w, r.Request, http.StatusBadRequest, "The body was cut.", nil)
		return false
	}
	return true
}

// failed answers with an error of a call.
func (d adminDoor) failed(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var more map[string]any
	if p, ok := errors.AsType[*problem](err); ok { // the body
		adminProblem(w, r, p.status, p.message, p.about(languageOf(r)))
		return
	}
	if e, ok := errors.AsType[*adminError](err); ok {
		switch e.kind {
		case adminNotFound:
			status = http.StatusNotFound
		case adminInvalid:
			status = http.StatusUnprocessableEntity
		case adminConflict:
			status = http.StatusConflict
		case adminGone:
			status = http.StatusGone
		case adminOutdated:
			status = http.StatusPreconditionFailed
		case adminUnconditional:
			status = http.StatusPreconditionRequired
		case adminUpstream:
			status = http.StatusBadGateway
		}
		if e.reason != "" {
			more = map[string]any{"reason": e.reason, "who": e.who, "do": e.do}
		}
	}
	if status >= 500 {
		d.logger.Error("an administration call failed", "uri", r.URL.Path, "error", err)
	}
	adminProblem(w, r, status, capitalized(err.Error())+".", more)
}

// adminProblem answers with an RFC 9457 problem, which may have more members.
func adminProblem(w http.ResponseWriter, r *http.Request, status int, detail string, more map[string]any) {
	body := map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail}
	maps.Copy(body, more)
	if id := requestID(r); id != "" {
		body["request_id"] = id
	}
	writeJSON(w, "application/problem+json", status, body)
}
