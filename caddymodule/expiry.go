package caddymodule

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// expiry is the end of a client's credential: without a new one, sending ends on
// that day.
type expiry struct {
	Provider string
	// Credential is its name in the configuration, such as "client_secret 2".
	Credential string
	At         time.Time
}

const day = 24 * time.Hour

// expiryStages are how long before its end a credential is warned about; the
// last is the end itself.
var expiryStages = []time.Duration{60 * day, 30 * day, 7 * day, day, 0}

// stage is the index of the last stage that has begun; -1 for none.
func (e expiry) stage(now time.Time) int {
	left := e.At.Sub(now)
	stage := -1
	for i, before := range expiryStages {
		if left <= before {
			stage = i
		}
	}
	return stage
}

// expiries returns the ends of a provider's credentials that are known, in the
// order of the credentials.
func (p *provider) expiries() []expiry {
	var list []expiry
	for _, c := range p.credentials {
		if at := c.expires(); !at.IsZero() {
			list = append(list, expiry{Provider: p.name, Credential: c.Name, At: at.UTC()})
		}
	}
	return list
}

// expires is the soonest end of a provider's credentials; the zero time for
// none.
func (p *provider) expires() time.Time {
	var soonest time.Time
	for _, e := range p.expiries() {
		if soonest.IsZero() || e.At.Before(soonest) {
			soonest = e.At
		}
	}
	return soonest
}

// expiryNotes remember which stages were told, so that each is told once in a
// process, however often it loads a configuration. They are safe for concurrent
// use.
type expiryNotes struct {
	mu   sync.Mutex
	told map[expiry]int // stage, by what it is about
}

var processExpiryNotes expiryNotes

// once reports whether the stage that an expiry is in is still to be told, and
// notes it as told.
func (n *expiryNotes) once(e expiry, now time.Time) bool {
	stage := e.stage(now)
	if stage < 0 {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if told, any := n.told[e]; any && told >= stage {
		return false
	}
	if n.told == nil {
		n.told = make(map[expiry]int)
	}
	n.told[e] = stage
	return true
}

// expiryWatch looks at the ends of credentials, at once and daily.
type expiryWatch struct {
	providers func() map[string]*provider
	notes     *expiryNotes
	// tell is told each stage once. Left is zero or less at the end.
	tell func(e expiry, left time.Duration)
}

func (w expiryWatch) run(ctx context.Context) {
	tick := time.NewTicker(day)
	defer tick.Stop()
	for {
		w.look(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w expiryWatch) look(now time.Time) {
	providers := w.providers()
	for _, name := range slices.Sorted(maps.Keys(providers)) {
		for _, e := range providers[name].expiries() {
			if w.notes.once(e, now) {
				w.tell(e, e.At.Sub(now))
			}
		}
	}
}

// watchExpiries warns before client credentials end.
func (a *App) watchExpiries(ctx context.Context) {
	a.expiryWatch().run(ctx)
}

func (a *App) expiryWatch() expiryWatch {
	return expiryWatch{func() map[string]*provider { return a.registry.load().providers }, &processExpiryNotes, a.credentialExpires}
}

// credentialExpires logs the coming end of a credential.
func (a *App) credentialExpires(e expiry, left time.Duration) {
	a.events.emit("oauth_secret_expiring", map[string]any{
		"provider": e.Provider, "credential": e.Credential, "expires": e.At.Format(time.DateOnly), "days_left": int(left / day),
	})
	logger := a.logger.With("provider", e.Provider, "credential", e.Credential, "expires", e.At.Format(time.DateOnly))
	if left <= 0 {
		logger.Error("a client's credential has reached its end; make a new one at the provider and put it in place")
		return
	}
	logger.Warn("a client's credential will expire; make a new one at the provider and put it in place before",
		"days_left", int(left/day))
}
