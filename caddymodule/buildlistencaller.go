package caddymodule

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// smtpUser may sign in.
type smtpUser struct {
	smtpSender
	password *password
	networks []netip.Prefix // none: any
}

// smtpNetwork may send without signing in.
type smtpNetwork struct {
	smtpSender
	prefix netip.Prefix
}

// smtpSender is on whose behalf messages come.
type smtpSender struct {
	kind, name string
	// tenant is empty where the entrance decides.
	tenant        string
	from, rewrite mailer.Address
}

func (b *builder) smtpUser(at, name string, u *SMTPUser, e *smtpEntrance) {
	at += ", user " + name
	if u == nil {
		b.errorf("%s: is null", at)
		return
	}
	key := strings.ToLower(name)
	switch {
	case name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		b.errorf("%s: a user name has 1 to 128 characters, none of them a control character", at)
		return
	case e.users[key] != nil:
		b.errorf("%s: there is %q, too; names are compared without regard to case", at, e.users[key].name)
		return
	}
	p, err := parsePassword(u.Password)
	if err != nil {
		b.errorf("%s, password: %w", at, err)
	}
	v := &smtpUser{smtpSender: b.smtpSender(at, u.SMTPSender, e), password: p}
	v.kind, v.name = "user", name
	for _, s := range u.Networks {
		n, err := parseNetwork(s)
		if err != nil {
			b.errorf("%s, networks: %w", at, err)
			continue
		}
		v.networks = append(v.networks, n)
	}
	e.users[key] = v
	e.decoys = append(e.decoys, v)
}

func (b *builder) smtpNetwork(at string, n *SMTPNetwork, e *smtpEntrance) {
	if n == nil || len(n.Ranges) == 0 {
		b.errorf("%s, network: has no ranges", at)
		return
	}
	at += ", network " + strings.Join(n.Ranges, " ")
	sender := b.smtpSender(at, n.SMTPSender, e)
	sender.kind = "network"
	for _, p := range b.nearbyNetworks(at, n.Ranges, "anybody there could send in your name; have them sign in with `user`, which takes `networks`") {
		if slices.ContainsFunc(e.networks, func(o *smtpNetwork) bool { return o.prefix == p }) {
			b.errorf("%s: %s is there twice", at, p)
			continue
		}
		sender.name = p.String()
		e.networks = append(e.networks, &smtpNetwork{sender, p})
	}
}

// nearbyNetworks reads networks that must not hold public addresses, and why.
func (b *builder) nearbyNetworks(at string, list []string, why string) []netip.Prefix {
	var networks []netip.Prefix
	for _, s := range list {
		n, err := parseNetwork(s)
		if err == nil && !isNearby(n) {
			err = fmt.Errorf("%s holds public addresses: %s", n, why)
		}
		if err != nil {
			b.errorf("%s: %w", at, err)
			continue
		}
		networks = append(networks, n)
	}
	return networks
}

// smtpSender checks on whose behalf somebody sends. All tenants that may be meant
// have to allow it.
func (b *builder) smtpSender(at string, s SMTPSender, e *smtpEntrance) smtpSender {
	v := smtpSender{tenant: s.Tenant}
	names := []string{s.Tenant}
	switch {
	case s.Tenant != "":
		if !b.knownTenant(at+", tenant", s.Tenant) {
			return v
		}
	case e.tenant == "":
		b.errorf("%s, tenant: missing; name it here, or for all in the entrance", at)
		return v
	default:
		names = append(slices.Collect(maps.Values(e.sni)), e.tenant)
		slices.Sort(names)
		names = slices.Compact(names)
	}
	for _, c := range []struct {
		word, text string
		to         *mailer.Address
	}{{"from", s.From, &v.from}, {"rewrite_from", s.RewriteFrom, &v.rewrite}} {
		if c.text == "" {
			continue
		}
		a, err := mailer.ParseAddress(c.text)
		if err != nil {
			b.errorf("%s, %s: %w", at, c.word, reason(err))
			continue
		}
		for _, name := range names {
			if t := b.snapshot.tenants[name]; t != nil && !t.mail.Senders.Allows(a) {
				b.errorf("%s, %s: %s is not among the senders of tenant %s", at, c.word, a.Mailbox(), name)
			}
		}
		*c.to = a
	}
	return v
}

// smtpRules refuses what would be an open relay, or of no use to anybody.
func (b *builder) smtpRules(at string, e *smtpEntrance) {
	users, networks := len(e.users) > 0, len(e.networks) > 0
	if !users && !networks {
		b.errorf("%s: nobody may send here; name who may with `user`, or with `network` for those that cannot sign in", at)
		return
	}
	always, never := true, true // is there TLS
	for _, a := range e.addresses {
		always = always && a.tls == implicitTLS
		never = never && a.tls == noTLS
	}
	switch {
	case len(e.plaintext) > 0 && !users:
		b.errorf("%s, plaintext_auth: there is no user who could sign in", at)
	case len(e.plaintext) > 0 && always:
		b.errorf("%s, plaintext_auth: there is no session without TLS", at)
	case len(e.plaintext) == 0 && never && users:
		b.errorf("%s: nobody could sign in without TLS; remove `tls off`, or name the private networks whose passwords may travel in clear with `plaintext_auth`", at)
	}
}
