package caddymodule

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/listener"
)

// provisionSMTP makes the SMTP entrances ready. It opens no socket.
func (a *App) provisionSMTP(ctx caddy.Context, s *snapshot) error {
	for _, e := range s.smtp {
		if len(e.names) == 0 {
			continue
		}
		if err := a.provisionTLS(ctx, e); err != nil {
			return fmt.Errorf("%s, tls: %w", e.at, err)
		}
	}
	return nil
}

// provisionTLS makes the TLS configuration of an entrance, whose certificates the tls
// app has at each handshake.
func (a *App) provisionTLS(ctx caddy.Context, e *smtpEntrance) error {
	app, err := ctx.App("tls")
	if err != nil {
		return err
	}
	a.tls = app.(*caddytls.TLS)
	for _, name := range e.names {
		if !e.internal && (certmagic.SubjectQualifiesForPublicCert(name) || hasPolicy(a.tls, name)) {
			continue
		}
		if slices.Contains(a.internalNames, name) {
			continue
		}
		a.internalNames = append(a.internalNames, name)
		if err := a.tls.AddAutomationPolicy(&caddytls.AutomationPolicy{
			SubjectsRaw: []string{name}, IssuersRaw: []json.RawMessage{json.RawMessage(`{"module":"internal"}`)},
		}); err != nil {
			return err
		}
	}
	policies := e.policies
	if len(policies) == 0 {
		policies = caddytls.ConnectionPolicies{new(caddytls.ConnectionPolicy)}
	}
	for _, p := range policies {
		if p == nil {
			return fmt.Errorf("a connection policy is null")
		}
		if p.ALPN == nil {
			p.ALPN = []string{} // or else those of HTTP
		}
		if p.DefaultSNI == "" {
			p.DefaultSNI = e.hostname // many devices ask for no name
		}
		if p.FallbackSNI == "" {
			p.FallbackSNI = e.hostname // others for another one, and verify nothing
		}
	}
	if err := policies.Provision(ctx); err != nil {
		return err
	}
	e.tls = policies.TLSConfig(ctx)
	return nil
}

// hasPolicy reports whether an automation policy has certificates for a name that no
// public authority serves: it names it, or it is for all names and has an issuer for
// such ones. The http app makes one for all names that has none.
func hasPolicy(t *caddytls.TLS, name string) bool {
	if t.Automation == nil {
		return false
	}
	return slices.ContainsFunc(t.Automation.Policies, func(p *caddytls.AutomationPolicy) bool {
		if len(p.Subjects()) == 0 {
			return slices.ContainsFunc(p.Issuers, isPrivate)
		}
		return slices.ContainsFunc(p.Subjects(), func(s string) bool { return certmagic.MatchWildcard(name, s) })
	})
}

// isPrivate reports whether an issuer may have certificates for names that are not
// public.
func isPrivate(i certmagic.Issuer) bool {
	switch i := i.(type) {
	case *caddytls.ACMEIssuer:
		return i.CA != "" && !slices.Contains(publicAuthorities, i.CA)
	case *caddytls.ZeroSSLIssuer:
		return false
	}
	return true
}

// publicAuthorities are the ACME directories that serve public names only.
var publicAuthorities = []string{
	certmagic.LetsEncryptProductionCA, certmagic.LetsEncryptStagingCA, certmagic.ZeroSSLProductionCA,
	certmagic.GoogleTrustProductionCA, certmagic.GoogleTrustStagingCA,
}

// listenSMTP opens the sockets that are not open yet.
func (a *App) listenSMTP() error {
	for _, e := range a.registry.load().smtp {
		for _, address := range e.addresses {
			s, err := a.holdings.smtpServer(address)
			if err != nil {
				return fmt.Errorf("%s: %w", e.at, err)
			}
			a.entries = append(a.entries, smtpEntry{s, e, a.smtpConfig(e, address, s)})
		}
		a.warnSMTP(e)
	}
	return nil
}

// smtpEntry is an address of this configuration, with its server.
type smtpEntry struct {
	server   *smtpServer
	entrance *smtpEntrance
	config   *listener.Config
}

// serveSMTP has new sessions begin with this configuration, and their certificates made.
func (a *App) serveSMTP() {
	if err := a.manageCertificates(); err != nil {
		a.logger.Error("the certificates of the SMTP entrances cannot be managed; see the automation policies of Caddy's tls app", "error", err)
	}
	for _, e := range a.entries {
		e.server.hold(a, e.entrance, e.config)
	}
}

// manageCertificates has the tls app keep the certificates of the SMTP entrances. That
// app must have started: it is written to without a lock until then.
func (a *App) manageCertificates() error {
	names := make(map[string]struct{})
	for _, e := range a.registry.load().smtp {
		for _, name := range e.names {
			if !a.tls.HasCertificateForSubject(name) {
				names[name] = struct{}{}
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return a.tls.Manage(names)
}

// warnSMTP tells what an operator should not do without knowing.
func (a *App) warnSMTP(e *smtpEntrance) {
	if len(e.plaintext) > 0 {
		a.logger.Warn("passwords for SMTP may travel without encryption in these networks (plaintext_auth); whoever listens there can read them, and the mails",
			"smtp", e.at, "networks", fmt.Sprint(e.plaintext))
	}
	open := slices.ContainsFunc(e.addresses, func(a smtpAddress) bool { return !a.loopback() })
	if open && len(e.networks) > 0 {
		networks := make([]string, 0, len(e.networks))
		for _, n := range e.networks {
			networks = append(networks, n.prefix.String())
		}
		a.logger.Warn("these networks may send by SMTP without a password; a router, container host or proxy that passes others' connections on under its own address lets them all send",
			"smtp", e.at, "networks", networks)
	}
	for _, address := range e.addresses {
		if address.tls == noTLS && !address.loopback() {
			a.logger.Warn("this SMTP address has no TLS; mails can be read on the way", "smtp", e.at, "address", address.String())
		}
	}
}
