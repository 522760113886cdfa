package caddymodule

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// Alerts are who is told when something is not as it should be, once, and once when it
// is well again; of a sign-in that is needed each day.
type Alerts struct {
	// Where alerts are posted, signed as Standard Webhooks say.
	Webhooks []AlertWebhook `json:"webhooks,omitempty"`

	// Who gets them by mail.
	Mail []AlertMail `json:"mail,omitempty"`

	// How long tokens may fail to be refreshed, and messages may wait, before that is
	// told. Default: 15 minutes.
	After caddy.Duration `json:"after,omitempty"`
}

// AlertWebhook is a URL that takes alerts.
type AlertWebhook struct {
	// It begins with https, except on loopback.
	URL string `json:"url,omitempty"`

	// What signs the posts: `whsec_` with base64 behind it, or any text. Default: they
	// are not signed.
	Secret string `json:"secret,omitempty"`
}

// AlertMail are people who are told by mail.
type AlertMail struct {
	// The tenant that sends the mail. Of itself it can tell nothing.
	Tenant string `json:"tenant,omitempty"`

	To []string `json:"to,omitempty"`
}

func (a *App) parseAlerts(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	a.Alerts = new(Alerts)
	return parseBlock(d, words{
		"webhook": many(func(d *caddyfile.Dispenser) error {
			args := d.RemainingArgs()
			if len(args) != 1 && len(args) != 2 {
				return d.Err("wrong arguments: want webhook <url> [<secret>]")
			}
			w := AlertWebhook{URL: args[0]}
			if len(args) == 2 {
				w.Secret = args[1]
			}
			a.Alerts.Webhooks = append(a.Alerts.Webhooks, w)
			return nil
		}),
		"mail": many(func(d *caddyfile.Dispenser) error {
			args := d.RemainingArgs()
			if len(args) < 2 {
				return d.Err("wrong arguments: want mail <tenant> <address>...")
			}
			a.Alerts.Mail = append(a.Alerts.Mail, AlertMail{args[0], args[1:]})
			return nil
		}),
		"after": single(duration(&a.Alerts.After)),
	})
}

// patience is how long something may fail, or wait, before it is trouble.
func (a *App) patience() time.Duration {
	if a.Alerts == nil {
		return backlogAge
	}
	return cmp.Or(time.Duration(a.Alerts.After), backlogAge)
}

// provisionAlerts finds out who is told.
func (a *App) provisionAlerts(s *snapshot) error {
	a.watch = &watch{poked: make(chan struct{}, 1)}
	if a.Alerts == nil {
		return nil
	}
	for i, w := range a.Alerts.Webhooks {
		place := fmt.Sprintf("alert, webhook %d", i+1)
		e := &expander{replacer: caddy.NewReplacer(), logger: a.logger, place: place}
		e.text("url", &w.URL)
		if w.Secret != "" {
			e.secret("secret", &w.Secret)
		}
		if len(e.errs) > 0 {
			return e.errs[0]
		}
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return fmt.Errorf("%s: the URL must begin with https:// (http:// is for loopback only)", place)
		}
		target, err := newWebhookTarget(u, w.Secret)
		if err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
		a.watch.targets = append(a.watch.targets, target)
	}
	for _, m := range a.Alerts.Mail {
		t := s.tenants[m.Tenant]
		if t == nil {
			return fmt.Errorf("alert, mail: there is no tenant %q", m.Tenant)
		}
		if t.from.IsZero() {
			return fmt.Errorf("alert, mail: tenant %s has no from", m.Tenant)
		}
		target := mailTarget{tenant: m.Tenant}
		for _, text := range m.To {
			to, err := mailer.ParseAddress(text)
			if err != nil {
				return fmt.Errorf("alert, mail: %w", reason(err))
			}
			target.to = append(target.to, to)
		}
		a.watch.targets = append(a.watch.targets, target)
	}
	return nil
}

// alert tells of a trouble.
type alert struct {
	// Type is one of those below.
	Type string    `json:"type"`
	At   time.Time `json:"timestamp"`
	Data trouble   `json:"data"`
}

const (
	alertRaised    = "alert.raised"
	alertReminder  = "alert.reminder" // it is still so, a day later
	alertRecovered = "alert.recovered"
)

// remindEvery is how often people are told of a sign-in that is still needed.
const remindEvery = day

// alertBook remembers what was told, so that each trouble is told once in a process,
// however often it loads a configuration, and what could not be delivered yet. The zero
// value is ready; it is safe for concurrent use.
type alertBook struct {
	mu      sync.Mutex
	known   map[troubleKey]*knownTrouble
	waiting []*delivery
}

type knownTrouble struct {
	trouble
	seen time.Time // first
	told time.Time // last; zero if never
}

var processAlerts alertBook

// look compares what is not as it should be with what was, and returns what to tell.
func (b *alertBook) look(list []trouble, patience time.Duration, now time.Time) []alert {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = make(map[troubleKey]*knownTrouble)
	}
	var alerts []alert
	there := make(map[troubleKey]bool, len(list))
	for _, t := range list {
		if !t.alarming() {
			continue
		}
		there[t.key()] = true
		k := b.known[t.key()]
		if k == nil {
			k = &knownTrouble{seen: now}
			b.known[t.key()] = k
		}
		kind := ""
		switch {
		case k.told.IsZero() && t.ripe(now.Sub(k.seen), patience), !k.told.IsZero() && t.Failure && !k.Failure:
			kind = alertRaised
		case !k.told.IsZero() && t.Kind == troubleSignIn && now.Sub(k.told) >= remindEvery:
			kind = alertReminder
		}
		k.trouble = t
		if kind != "" {
			k.told = now
			alerts = append(alerts, alert{kind, now.UTC(), t})
		}
	}
	unseen := unseenIn(list)
	for key, k := range b.known {
		if there[key] || unseen.hides(k.trouble) {
			continue
		}
		delete(b.known, key)
		if !k.told.IsZero() {
			alerts = append(alerts, alert{alertRecovered, now.UTC(), k.trouble})
		}
	}
	slices.SortFunc(alerts, func(x, y alert) int { return cmp.Compare(x.Data.about(), y.Data.about()) })
	return alerts
}

// alarming reports whether somebody wants to be called for it. Nobody does who has paused
// a tenant, or not signed in to an account yet.
func (t trouble) alarming() bool {
	return t.Kind != troublePaused && (t.Kind != troubleSignIn || t.Since != nil)
}

// ripe reports whether it has lasted long enough.
func (t trouble) ripe(lasted, patience time.Duration) bool {
	if slices.Contains([]troubleKind{troubleRefresh, troubleStorage, troubleFailedOver}, t.Kind) {
		return lasted >= patience
	}
	return true
}

// unseen is what cannot be read, by which troubles would be seen that may be there still.
type unseen struct {
	outbox   bool
	accounts map[tokens.Account]bool
}

func unseenIn(list []trouble) unseen {
	u := unseen{accounts: make(map[tokens.Account]bool)}
	for _, t := range list {
		u.outbox = u.outbox || t.Kind == troubleOutbox
		if t.Kind == troubleStorage {
			u.accounts[tokens.Account{Provider: t.Provider, User: t.User}] = true
		}
	}
	return u
}

// hides reports whether a trouble may be there though it is not seen.
func (u unseen) hides(t trouble) bool {
	return u.outbox && (t.Kind == troubleQueue || t.Kind == troubleStopped) ||
		t.User != "" && u.accounts[tokens.Account{Provider: t.Provider, User: t.User}]
}
