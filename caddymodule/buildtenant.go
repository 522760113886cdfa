package caddymodule

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

type tenant struct {
	name   string
	origin origin
	// entry is what it was made of, with [originRuntime].
	entry *entry
	// account is whose token signs in, and user the mailbox that signs in with it,
	// as it is written; zero with other methods. They differ where an application
	// has one token for all mailboxes.
	account tokens.Account
	user    string
	// auth has the mechanism that will be used, empty for what the server offers.
	auth Auth
	// authorities is the hash of the certificates that verify the server; zero
	// for the system's.
	authorities [sha256.Size]byte
	from        mailer.Address
	senderRules []string
	// domains are those whose senders go by it.
	domains []string
	limits  limits
	// warm is set where a connection is kept ready.
	warm bool
	// policy is what the outbox does with the tenant's messages; attach completes it.
	policy outbox.Policy
	// volume is how much of its mail is abnormal.
	volume volumeLimits
	// way identifies how it sends, and within which limits; set by attach.
	way [sha256.Size]byte
	// source is set by attach; nil without an account.
	source *tokens.Source
	// mail sends. What it shares with others is set by attach.
	mail *mailer.Tenant
}

func (b *builder) tenant(name string, s tenantSettings) {
	at := "tenant " + name
	if !namePattern.MatchString(name) {
		b.errorf("%s: a name has letters, digits, dots, hyphens and underscores only", at)
		return
	}
	t := &tenant{name: name, origin: s.origin, entry: s.entry, domains: s.Domains, auth: s.Auth, warm: s.Warm}
	t.mail = &mailer.Tenant{Name: name, Failover: s.Failover}
	p, ok := b.tenantAuth(at, s, t)
	if !ok || !b.tenantServer(at, s, t, p) {
		return
	}
	b.tenantLimits(at, s, t, p)
	b.tenantSenders(at, s, t)
	t.mail.Recipients = b.addresses(at+", allowed_recipients", s.AllowedRecipients)
	b.tenantRecipients(at, s, t)
	b.tenantOutbox(at, s, t)
	b.tenantVolume(at, s, t)
	b.sharedMailbox(at, t)
	b.snapshot.tenants[name] = t
}

// tenantAuth checks how a tenant signs in. It returns the provider whose tokens
// it uses, if any.
func (b *builder) tenantAuth(at string, s tenantSettings, t *tenant) (p *provider, ok bool) {
	switch s.Auth.Method {
	case "oauth":
		p = b.snapshot.providers[s.Auth.Provider]
		if _, declared := b.settings.providers[s.Auth.Provider]; p == nil && !declared {
			b.errorf("%s, auth: there is no provider %q", at, s.Auth.Provider)
			return nil, false
		}
		if m := s.Auth.Mechanism; m != "" && !slices.Contains(mechanisms, m) {
			b.errorf("%s, auth: unknown mechanism %q; there are %s", at, m, strings.Join(mechanisms, ", "))
			return nil, false
		}
		if !b.tenantUser(at, s, t) {
			return nil, false
		}
		if p == nil {
			return nil, false // what is wrong with a provider was reported there
		}
		t.account = p.account(t.user)
		if t.auth.Mechanism == "" {
			t.auth.Mechanism = p.settings.Mechanism
		}
		return p, true
	case "password", "none":
		if s.Server == "" {
			b.errorf("%s, server: missing", at)
			return nil, false
		}
		if s.Auth.Method == "password" && (s.Auth.Username == "" || s.Auth.Password == "") {
			b.errorf("%s, auth: user name or password is empty", at)
			return nil, false
		}
		return nil, true
	case "":
		b.errorf("%s, auth: missing; it is `oauth <provider>`, `password <username> <password>` or `none`", at)
	default:
		b.errorf("%s, auth: unknown method %q; there are oauth, password and none", at, s.Auth.Method)
	}
	return nil, false
}

// tenantUser checks the mailbox that signs in with a token.
func (b *builder) tenantUser(at string, s tenantSettings, t *tenant) bool {
	if s.User == "" {
		b.errorf("%s, user: missing; it is the mailbox that signs in", at)
		return false
	}
	a, err := mailer.ParseAddress(s.User)
	switch {
	case err != nil:
		b.errorf("%s, user: %w", at, reason(err))
		return false
	case a.Name != "" || a.Mailbox() != a.Local+"@"+a.Domain:
		b.errorf("%s, user: %q must be a plain address such as noreply@example.com", at, s.User)
		return false
	}
	t.user = a.Mailbox()
	return true
}

// account is whose token a mailbox uses: its own, or the application's that
// speaks for all.
func (p *provider) account(user string) tokens.Account {
	if p.settings.Grant == tokens.GrantClientCredentials {
		return tokens.Account{Provider: p.name, User: tokens.AppUser}
	}
	return newAccount(p.name, user)
}

// newAccount names the account of a mailbox. Mailboxes differ in more than case.
func newAccount(provider, user string) tokens.Account {
	return tokens.Account{Provider: provider, User: strings.ToLower(user)}
}

func (b *builder) tenantSenders(at string, s tenantSettings, t *tenant) {
	from := s.From
	if from == "" {
		from = s.User
	}
	rules := s.Senders
	if from != "" {
		address, err := mailer.ParseAddress(from)
		if err != nil {
			b.errorf("%s, from: %w", at, reason(err))
			return
		}
		t.from = address
		if len(s.Senders) == 0 {
			rules = []string{address.Mailbox()}
			if t.user != "" && !strings.EqualFold(t.user, address.Mailbox()) {
				rules = append(rules, t.user)
			}
		}
	}
	if len(rules) == 0 {
		b.errorf("%s, senders: missing; name the addresses that may send, or give `from`", at)
		return
	}
	senders, err := mailer.ParseSenders(rules...)
	if err != nil {
		b.errorf("%s, senders: %w", at, reason(err))
		return
	}
	if from != "" && !senders.Allows(t.from) {
		b.errorf("%s, from: %s is not among the tenant's senders", at, t.from.Mailbox())
	}
	t.mail.Senders, t.senderRules = senders, rules
}

// addresses reads patterns of addresses; nil for none.
func (b *builder) addresses(at string, rules []string) *mailer.Senders {
	if len(rules) == 0 {
		return nil
	}
	s, err := mailer.ParseSenders(rules...)
	if err != nil {
		b.errorf("%s: %w", at, reason(err))
	}
	return &s
}

// tenantDomains checks the domains whose senders go by a tenant.
func (b *builder) tenantDomains(t *tenant) {
	for _, name := range t.domains {
		at := "tenant " + t.name + ", domains"
		domain, err := asciiHost(name)
		if err != nil || domain == "" || strings.ContainsAny(domain, "*@:/ ") {
			b.errorf("%s: %q is no domain", at, name)
			continue
		}
		if other := b.snapshot.domains[domain]; other != nil {
			b.errorf("%s: %s is that of tenant %s, too", at, domain, other.name)
			continue
		}
		b.snapshot.domains[domain] = t
	}
}

// reason is what an error of the mailer says, without where in a message it was.
func reason(err error) error {
	if e, ok := errors.AsType[*mailer.Error](err); ok && e.Err != nil {
		return e.Err
	}
	return err
}
