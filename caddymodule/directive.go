package caddymodule

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// parseDirective sets up the handler. Syntax:
//
//	oauth_mail [<matcher>] send|callback|admin|health {
//		user <placeholder>
//		tenant <name or placeholder>
//		role viewer|operator|admin <user>...
//		allow_unauthenticated
//	}
func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // directive name
	if !d.Args(&h.Endpoint) || d.NextArg() {
		return d.Err("wrong arguments: want oauth_mail [<matcher>] send|callback|admin|health")
	}
	if !slices.Contains(endpoints, h.Endpoint) {
		return d.Errf("unrecognized endpoint %s: must be one of %s", h.Endpoint, strings.Join(endpoints, ", "))
	}
	w := words{}
	switch h.Endpoint {
	case endpointSend:
		w = words{
			"user":                  single(text(&h.User)),
			"tenant":                single(text(&h.Tenant)),
			"allow_unauthenticated": single(toggle(&h.AllowUnauthenticated)),
		}
	case endpointAdmin:
		w = words{
			"user":                  single(text(&h.User)),
			"role":                  many(h.parseRole),
			"allow_unauthenticated": single(toggle(&h.AllowUnauthenticated)),
		}
	}
	return parseBlock(d, w)
}

func (h *Handler) parseRole(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("wrong arguments: want role viewer|operator|admin <user>...")
	}
	if h.Roles == nil {
		h.Roles = make(map[string]string)
	}
	if _, ok := roleRank[args[0]]; !ok {
		return d.Errf("unrecognized role %s: must be viewer, operator or admin", args[0])
	}
	for _, user := range args[1:] {
		if _, taken := h.Roles[user]; taken {
			return d.Errf("duplicate role of user '%s'", user)
		}
		h.Roles[user] = args[0]
	}
	return nil
}
