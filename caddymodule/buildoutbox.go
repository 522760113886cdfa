package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// unknownRules are the words for what becomes of a message that may have been
// sent.
var unknownRules = []string{"retry", "hold"}

// retention checks how long the outbox remembers messages.
func (b *builder) retention(s settings) {
	for _, v := range []struct {
		word string
		d    time.Duration
	}{{"keep_sent", s.keepSent}, {"keep_failed", s.keepFailed}} {
		if v.d < 0 {
			b.errorf("%s: must be above zero", v.word)
		}
	}
	b.snapshot.keepSent, b.snapshot.keepFailed = s.keepSent, s.keepFailed
}

// tenantOutbox checks what the outbox does with the messages of a tenant, whose
// limits are known. What is not set has the defaults of the outbox.
func (b *builder) tenantOutbox(at string, s tenantSettings, t *tenant) {
	if s.Lifetime < 0 {
		b.errorf("%s, lifetime: must be above zero", at)
	}
	if s.OnUnknown != "" && !slices.Contains(unknownRules, s.OnUnknown) {
		b.errorf("%s, on_unknown: %q must be one of %s", at, s.OnUnknown, strings.Join(unknownRules, ", "))
	}
	t.policy = outbox.Policy{
		Lifetime:    time.Duration(s.Lifetime),
		HoldUnknown: s.OnUnknown == "hold", AllRecipients: t.mail.AllRecipients,
		Brake:       s.Brake,
		Connections: t.limits.connections,
		Mailbox:     t.mailbox().name(),
		Limits: outbox.MailboxLimits{
			Rate: t.limits.rate, Per: t.limits.window, RecipientsPerDay: t.limits.recipientsPerDay, Connections: t.limits.connections,
		},
	}
}

// name names a mailbox among all instances, without telling whose it is.
func (k mailboxKey) name() string {
	d := k.hash()
	return hex.EncodeToString(d[:16])
}

// mailboxHash is a mailboxKey in less room.
type mailboxHash [sha256.Size]byte

func (k mailboxKey) hash() mailboxHash {
	return digest("mailbox", k.account, k.user, k.method, k.username, k.password, k.host, k.port, k.nobody)
}
