package caddymodule

import (
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// tenantRecipients checks who gets a tenant's mail.
func (b *builder) tenantRecipients(at string, s tenantSettings, t *tenant) {
	if s.Recipients != "" && !slices.Contains(recipientRules, s.Recipients) {
		b.errorf("%s, recipients: %q must be one of %s", at, s.Recipients, strings.Join(recipientRules, ", "))
	}
	t.mail.AllRecipients = s.Recipients == "all"
	t.mail.Deliver.Nowhere = s.Deliver.None
	if s.Deliver.To == "" {
		return
	}
	if s.Deliver.None {
		b.errorf("%s, deliver: takes none or an address, not both", at)
	}
	to, err := mailer.ParseAddress(s.Deliver.To)
	if err != nil {
		b.errorf("%s, deliver: %w", at, reason(err))
		return
	}
	to.Name = ""
	t.mail.Deliver.To = to
}

// failover checks the tenant that sends in place of another. All tenants must
// have been built.
func (b *builder) failover(t *tenant) {
	if t.mail.Failover == "" {
		return
	}
	at := "tenant " + t.name + ", failover"
	if !b.knownTenant(at, t.mail.Failover) {
		return
	}
	other := b.snapshot.tenants[t.mail.Failover]
	if other == nil {
		return // what is wrong with it was reported there
	}
	switch {
	case b.comesBack(t):
		b.errorf("%s: leads back to tenant %s; end it at a tenant without failover", at, t.name)
		return
	case other.mailbox() == t.mailbox():
		b.errorf("%s: tenant %s signs in to the same mailbox, and could not send either", at, other.name)
	case t.auth.Method == "none" && other.auth.Method == "none" && t.mail.Server.Host == other.mail.Server.Host && t.mail.Server.Port == other.mail.Server.Port:
		b.errorf("%s: tenant %s sends to the same server, where nobody signs in either, and could not send when this one cannot; name one with another server", at, other.name)
	case other.mail.Deliver.Astray() && !t.mail.Deliver.Astray():
		b.errorf("%s: tenant %s has `deliver`, and the mail would not reach its recipients", at, other.name)
	}
	var missing []string
	for _, rule := range t.senderRules {
		if s, err := mailer.ParseSenders(rule); err == nil && !other.mail.Senders.Covers(s) {
			missing = append(missing, rule)
		}
	}
	if len(missing) > 0 {
		b.errorf("%s: tenant %s must allow the same senders; add %s to its `senders`", at, other.name, strings.Join(missing, ", "))
	}
}

// comesBack reports whether one tenant after the other leads to t again.
func (b *builder) comesBack(t *tenant) bool {
	for next, steps := b.snapshot.tenants[t.mail.Failover], 0; next != nil && steps < len(b.snapshot.tenants); steps++ {
		if next == t {
			return true
		}
		next = b.snapshot.tenants[next.mail.Failover]
	}
	return false
}
