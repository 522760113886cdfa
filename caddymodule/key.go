package caddymodule

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

// Key lets a program use the send route, and says what it may do there.
type Key struct {
	// The key: at least 24 characters. Better `{file.*}` or `{env.*}` than the
	// key itself, which would show in the configuration; or its SHA-256:
	// `sha256:` and 64 hexadecimal digits.
	Key string `json:"key,omitempty"`

	// In place of a key: the user of this name whom Caddy has authenticated, where
	// the handler has `user`.
	User string `json:"user,omitempty"`

	// In place of a key: requests without one, where the handler has
	// `allow_unauthenticated`.
	Unauthenticated bool `json:"unauthenticated,omitempty"`

	// The tenant that messages go out with. With `tenants`: those of requests that
	// name none.
	Tenant string `json:"tenant,omitempty"`

	// The tenants that requests may name; `*` for all. Names that have no settings
	// go by the tenant `default` then, if there is one.
	Tenants []string `json:"tenants,omitempty"`

	// What it may do: `send`, and `read` what has become of the messages that it has
	// sent, which includes to reschedule and to cancel them. Default: both.
	Scopes []string `json:"scopes,omitempty"`

	// The allowed senders, beside those of the tenant: addresses, `*@domain`, or `*`
	// for any. Default: any.
	Senders []string `json:"senders,omitempty"`

	// The allowed recipients, as for `senders`, beside those of the tenant. Default:
	// any.
	AllowedRecipients []string `json:"allowed_recipients,omitempty"`

	// The most messages in a time, counted in a window that slides. Default: no
	// limit.
	Rate Rate `json:"rate,omitzero"`

	// The networks that it may be used from. Default: any.
	Networks []string `json:"networks,omitempty"`

	// The last day that it may be used, such as `2027-06-30`, or the time at which
	// it ends (RFC 3339). Default: none.
	Expires string `json:"expires,omitempty"`
}

// The scopes of keys.
const (
	scopeSend = "send"
	scopeRead = "read"
)

var keyScopes = []string{scopeSend, scopeRead}

// anyTenant stands for all tenants in Key.Tenants.
const anyTenant = "*"

// parseKey sets up a key.
func (a *App) parseKey(d *caddyfile.Dispenser) error {
	const usage = "wrong arguments: want key <name> <key> <tenant>, or a block that says more"
	if !d.NextArg() {
		return d.Err(usage)
	}
	name, line := d.Val(), d.RemainingArgs()
	if _, taken := a.Keys[name]; taken {
		return d.Errf("duplicate key '%s'", name)
	}
	k := new(Key)
	switch len(line) {
	case 2:
		k.Tenant = line[1]
		fallthrough
	case 1:
		k.Key = line[0]
	case 0:
	default:
		return d.Err(usage)
	}
	if a.Keys == nil {
		a.Keys = make(map[string]*Key)
	}
	a.Keys[name] = k
	return parseBlock(d, words{
		"user":               single(unsaid(k.Key == "", text(&k.User))),
		"unauthenticated":    single(unsaid(k.Key == "", toggle(&k.Unauthenticated))),
		"tenant":             single(unsaid(k.Tenant == "", text(&k.Tenant))),
		"tenants":            single(list(&k.Tenants)),
		"scopes":             single(list(&k.Scopes)),
		"senders":            single(list(&k.Senders)),
		"allowed_recipients": single(list(&k.AllowedRecipients)),
		"rate":               single(k.Rate.unmarshal),
		"networks":           single(list(&k.Networks)),
		"expires":            single(text(&k.Expires)),
	})
}

// unsaid is parse for a word in whose place something may stand in the line of its block.
func unsaid(unsaid bool, parse func(*caddyfile.Dispenser) error) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if !unsaid {
			return d.Errf("duplicate %s: the line above the block has it", d.Val())
		}
		return parse(d)
	}
}
