package caddymodule

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// watch looks for trouble and tells of it. Its parts are fixed.
type watch struct {
	poked   chan struct{}
	targets []alertTarget
}

// delivery is an alert on its way to a target.
type delivery struct {
	id, target string
	alert      alert
	tries      int
	due        time.Time
}

const (
	// watchEvery is how often it is looked for trouble, beside when something happens.
	watchEvery = 15 * time.Second
	// watchSoon lets what happens together be told together.
	watchSoon = 200 * time.Millisecond
	// maxDeliveries is how many alerts may wait to be delivered.
	maxDeliveries = 1000
	alertTimeout  = 15 * time.Second
)

// alertRetries are the waits before an alert is tried again. Then it is given up.
var alertRetries = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
}

// poke has it look soon. It may be called on nil.
func (w *watch) poke() {
	if w == nil {
		return
	}
	select {
	case w.poked <- struct{}{}:
	default:
	}
}

// watchTroubles looks for trouble until ctx ends.
func (a *App) watchTroubles(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.loading.ended:
	}
	tick := time.NewTicker(max(min(watchEvery, a.patience()/2), time.Second))
	defer tick.Stop()
	for {
		list := a.troubles(ctx, diagnosis.English)
		if ctx.Err() != nil {
			return
		}
		for _, alert := range processAlerts.look(list, a.patience(), time.Now()) {
			a.raise(alert)
		}
		a.deliverAlerts(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.watch.poked:
			select {
			case <-ctx.Done():
				return
			case <-time.After(watchSoon):
			}
		}
	}
}

// raise tells an alert in the log, as an event, and to whom it is for.
func (a *App) raise(v alert) {
	t := v.Data
	log, event := a.logger.Error, "mail_trouble"
	switch {
	case v.Type == alertRecovered:
		log, event = a.logger.Info, "mail_recovered"
	case !t.Failure:
		log = a.logger.Warn
	}
	log("alert", "type", v.Type, "kind", string(t.Kind), "about", t.about(), "what", t.What, "who", t.Who, "do", t.Do)
	a.events.emit(event, map[string]any{
		"type": v.Type, "kind": string(t.Kind), "failure": t.Failure, "tenant": t.Tenant, "provider": t.Provider, "user": t.User,
		"credential": t.Credential, "caller": t.Caller, "sender": t.Sender, "what": t.What, "who": t.Who, "do": t.Do, "diagnosis": t.Diagnosis,
	})
	processAlerts.mu.Lock()
	defer processAlerts.mu.Unlock()
	for _, target := range a.watch.targets {
		if len(processAlerts.waiting) >= maxDeliveries {
			a.logger.Error("an alert is dropped: too many wait to be delivered", "target", target.name())
			continue
		}
		processAlerts.waiting = append(processAlerts.waiting, &delivery{id: "alert_" + mailer.NewID(), target: target.name(), alert: v, due: v.At})
	}
}

// deliverAlerts delivers what is due. What waits for targets that are not configured any
// more is dropped.
func (a *App) deliverAlerts(ctx context.Context) {
	processAlerts.mu.Lock()
	var due []*delivery
	now := time.Now()
	processAlerts.waiting = slices.DeleteFunc(processAlerts.waiting, func(d *delivery) bool {
		if a.watch.target(d.target) == nil {
			return true
		}
		if d.due.After(now) {
			return false
		}
		due = append(due, d)
		return true
	})
	processAlerts.mu.Unlock()
	for _, d := range due {
		try, cancel := context.WithTimeout(ctx, alertTimeout)
		err := a.watch.target(d.target).deliver(try, a, d)
		cancel()
		switch {
		case err == nil:
			a.logger.Debug("alert delivered", "target", d.target, "id", d.id)
			continue
		case ctx.Err() != nil: // the next configuration goes on
		case errors.Is(err, errNever) || d.tries >= len(alertRetries):
			a.logger.Error("an alert could not be delivered", "target", d.target, "id", d.id, "kind", string(d.alert.Data.Kind), "error", err)
			continue
		default:
			a.logger.Warn("an alert could not be delivered yet", "target", d.target, "id", d.id, "error", err)
			wait := alertRetries[d.tries]
			d.due = time.Now().Add(wait)
			if d.tries++; wait < watchEvery {
				time.AfterFunc(wait, a.watch.poke)
			}
		}
		processAlerts.mu.Lock()
		processAlerts.waiting = append(processAlerts.waiting, d)
		processAlerts.mu.Unlock()
	}
}

func (w *watch) target(name string) alertTarget {
	for _, t := range w.targets {
		if t.name() == name {
			return t
		}
	}
	return nil
}
