package caddymodule

import (
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
