package caddymodule

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("oauth_mail", parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("oauth_mail", parseDirective)
	// After everything that authenticates, before what answers for good.
	httpcaddyfile.RegisterDirectiveOrder("oauth_mail", httpcaddyfile.Before, "respond")
}

// parseGlobalOption sets up the app. Repeated blocks merge.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	a := new(App)
	if option, ok := existing.(httpcaddyfile.App); ok {
		if err := caddy.StrictUnmarshalJSON(option.Value, a); err != nil {
			return nil, d.Errf("merging with an earlier oauth_mail block: %v", err)
		}
	}
	if err := a.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "oauth_mail", Value: caddyconfig.JSON(a, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	oauth_mail {
//		redirect_base  <url>
//		encryption_key <key> [<older key>...]
//		refresh        auto|always|on_use
//		outbox         off
//		outbox         <engine> [...] { ... }
//		keep_sent      <duration>
//		keep_failed    <duration>
//		audit_recipients full|domain|hash|drop
//		max_body       <size>
//		max_in_flight  <size>
//		alert {
//			webhook <url> [<secret>]
//			mail    <tenant> <address>...
//			after   <duration>
//		}
//		provider <name> {
//			display_name           <text>
//			preset                 microsoft|microsoft-us-gov|microsoft-us-dod|microsoft-china|outlook|google|yahoo|aol|fastmail
//			directory              <id or domain>
//			grant                  authorization_code|client_credentials|service_account
//			issuer                 <url>
//			authorization_endpoint <url>
//			token_endpoint         <url>
//			revocation_endpoint    <url>
//			device_authorization_endpoint <url>
//			admin_consent_endpoint <url>
//			device_code
//			client_id              <id>
//			client_secret          <secret>
//			client_secret_expires  <yyyy-mm-dd>
//			client_certificate     <file>
//			federated_token        <file>
//			service_account        <file>
//			client_auth            basic|post
//			scopes                 <scope>...
//			prompt                 <value>
//			auth_param             <name> <value>
//			redirect_uri           <url>
//			servers                <host>...
//			rotation               strict|none
//			margin                 <duration>
//			refresh_rate           <refreshes per second>
//			proxy                  <url>
//			ca_file                <file>
//		}
//		tenant <name> {
//			server      [smtps://|plaintext://]<host>[:<port>]
//			auth        oauth <provider> [xoauth2|oauthbearer]
//			auth        password <username> <password>
//			auth        none
//			user        <address>
//			from        [<display name>] <address>
//			senders     <address>|*@<domain>|* ...
//			allowed_recipients <address>|*@<domain>|* ...
//			domains     <domain>...
//			connections <number>
//			rate        <messages> <window>
//			recipients_per_day <number>
//			max_age      <duration>
//			max_idle     <duration>
//			max_messages <number>
//			warm
//			recipients  some|all
//			failover    <tenant>
//			deliver     none
//			deliver     to <address>
//			proxy       <url>
//			ca_file     <file>
//			lifetime    <duration>
//			on_unknown  retry|hold
//			brake       <number>|off
//			volume_limit <messages> <window>
//			volume_jump  <factor>
//		}
//		key <name> <key> <tenant>
//		key <name> [<key> [<tenant>]] {
//			user               <name>
//			unauthenticated
//			tenant             <tenant>
//			tenants            <tenant>...|*
//			scopes             send|read...
//			senders            <address>|*@<domain>|* ...
//			allowed_recipients <address>|*@<domain>|* ...
//			rate               <messages> <window>
//			networks           <network>...
//			expires            <yyyy-mm-dd>|<RFC 3339 time>
//		}
//		smtp <address>... {
//			hostname       <name>
//			tls            [starttls|implicit|off] [automatic|internal]
//			tenant         <tenant>
//			sni            <name> <tenant>
//			plaintext_auth <network>...
//			user <name> [<password> [<tenant>]] {
//				password     <hash>|<password of 24 characters and more>
//				tenant       <tenant>
//				from         <address>
//				rewrite_from <address>
//				networks     <network>...
//			}
//			network [<tenant>] <network>... {
//				tenant       <tenant>
//				from         <address>
//				rewrite_from <address>
//			}
//			max_size       <size>
//			max_recipients <number>
//			connections    <number>
//			connections_per_address <number>
//			bare_lf        mend|refuse
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // option name
	if d.NextArg() {
		return d.ArgErr()
	}
	return parseBlock(d, words{
		"redirect_base":    single(unset(a.RedirectBase == "", text(&a.RedirectBase))),
		"encryption_key":   single(unset(len(a.EncryptionKeys) == 0, list(&a.EncryptionKeys))),
		"refresh":          single(unset(a.Refresh == "", choice(&a.Refresh, refreshPolicies...))),
		"outbox":           single(unset(len(a.OutboxRaw) == 0, a.parseOutbox)),
		"keep_sent":        single(unset(a.KeepSent == 0, duration(&a.KeepSent))),
		"keep_failed":      single(unset(a.KeepFailed == 0, duration(&a.KeepFailed))),
		"audit_recipients": single(unset(a.AuditRecipients == "", choice(&a.AuditRecipients, auditPolicies...))),
		"max_body":         single(unset(a.MaxBody == 0, size(&a.MaxBody))),
		"max_in_flight":    single(unset(a.MaxInFlight == 0, size(&a.MaxInFlight))),
		"alert":            single(unset(a.Alerts == nil, a.parseAlerts)),
		"provider":         many(named(&a.Providers, parseProvider)),
		"tenant":           many(named(&a.Tenants, parseTenant)),
		"key":              many(a.parseKey),
		"smtp":             many(a.parseSMTP),
	})
}

func parseProvider(d *caddyfile.Dispenser, p *Provider) error {
	return parseBlock(d, words{
		"display_name":                  single(text(&p.DisplayName)),
		"preset":                        single(text(&p.Preset)),
		"directory":                     single(text(&p.Directory)),
		"grant":                         single(choice(&p.Grant, "authorization_code", "client_credentials", "service_account")),
		"issuer":                        single(text(&p.Issuer)),
		"authorization_endpoint":        single(text(&p.AuthorizationEndpoint)),
		"token_endpoint":                single(text(&p.TokenEndpoint)),
		"revocation_endpoint":           single(text(&p.RevocationEndpoint)),
		"device_authorization_endpoint": single(text(&p.DeviceAuthorizationEndpoint)),
		"admin_consent_endpoint":        single(text(&p.AdminConsentEndpoint)),
		"device_code":                   single(toggle(&p.DeviceCode)),
		"client_id":                     single(text(&p.ClientID)),
		"client_secret":                 many(p.credential(func(c *Credential) *string { return &c.Secret })),
		"client_secret_expires":         many(p.parseExpires),
		"client_certificate":            many(p.credential(func(c *Credential) *string { return &c.Certificate })),
		"federated_token":               many(p.credential(func(c *Credential) *string { return &c.FederatedToken })),
		"service_account":               single(text(&p.ServiceAccount)),
		"client_auth":                   single(choice(&p.ClientAuth, "basic", "post")),
		"scopes":                        single(list(&p.Scopes)),
		"prompt":                        single(text(&p.Prompt)),
		"auth_param":                    many(pair(&p.AuthParams)),
		"redirect_uri":                  single(text(&p.RedirectURI)),
		"servers":                       single(list(&p.Servers)),
		"rotation":                      single(choice(&p.Rotation, "strict", "none")),
		"margin":                        single(duration(&p.Margin)),
		"refresh_rate":                  single(positive(&p.RefreshRate)),
		"proxy":                         single(text(&p.Proxy)),
		"ca_file":                       single(text(&p.CAFile)),
	})
}

// credential adds a credential of one kind to those above it.
func (p *Provider) credential(kind func(*Credential) *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var c Credential
		if err := text(kind(&c))(d); err != nil {
			return err
		}
		p.Credentials = append(p.Credentials, c)
		return nil
	}
}

// parseExpires takes the day on which the client secret above it expires.
func (p *Provider) parseExpires(d *caddyfile.Dispenser) error {
	word := d.Val()
	last := len(p.Credentials) - 1
	if last < 0 || p.Credentials[last].Secret == "" {
		return d.Errf("%s must follow the client_secret that it is about", word)
	}
	c := &p.Credentials[last]
	if c.Expires != "" {
		return d.Errf("duplicate %s of one client_secret", word)
	}
	if err := text(&c.Expires)(d); err != nil {
		return err
	}
	if _, err := time.Parse(time.DateOnly, c.Expires); err != nil && !strings.Contains(c.Expires, "{") {
		return d.Errf("bad %s value '%s': must be a date such as 2027-06-30", word, c.Expires)
	}
	return nil
}

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
