package caddymodule

import (
	"cmp"
	"crypto/sha256"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// caller is who calls the send route.
type caller struct {
	key *apiKey
	// tenant is the one that messages go by; nil where their senders decide.
	tenant *tenant
	// within is set where the request names the tenant.
	within   bool
	snapshot *snapshot
	// request is the id of the call, and id that of the message in its path; empty for
	// none.
	request, id string
}

// callerKey is the kind of callers who come by the send route.
const callerKey = "key"

// defaultTenant serves tenants that a request names and that have no settings.
const defaultTenant = "default"

// authenticate finds out who calls, by a key or as a user of Caddy's authentication,
// and by which tenant. Named is the tenant in the path; empty for none.
func (h *Handler) authenticate(r *http.Request, named string) (caller, error) {
	s := h.app.snapshot(r.Context())
	key, err := h.findKey(s, r)
	if err != nil {
		return caller{}, err
	}
	if err := key.usable(r); err != nil {
		h.logger.Warn("an API key was refused", "key", key.name, "reason", err.code, "remote_ip", clientIP(r))
		return caller{}, err
	}
	key.use.used()
	c := caller{key: key, snapshot: s}
	return c, c.choose(named, h.siteTenant(r), r.Header.Get("X-Mail-Tenant"))
}

// findKey finds the key of a request.
func (h *Handler) findKey(s *snapshot, r *http.Request) (*apiKey, error) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	secret = strings.TrimSpace(secret)
	bearer := strings.EqualFold(scheme, "Bearer") && secret != ""
	if user := h.login(r); user != "" && !bearer {
		if key := s.logins[user]; key != nil {
			return key, nil
		}
		h.logger.Warn("a user without a key block was refused", "user", user, "remote_ip", clientIP(r))
		return nil, refuse(http.StatusForbidden, nameInvalidKey, "",
			"This user may not send here. Ask the operator of this server for a key, or to let the user in.")
	}
	if !bearer {
		_, secret, _ = r.BasicAuth()
	}
	switch {
	case secret == "" && h.AllowUnauthenticated && s.anyone != nil:
		return s.anyone, nil
	case secret == "":
		return nil, refuse(http.StatusUnauthorized, nameMissingKey, "",
			"Send the API key in the header: Authorization: Bearer <key>.")
	}
	// A lookup by hash takes the same time for keys that are nearly right.
	if key := s.keys[sha256.Sum256([]byte(secret))]; key != nil {
		return key, nil
	}
	return nil, h.wrongKey(r)
}

// login is the user whom Caddy has authenticated; empty for none, and where the
// handler does not ask.
func (h *Handler) login(r *http.Request) string {
	if h.User == "" {
		return ""
	}
	return replaced(r, h.User)
}

// siteTenant is the tenant that the site says; empty for none.
func (h *Handler) siteTenant(r *http.Request) string {
	if h.Tenant == "" {
		return ""
	}
	return replaced(r, h.Tenant)
}

// replaced expands a text of the configuration for a request. What comes of it is not
// expanded again.
func replaced(r *http.Request, text string) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	return repl.ReplaceAll(text, "")
}

// usable reports why a key may not be used by a request.
func (k *apiKey) usable(r *http.Request) *problem {
	switch {
	case k.ended(time.Now()):
		return refuse(http.StatusForbidden, nameInvalidKey, "expired_key",
			"The API key has expired. Ask the operator of this server for a new one.")
	case len(k.networks) > 0 && !inAny(k.networks, parseClient(clientIP(r))):
		return restricted("network", "This API key may not be used from your address. Ask the operator of this server to allow it.")
	}
	return nil
}

// restricted refuses what a key may not do.
func restricted(code, message string) *problem {
	return refuse(http.StatusUnauthorized, nameRestrictedKey, code, message)
}

// want reports whether the key has a scope.
func (c caller) want(scope string) error {
	if c.key.may(scope) {
		return nil
	}
	return restricted("scope", "This API key has not the scope `"+scope+"`. Use another one, or ask the operator of this server for it.")
}

// choose finds the tenant that a request names, by its path, its site or its header:
// the first of them counts. All of them must be the key's own. Whether there is a
// tenant of a name is not told to others.
func (c *caller) choose(names ...string) error {
	foreign := func() error {
		return restricted("tenant", "This API key may not use that tenant. Use another key, or ask the operator of this server to allow it.")
	}
	for _, name := range names {
		if name != "" && (!c.key.owns(name) || !namePattern.MatchString(name)) {
			return foreign()
		}
	}
	name := cmp.Or(names...)
	if name == "" {
		if len(c.key.tenants) == 0 {
			c.tenant = c.snapshot.tenants[c.key.tenant]
		}
		return nil
	}
	c.within = true
	c.tenant = c.snapshot.tenants[name]
	if c.tenant == nil {
		c.tenant = c.snapshot.tenants[defaultTenant]
	}
	if c.tenant == nil {
		return foreign()
	}
	return nil
}

// permit finds the tenant that a message goes by, gives it its sender where it has
// none, and holds it to the rules of the key.
func (c caller) permit(r *emailRequest) (caller, error) {
	from := r.from()
	if c.tenant == nil {
		if t := c.snapshot.domains[strings.ToLower(from.Domain)]; t != nil && c.key.owns(t.name) {
			c.tenant = t
		} else if c.tenant = c.snapshot.tenants[c.key.tenant]; c.tenant == nil {
			return c, refuse(http.StatusUnprocessableEntity, nameMissingField, "missing_tenant",
				"This API key may use several tenants, and the request names none. Name one in the header: X-Mail-Tenant: <tenant>.")
		}
	}
	if from.IsZero() {
		*from = c.tenant.from
	}
	if from.IsZero() {
		return c, missing("from")
	}
	if s := c.key.senders; s != nil {
		for _, a := range r.senders() {
			if !s.Allows(a) {
				return c, &problem{
					status: http.StatusForbidden, name: nameValidation, code: "sender_not_allowed", field: "from",
					message: "This API key may not send from " + a.Mailbox() + ". Use an allowed sender, or have the operator add it to the key's `senders`.",
				}
			}
		}
	}
	if s := c.key.recipients; s != nil {
		for _, a := range r.recipients() {
			if !s.Allows(a) {
				return c, recipientNotAllowed(a.Mailbox(), "key")
			}
		}
	}
	return c, nil
}

// usual is the sender of messages that have none, where that is known before who sends
// them.
func (c caller) usual() mailer.Address {
	t := c.tenant
	if t == nil {
		t = c.snapshot.tenants[c.key.tenant]
	}
	if t == nil {
		return mailer.Address{}
	}
	return t.from
}

// named is the tenant that an answer names; empty where the key has one only.
func (c caller) named() string {
	if len(c.key.tenants) == 0 {
		return ""
	}
	return c.tenant.name
}

// recipientNotAllowed refuses a recipient by the rules of a key or a tenant.
func recipientNotAllowed(address, whose string) *problem {
	return &problem{
		status: http.StatusForbidden, name: nameValidation, code: "recipient_not_allowed", field: "to",
		message: "Mail to " + address + " is not allowed here. Leave the recipient out, or have the operator add it to the " + whose + "'s `allowed_recipients`.",
	}
}

// spend counts n messages against the rate of the key, and tells in the header, if there
// is one, what is left of it. Where that does not suffice, none is counted, and none may be sent.
func (c caller) spend(h http.Header, n int) error {
	left, ok := c.key.use.take(n, c.key.rate, c.key.window)
	left.tell(h)
	if ok {
		return nil
	}
	p := refuse(http.StatusTooManyRequests, nameRateLimit, "key_rate",
		"This API key has sent as many messages as it may for now. Nothing was sent; try again later.")
	p.retryAfter = left.reset
	if n > left.most {
		p.code, p.retryAfter = "batch_over_rate", 0
		p.message = "This API key may never send that many messages at a time. Send fewer in one request."
	}
	return p
}

// tell writes the header of an answer, in whole seconds.
func (a allowance) tell(h http.Header) {
	if a.most > 0 && h != nil {
		a.write(h)
	}
}

func (a allowance) write(h http.Header) {
	h.Set("Ratelimit-Limit", strconv.Itoa(a.most))
	h.Set("Ratelimit-Remaining", strconv.Itoa(a.left))
	h.Set("Ratelimit-Reset", strconv.Itoa(seconds(a.reset)))
}

// seconds rounds up.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
