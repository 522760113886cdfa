package caddymodule

import (
	"crypto/sha256"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// limits are what a mailbox is held to, and how its connections are kept. Zero
// means no limit, or the pool's default.
type limits struct {
	connections      int
	rate             int
	window           time.Duration
	recipientsPerDay int
	maxAge, maxIdle  time.Duration
	maxMessages      int
}

// maxRateWindow bounds the window of a rate: what is longer is no rate.
const maxRateWindow = 24 * time.Hour

// highVolume is the one server of Microsoft's preset that a mailbox's limits do
// not hold for (learn.microsoft.com: "Manage High Volume Email for Microsoft 365").
const highVolume = "smtp-hve.office365.com"

// tenantLimits takes what the tenant says, then what the preset of its provider
// allows.
func (b *builder) tenantLimits(at string, s tenantSettings, t *tenant, p *provider) {
	for _, v := range []struct {
		word string
		n    int64
	}{
		{"connections", int64(s.Connections)},
		{"rate", int64(s.Rate.Messages)},
		{"rate", int64(s.Rate.Window)},
		{"recipients_per_day", int64(s.RecipientsPerDay)},
		{"max_age", int64(s.MaxAge)},
		{"max_idle", int64(s.MaxIdle)},
		{"max_messages", int64(s.MaxMessages)},
	} {
		if v.n < 0 {
			b.errorf("%s, %s: must be above zero", at, v.word)
		}
	}
	if (s.Rate.Messages == 0) != (s.Rate.Window == 0) {
		b.errorf("%s, rate: needs messages and a window", at)
	}
	if time.Duration(s.Rate.Window) > maxRateWindow {
		b.errorf("%s, rate: the window may be 24 hours at most", at)
	}
	l := limits{
		connections: s.Connections,
		rate:        s.Rate.Messages, window: time.Duration(s.Rate.Window),
		recipientsPerDay: s.RecipientsPerDay,
		maxAge:           time.Duration(s.MaxAge), maxIdle: time.Duration(s.MaxIdle), maxMessages: s.MaxMessages,
	}
	if p != nil {
		allowed := p.settings.Limits
		if t.mail.Server.Host == highVolume {
			allowed.MessagesPerMinute, allowed.RecipientsPerDay = 0, 0
		}
		if l.connections == 0 {
			l.connections = allowed.Connections
		}
		if l.rate == 0 && allowed.MessagesPerMinute > 0 {
			l.rate, l.window = allowed.MessagesPerMinute, time.Minute
		}
		if l.recipientsPerDay == 0 {
			l.recipientsPerDay = allowed.RecipientsPerDay
		}
	}
	if l.connections == 0 {
		l.connections = defaultConnections
	}
	t.limits = l
}

// mailboxKey is what a mail server counts by.
type mailboxKey struct {
	account tokens.Account
	user    string
	method  string
	// username is not that of a mailbox where it is no address: it may be one word
	// for all customers, of whom the password tells one.
	username string
	password [sha256.Size]byte
	host     string
	port     int
	// nobody is the tenant that sends where nobody signs in.
	nobody string
}

func (t *tenant) mailbox() mailboxKey {
	k := mailboxKey{
		account: t.account, user: strings.ToLower(t.user), method: t.auth.Method, username: strings.ToLower(t.auth.Username),
		host: t.mail.Server.Host, port: t.mail.Server.Port, nobody: t.nobody(),
	}
	if !strings.Contains(k.username, "@") {
		k.password = digest("password", t.auth.Password)
	}
	return k
}

// nobody returns the tenant's name where nobody signs in, which makes it a mailbox of
// its own; else nothing.
func (t *tenant) nobody() string {
	if t.auth.Method == "none" {
		return t.name
	}
	return ""
}

// sharedMailbox holds tenants of one mailbox to one limit: it is the mailbox's.
func (b *builder) sharedMailbox(at string, t *tenant) {
	first := b.mailboxes[t.mailbox()]
	if first == nil {
		b.mailboxes[t.mailbox()] = t
		return
	}
	for _, v := range []struct {
		word string
		same bool
	}{
		{"connections", first.limits.connections == t.limits.connections},
		{"rate", first.limits.rate == t.limits.rate && first.limits.window == t.limits.window},
		{"recipients_per_day", first.limits.recipientsPerDay == t.limits.recipientsPerDay},
		{"max_age", first.limits.maxAge == t.limits.maxAge},
		{"max_idle", first.limits.maxIdle == t.limits.maxIdle},
		{"max_messages", first.limits.maxMessages == t.limits.maxMessages},
		{"proxy", sameProxy(first.mail.Server.Proxy, t.mail.Server.Proxy)},
	} {
		if !v.same {
			b.errorf("%s, %s: tenant %s signs in to the same mailbox; both must say the same", at, v.word, first.name)
		}
	}
}

func sameProxy(a, b mailer.Proxy) bool { return proxyText(a) == proxyText(b) }

// proxyText is a proxy's URL, password included.
func proxyText(p mailer.Proxy) string {
	if p.IsZero() {
		return ""
	}
	return p.URL().String()
}
