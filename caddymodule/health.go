package caddymodule

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// The states of health.
const (
	healthOK       = "ok"
	healthDegraded = "degraded" // mail flows, but something is not as it should be
	healthFailing  = "failing"  // mail does not flow
)

// healthView is how things stand.
type healthView struct {
	Status string `json:"status"`
	// Accepting: this instance takes messages. Load balancers ask for that alone.
	Accepting bool      `json:"accepting"`
	CheckedAt time.Time `json:"checked_at"`
	Troubles  []trouble `json:"troubles"`
}

// statusOf is what troubles amount to.
func statusOf(list []trouble) string {
	switch {
	case slices.ContainsFunc(list, func(t trouble) bool { return t.Failure }):
		return healthFailing
	case len(list) > 0:
		return healthDegraded
	}
	return healthOK
}

// health tells how all stands.
func (a *App) health(ctx context.Context, l diagnosis.Language) healthView {
	list := a.troubles(ctx, l)
	return healthView{statusOf(list), !slices.ContainsFunc(list, trouble.closes), time.Now().UTC(), list}
}

// closes reports whether no message can be taken for the trouble.
func (t trouble) closes() bool { return t.Kind == troubleOutbox }

// healthQuestion is what somebody wants to know: whether this instance takes messages,
// whether all mail flows, or whether that of one tenant does.
type healthQuestion struct{ tenant string }

const (
	anyMessage = ""  // does this instance take messages?
	allTenants = "*" // does all mail flow?
)

// answer returns the status and the view.
func (q healthQuestion) answer(a *App, v healthView) (int, healthView, error) {
	good := v.Accepting
	switch q.tenant {
	case anyMessage:
	case allTenants:
		good = v.Status != healthFailing
	default:
		t := a.registry.load().tenants[q.tenant]
		if t == nil {
			return 0, v, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no tenant %q", q.tenant)}
		}
		v.Troubles = indexTroubles(v.Troubles).of(t)
		v.Status = statusOf(v.Troubles)
		good = v.Status != healthFailing
	}
	if !good {
		return http.StatusServiceUnavailable, v, nil
	}
	return http.StatusOK, v, nil
}

func serveHealth(tenant func(*adminRequest) string) func(admin, *adminRequest) (int, any, error) {
	return func(a admin, r *adminRequest) (int, any, error) {
		return healthQuestion{tenant(r)}.answer(a.app, a.app.health(r.Context(), languageOf(r.Request)))
	}
}

// healthRoutes are the calls of the administration about health.
var healthRoutes = routes[*adminCall]{
	{http.MethodGet, "/health", &adminCall{"viewer", serveHealth(func(*adminRequest) string { return anyMessage })}},
	{http.MethodGet, "/health/all", &adminCall{"viewer", serveHealth(func(*adminRequest) string { return allTenants })}},
	{http.MethodGet, "/health/tenants/{tenant}", &adminCall{"viewer", serveHealth(func(r *adminRequest) string { return r.tenant })}},
}

// publicHealthRoutes are the same calls for probes, which do not sign in.
var publicHealthRoutes = routes[func(params map[string]string) healthQuestion]{
	{http.MethodGet, "/health", func(map[string]string) healthQuestion { return healthQuestion{anyMessage} }},
	{http.MethodGet, "/health/all", func(map[string]string) healthQuestion { return healthQuestion{allTenants} }},
	{http.MethodGet, "/health/tenants/{tenant}", func(p map[string]string) healthQuestion { return healthQuestion{p["tenant"]} }},
}

// publicHealth is what strangers may know: no names, no addresses, no words of servers.
type publicHealth struct {
	Status    string              `json:"status"`
	Accepting bool                `json:"accepting"`
	CheckedAt time.Time           `json:"checked_at"`
	Troubles  map[troubleKind]int `json:"troubles"`
}

// serveHealth serves probes of load balancers and of monitoring.
func (h *Handler) serveHealth(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	question, params, allowed := publicHealthRoutes.find(r.Method, cleanPath(r))
	switch {
	case question == nil && allowed == nil:
		return passOn(w, r, next, func(w http.ResponseWriter, r *http.Request) {
			adminProblem(w, r, http.StatusNotFound, "This server knows GET /health, /health/all and /health/tenants/<name> here.", nil)
		})
	case question == nil:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		adminProblem(w, r, http.StatusMethodNotAllowed, "This call wants GET.", nil)
		return nil
	}
	status, v, err := question(params).answer(h.app, h.app.recent.of(r.Context(), h.app))
	if err != nil {
		adminProblem(w, r, http.StatusNotFound, "There is no such tenant.", nil)
		return nil
	}
	seen := publicHealth{v.Status, v.Accepting, v.CheckedAt, map[troubleKind]int{}}
	for _, t := range v.Troubles {
		seen.Troubles[t.Kind]++
	}
	writeJSON(w, "application/json", status, seen)
	return nil
}

// recentHealth keeps a view for a moment, so that strangers cannot have this server look
// again and again. Its zero value is ready.
type recentHealth struct {
	mu   sync.Mutex
	view healthView
}

// recentFor is how old a view may be.
const recentFor = 2 * time.Second

func (c *recentHealth) of(ctx context.Context, a *App) healthView {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.view.CheckedAt) > recentFor {
		c.view = a.health(context.WithoutCancel(ctx), diagnosis.English)
	}
	return c.view
}

// statusView is the whole picture.
type statusView struct {
	healthView
	Tenants []tenantStatus `json:"tenants"`
}

// tenantStatus is a tenant in short.
type tenantStatus struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Server string `json:"server"`
	Auth   string `json:"auth"`
	// Account is the provider and the user, with OAuth.
	Account string `json:"account,omitempty"`
	// ExpiresAt is when the access token ends, which is refreshed before.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// Waiting is the number of its messages that wait, and Outbox their state as a whole,
	// as in [laneView]; empty without an outbox. Until and Failure are there where it is
	// not "open".
	Waiting  int                 `json:"waiting"`
	Outbox   string              `json:"outbox,omitempty"`
	Until    *time.Time          `json:"until,omitempty"`
	Failure  *messageFailureView `json:"failure,omitempty"`
	Troubles []trouble           `json:"troubles"`
}

// status tells all that the first look wants to know.
func (a admin) status(ctx context.Context, l diagnosis.Language) statusView {
	v := statusView{healthView: a.app.health(ctx, l), Tenants: []tenantStatus{}}
	s := a.app.registry.load()
	troubles, lanes := indexTroubles(v.Troubles), map[string]laneView{}
	if box, err := a.outbox(ctx, l); err == nil { // else it is among the troubles
		for _, lane := range box.Tenants {
			lanes[lane.Tenant] = lane
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.tenants)) {
		t := s.tenants[name]
		own, lane := troubles.of(t), lanes[name]
		line := tenantStatus{
			Name: name, Status: statusOf(own), Server: t.mail.Server.Host, Auth: t.auth.Method, Troubles: own,
			Waiting: waiting(outbox.TenantStats{Messages: lane.Messages}), Outbox: lane.State, Until: lane.Until, Failure: lane.Failure,
		}
		if t.source != nil {
			line.Account = t.account.Provider + "/" + t.account.User
			line.ExpiresAt = given(t.source.Status(ctx).Expiry)
		}
		v.Tenants = append(v.Tenants, line)
	}
	return v
}

// statusRoutes are the calls about all at once.
var statusRoutes = routes[*adminCall]{
	{http.MethodGet, "/status", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		return http.StatusOK, a.status(r.Context(), languageOf(r.Request)), nil
	}}},
}
