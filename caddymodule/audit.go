package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// auditLog is the log of who has done what, apart from all others: `oauth_mail.audit`.
// Its lines are facts, without secrets; their message is the name of the fact. The zero
// value drops them.
type auditLog struct {
	logger *zap.Logger
	// recipients is one of auditPolicies.
	recipients string
}

// What is said of recipients besides their number.
const (
	auditFull   = "full"
	auditDomain = "domain"
	auditHash   = "hash"
	auditDrop   = "drop"
)

var auditPolicies = []string{auditFull, auditDomain, auditHash, auditDrop}

func (a *App) provisionAudit(logger *zap.Logger) error {
	if a.AuditRecipients == "" {
		a.AuditRecipients = auditDomain
	}
	if !slices.Contains(auditPolicies, a.AuditRecipients) {
		return fmt.Errorf("audit_recipients: %q must be one of %s", a.AuditRecipients, strings.Join(auditPolicies, ", "))
	}
	a.auditLog = auditLog{logger, a.AuditRecipients}
	return nil
}

// audit notes a fact.
func (a *App) audit(event string, about ...any) {
	if a.auditLog.logger != nil {
		a.auditLog.logger.Sugar().Infow(event, append([]any{"event", event}, about...)...)
	}
}

// pseudonym is what stands for an address in the audit log.
func (a *App) pseudonym(address mailer.Address) string {
	ring, err := a.keys()
	if err != nil {
		return ""
	}
	return ring.Pseudonym("audit", strings.ToLower(address.Mailbox()))
}

// auditNames are the facts that calls of the administration are; others are named after
// their paths.
var auditNames = map[string]string{
	"POST /accounts/{provider}/{user}/authorize":  "account.authorize_started",
	"POST /accounts/{provider}/{user}/complete":   "account.authorize_completed",
	"POST /accounts/{provider}/{user}/import":     "account.imported",
	"POST /accounts/{provider}/{user}/disconnect": "account.disconnected",
	"POST /accounts/{provider}/{user}/refresh":    "account.refreshed",
	"POST /providers":                      "provider.created",
	"PUT /providers/{provider}":            "provider.changed",
	"PATCH /providers/{provider}":          "provider.changed",
	"DELETE /providers/{provider}":         "provider.deleted",
	"POST /tenants":                        "tenant.created",
	"PUT /tenants/{tenant}":                "tenant.changed",
	"PATCH /tenants/{tenant}":              "tenant.changed",
	"DELETE /tenants/{tenant}":             "tenant.deleted",
	"POST /keys":                           "key.created",
	"PUT /keys/{key}":                      "key.changed",
	"PATCH /keys/{key}":                    "key.changed",
	"DELETE /keys/{key}":                   "key.deleted",
	"POST /settings":                       "settings.imported",
	"POST /settings/test":                  "test.settings",
	"POST /tenants/{tenant}/test":          "test.connection",
	"POST /tenants/{tenant}/mail":          "test.mail",
	"POST /tenants/{tenant}/send":          "operator.sent",
	"GET /outbox/messages/{id}/eml":        "outbox.message_read",
	"DELETE /outbox/messages/{id}":         "outbox.message_dropped",
	"POST /outbox/messages/{id}/retry":     "outbox.message_retried",
	"POST /outbox/messages/{id}/cancel":    "outbox.message_canceled",
	"POST /outbox/tenants/{tenant}/pause":  "outbox.paused",
	"POST /outbox/tenants/{tenant}/resume": "outbox.resumed",
}

// auditName is the fact that a call is; empty where nobody needs to know.
func auditName(call *adminCall) string {
	for _, r := range adminRoutes {
		if r.handle != call {
			continue
		}
		if name := auditNames[r.method+" "+r.pattern]; name != "" {
			return name
		}
		if r.method == http.MethodGet {
			return ""
		}
		var words []string
		for word := range strings.SplitSeq(r.pattern, "/") {
			if word != "" && word[0] != '{' {
				words = append(words, word)
			}
		}
		return "admin." + strings.Join(words, ".") + "." + strings.ToLower(r.method)
	}
	return ""
}

// auditCall notes a call of the administration, and how it ended.
func (a *App) auditCall(call *adminCall, r *adminRequest, status int, err error) {
	event := auditName(call)
	if event == "" || status == http.StatusAccepted && err == nil { // pending, and asked for again and again
		return
	}
	if status == http.StatusCreated && err == nil { // PUT may do both
		event = strings.Replace(event, ".changed", ".created", 1)
	}
	about := []any{"by", r.by, "outcome", "ok"}
	if err != nil {
		about[3] = "failed"
		reason := err.Error()
		if e, ok := errors.AsType[*adminError](err); ok && e.reason != "" {
			reason = e.reason
		} else if p, ok := errors.AsType[*problem](err); ok {
			reason = strings.Trim(p.name+" "+p.code, " ")
		}
		about = append(about, "reason", reason)
	}
	for _, named := range []struct{ word, value string }{
		{"provider", r.provider}, {"user", r.user}, {"tenant", r.tenant}, {"key", r.key}, {"id", r.id},
	} {
		if named.value != "" {
			about = append(about, named.word, named.value)
		}
	}
	about = append(about, r.about...)
	a.audit(event, append(about, "remote_ip", remoteIP(r.Request))...)
}

// auditDenied notes that somebody was turned away; role is what he would need.
func (a *App) auditDenied(r *http.Request, by, role string) {
	a.audit("admin.denied", "by", by, "needs", role, "method", r.Method, "uri", r.URL.Path, "remote_ip", remoteIP(r))
}
