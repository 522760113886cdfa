package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// The endpoints of the handler.
const (
	endpointSend     = "send"
	endpointCallback = "callback"
	endpointAdmin    = "admin"
	endpointHealth   = "health"
)

var endpoints = []string{endpointSend, endpointCallback, endpointAdmin, endpointHealth}

// Handler is an entrance to the app `oauth_mail`: the send route, the pages
// and redirect URIs of sign-ins, or the administration.
//
// It serves the paths that it knows, relative to where it is mounted, and passes
// on all others.
type Handler struct {
	// What to serve: `send` (`POST /emails`), `callback` (everything under the
	// path of `redirect_base`), `admin` (`/providers`, `/accounts`,
	// `/tenants`) or `health` (`/health`, for probes, which do not sign in).
	Endpoint string `json:"endpoint,omitempty"`

	// Who is calling: one placeholder, such as `{http.auth.user.id}`, which
	// authentication handlers of Caddy set, and which is the default for `admin`. There
	// a call without a user is refused. For `send`, the keys with `user` say who may
	// send without a key; default: nobody.
	User string `json:"user,omitempty"`

	// The tenant that requests to this site name, for `send`, such as
	// `{http.request.host.labels.2}`. Their keys must allow it.
	Tenant string `json:"tenant,omitempty"`

	// What users may do, for `admin`: `viewer` sees, `operator` signs in and
	// out as well, `admin` does everything. The user `*` stands for all others.
	// Default: every user is `admin`. As soon as one user is named, others may
	// do nothing.
	Roles map[string]string `json:"roles,omitempty"`

	// Serve callers without a user or key. For `admin` everybody who reaches the route
	// is an administrator then; for `send` he sends by the key with
	// `unauthenticated`.
	AllowUnauthenticated bool `json:"allow_unauthenticated,omitempty"`

	app    *App
	logger *slog.Logger
	// serve is the endpoint.
	serve func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.oauth_mail",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Slogger()
	app, err := ctx.AppIfConfigured("oauth_mail")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return errors.New("the handler oauth_mail needs the global option oauth_mail with providers and tenants; there is none")
	}
	if err != nil {
		return err
	}
	h.app = app.(*App)
	switch h.Endpoint {
	case endpointSend:
		if len(h.app.Keys) == 0 {
			h.logger.Warn("oauth_mail send: no key is configured, so nobody can use it unless keys are made at run time; add `key <name> <key> <tenant>` to the global option oauth_mail")
		}
		if err := h.provisionSend(); err != nil {
			return err
		}
	case endpointCallback:
		if h.app.registry.load().redirectBase == nil {
			return errors.New("oauth_mail callback: set redirect_base in the global option oauth_mail, or leave this line out where no provider has people sign in")
		}
		h.serve = h.serveCallback
	case endpointAdmin:
		if h.User == "" {
			h.User = "{http.auth.user.id}"
		}
		if err := h.checkUser(); err != nil {
			return err
		}
		if h.AllowUnauthenticated && len(h.Roles) > 0 {
			return errors.New("oauth_mail admin: role and allow_unauthenticated contradict each other: whoever does not sign in would be an administrator")
		}
		for user, role := range h.Roles {
			if _, ok := roleRank[role]; !ok {
				return fmt.Errorf("oauth_mail admin: user %s has the unknown role %q", user, role)
			}
		}
		if h.AllowUnauthenticated {
			h.logger.Error("oauth_mail admin is open to everybody who reaches it (allow_unauthenticated)")
		}
		h.serve = h.serveAdmin
	case endpointHealth:
		h.serve = h.serveHealth
	default:
		return fmt.Errorf("oauth_mail: unknown endpoint %q", h.Endpoint)
	}
	return nil
}

// checkUser reports a user that is not one placeholder: any text around it would make
// a user out of nobody.
func (h *Handler) checkUser() error {
	if !onePlaceholder.MatchString(h.User) {
		return fmt.Errorf("oauth_mail %s: user %q must be one placeholder and nothing else, such as {http.auth.user.id}", h.Endpoint, h.User)
	}
	return nil
}

// ServeHTTP serves the endpoint.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	noted := noteAnswer(w)
	err := h.serve(noted, r, next)
	if noted.answered {
		requestsTotal.WithLabelValues(h.Endpoint, strconv.Itoa(noted.status)).Inc()
	}
	if w.Header().Get("Idempotent-Replayed") != "" {
		replaysTotal.Inc()
	}
	return err
}

// onePlaceholder is a placeholder and nothing else.
var onePlaceholder = regexp.MustCompile(`^\{[^{}\s]+\}$`)

// passOn hands a request for an unknown path to the next handler. If nothing
// answers there, it answers 404: Caddy's own answer would be an empty 200, which
// a program takes for success.
func passOn(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, notFound func(http.ResponseWriter, *http.Request)) error {
	noted := noteAnswer(w)
	if err := next.ServeHTTP(noted, r); err != nil {
		return err
	}
	if !noted.answered {
		notFound(w, r)
	}
	return nil
}

// answerNoter notes whether anything was answered, and with which status.
type answerNoter struct {
	caddyhttp.ResponseWriterWrapper
	answered bool
	status   int
}

func noteAnswer(w http.ResponseWriter) *answerNoter {
	return &answerNoter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, status: http.StatusOK}
}

func (n *answerNoter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		n.answered, n.status = true, status
	}
	n.ResponseWriterWrapper.WriteHeader(status)
}

func (n *answerNoter) Write(b []byte) (int, error) {
	n.answered = true
	return n.ResponseWriterWrapper.Write(b)
}

func (n *answerNoter) ReadFrom(r io.Reader) (int64, error) {
	n.answered = true
	return n.ResponseWriterWrapper.ReadFrom(r)
}

func (n *answerNoter) FlushError() error {
	n.answered = true
	return http.NewResponseController(n.ResponseWriter).Flush()
}

func (n *answerNoter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	n.answered = true
	return http.NewResponseController(n.ResponseWriter).Hijack()
}

// clientIP returns the client's address, seen through trusted proxies.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// traceID returns the id of the trace that a request belongs to: that of Caddy's
// tracing, else the client's (W3C Trace Context, section 3.2); empty for none.
func traceID(r *http.Request) string {
	id, _ := caddyhttp.GetVar(r.Context(), "trace_id").(string)
	if id != "" && traceParent.MatchString("00-"+id+"-0000000000000001-00") {
		return id
	}
	parent := r.Header.Get("Traceparent")
	if parent == "" { // as of most
		return ""
	}
	m := traceParent.FindStringSubmatch(parent)
	if m == nil || strings.Trim(m[1], "0") == "" || strings.Trim(m[2], "0") == "" {
		return ""
	}
	return m[1]
}

// traceParent is a parent of any version but ff; later ones may have more behind.
var traceParent = regexp.MustCompile(`^(?:[0-9a-e][0-9a-f]|f[0-9a-e])-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?$`)

// requestID returns Caddy's id of the request.
func requestID(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.request.uuid")
	return id
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
