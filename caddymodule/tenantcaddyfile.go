package caddymodule

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func parseTenant(d *caddyfile.Dispenser, t *Tenant) error {
	return parseBlock(d, words{
		"server":             single(text(&t.Server)),
		"auth":               single(t.Auth.unmarshal),
		"user":               single(text(&t.User)),
		"from":               single(t.parseFrom),
		"senders":            single(list(&t.Senders)),
		"connections":        single(number(&t.Connections)),
		"rate":               single(t.Rate.unmarshal),
		"recipients_per_day": single(number(&t.RecipientsPerDay)),
		"max_age":            single(duration(&t.MaxAge)),
		"max_idle":           single(duration(&t.MaxIdle)),
		"max_messages":       single(number(&t.MaxMessages)),
		"allowed_recipients": single(list(&t.AllowedRecipients)),
		"domains":            single(list(&t.Domains)),
		"warm":               single(toggle(&t.Warm)),
		"recipients":         single(choice(&t.Recipients, recipientRules...)),
		"failover":           single(text(&t.Failover)),
		"deliver":            single(t.Deliver.unmarshal),
		"proxy":              single(text(&t.Proxy)),
		"ca_file":            single(text(&t.CAFile)),
		"lifetime":           single(duration(&t.Lifetime)),
		"on_unknown":         single(choice(&t.OnUnknown, unknownRules...)),
		"brake":              single(t.parseBrake),
		"volume_limit":       single(t.parseVolumeLimit),
		"volume_jump":        single(number(&t.VolumeJump)),
	})
}

// recipientRules are the words for what a refused recipient means.
var recipientRules = []string{"some", "all"}

func (r *Rate) unmarshal(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("wrong arguments: want rate <messages> <window>, such as rate 30 1m")
	}
	n, err := strconv.Atoi(args[0])
	window, werr := caddy.ParseDuration(args[1])
	if err != nil || n < 1 || werr != nil || window <= 0 {
		return d.Errf("bad rate value '%s %s': must be a whole number and a duration, both above zero, such as 30 1m", args[0], args[1])
	}
	r.Messages, r.Window = n, caddy.Duration(window)
	return nil
}

func (v *Deliver) unmarshal(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch {
	case len(args) == 1 && args[0] == "none":
		v.None = true
	case len(args) == 2 && args[0] == "to":
		v.To = args[1]
	default:
		return d.Err("wrong arguments: want deliver none, or deliver to <address>")
	}
	return nil
}

func (a *Auth) unmarshal(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	a.Method = args[0]
	const usage = "wrong arguments: want auth oauth <provider> [xoauth2|oauthbearer], auth password <username> <password>, or auth none"
	switch {
	case a.Method == "oauth" && (len(args) == 2 || len(args) == 3):
		a.Provider = args[1]
		if len(args) == 3 {
			a.Mechanism = strings.ToLower(args[2])
			if !slices.Contains(mechanisms, a.Mechanism) {
				return d.Errf("unrecognized mechanism %s: must be one of %s", args[2], strings.Join(mechanisms, ", "))
			}
		}
	case a.Method == "password" && len(args) == 3:
		a.Username, a.Password = args[1], args[2]
	case a.Method == "none" && len(args) == 1:
	case slices.Contains([]string{"oauth", "password", "none"}, a.Method):
		return d.Err(usage)
	default:
		return d.Errf("unrecognized auth method %s: must be oauth, password or none", a.Method)
	}
	return nil
}

// mechanisms are the words for SASL mechanisms that take a token.
var mechanisms = []string{"xoauth2", "oauthbearer"}

// parseFrom takes an address with or without a display name before it, as one
// argument or several.
func (t *Tenant) parseFrom(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	switch len(args) {
	case 1:
		t.From = args[0]
	case 2:
		name := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(args[0])
		t.From = `"` + name + `" <` + strings.Trim(args[1], "<>") + ">"
	default:
		return d.ArgErr()
	}
	return nil
}
