package caddymodule

import (
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

// adminAPI is the administration on Caddy's own admin API, for the command line. It
// keeps nothing: Caddy makes a new one before a configuration's apps, and leaves it
// when they fail.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.oauth_mail",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// adminAPIPath begins the paths of all calls there.
const adminAPIPath = "/oauth-mail"

// tokenFilePath tells where the management token lies: the command line asks.
const tokenFilePath = adminAPIPath + "/token-file"

// Routes returns the routes of the administration.
func (*adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminAPIPath + "/", Handler: caddy.AdminHandlerFunc(serveAdminAPI)}}
}

// serveAdminAPI serves the calls of [adminRoutes]. Whoever reaches Caddy's admin API
// may see what a viewer sees; more needs the management token.
func serveAdminAPI(w http.ResponseWriter, r *http.Request) error {
	v, err := caddy.ActiveContext().AppIfConfigured("oauth_mail")
	if err != nil {
		detail := "The configuration in force has no oauth_mail."
		if !errors.Is(err, caddy.ErrNotConfigured) {
			detail = capitalized(err.Error()) + "."
		}
		adminProblem(w, r, http.StatusServiceUnavailable, detail, nil)
		return nil
	}
	app := v.(*App)
	logger := app.logger.With(slog.String("door", "admin API"))
	if r.URL.Path == tokenFilePath {
		writeJSON(w, "application/json", http.StatusOK, map[string]string{"token_file": app.managementTokenFile()})
		return nil
	}
	call, params, allowed := adminRoutes.find(r.Method, path.Clean("/"+strings.TrimPrefix(r.URL.Path, adminAPIPath)))
	if call == nil && allowed == nil {
		adminProblem(w, r, http.StatusNotFound, "There is no such call here.", nil)
		return nil
	}
	rank := roleRank["viewer"]
	if call != nil && roleRank[call.role] > rank || r.Header.Get("Authorization") != "" {
		if err := app.checkManagementToken(r); err != nil {
			app.auditDenied(r, commandLineUser(r), "")
			logger.Warn("administration refused: no management token", "remote_ip", remoteIP(r), "uri", r.URL.Path, "error", err)
			w.Header().Set("WWW-Authenticate", `Bearer realm="oauth_mail"`)
			adminProblem(w, r, http.StatusUnauthorized, capitalized(err.Error())+".", map[string]any{"token_file": app.managementTokenFile()})
			return nil
		}
		rank = roleRank["admin"]
	}
	adminDoor{app, logger}.serve(w, r, call, params, allowed, commandLineUser(r), rank)
	return nil
}

// userHeader is how the command line says who runs it. Whoever has the token may say
// what he likes, but he who does his work honestly is found in the audit log.
const userHeader = "Oauth-Mail-User"

// commandLineUser names who is calling.
func commandLineUser(r *http.Request) string {
	name := strings.Map(func(c rune) rune {
		if c <= ' ' || c > '~' {
			return -1
		}
		return c
	}, r.Header.Get(userHeader))
	if name == "" || len(name) > 64 {
		return "admin API"
	}
	return name + " (command line)"
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
