package caddymodule

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/diagnosis"
)

// watch looks for trouble and tells of it. Its parts are fixed.
type watch struct {
	poked   chan struct{}
	targets []alertTarget
}

// alertTarget is somebody who is told.
type alertTarget interface {
	// name tells targets apart, and says in a log which one it is. No secret is in it.
	name() string
	deliver(ctx context.Context, a *App, d *delivery) error
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

// errNever is an alert that a target cannot be told.
var errNever = errors.New("it is not tried again")

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

// webhookTarget is posted to, as Standard Webhooks say (standardwebhooks.com).
type webhookTarget struct {
	url  *url.URL
	key  []byte
	hash string
}

// webhookClient follows no redirects, and keeps no connection: alerts are rare.
var webhookClient = &http.Client{
	Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func newWebhookTarget(u *url.URL, secret string) (webhookTarget, error) {
	t := webhookTarget{url: u, key: []byte(secret)}
	if encoded, ok := strings.CutPrefix(secret, "whsec_"); ok {
		var err error
		if t.key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return t, errors.New("behind whsec_ must be base64")
		}
	}
	sum := sha256.Sum256([]byte(u.String()))
	t.hash = fmt.Sprintf("%x", sum[:4])
	return t, nil
}

// name has a hash in place of the path: that of a chat's webhook is a secret.
func (t webhookTarget) name() string { return "webhook " + t.url.Host + " " + t.hash }

func (t webhookTarget) deliver(ctx context.Context, _ *App, d *delivery) error {
	body, err := json.Marshal(d.alert)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Webhook-Id", d.id)
	req.Header.Set("Webhook-Timestamp", at)
	if len(t.key) > 0 {
		mac := hmac.New(sha256.New, t.key)
		fmt.Fprintf(mac, "%s.%s.%s", d.id, at, body)
		req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	resp, err := webhookClient.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the URL
		}
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusGone:
		return fmt.Errorf("HTTP %d: %w", resp.StatusCode, errNever)
	}
	return fmt.Errorf("HTTP %d", resp.StatusCode)
}

// mailTarget gets mail by a tenant.
type mailTarget struct {
	tenant string
	to     []mailer.Address
}

func (t mailTarget) name() string { return fmt.Sprint("mail by ", t.tenant, " to ", t.to) }

func (t mailTarget) deliver(ctx context.Context, a *App, d *delivery) error {
	s := a.registry.load()
	by := s.tenants[t.tenant]
	v := d.alert.Data
	if by == nil {
		return fmt.Errorf("there is no tenant %s any more: %w", t.tenant, errNever)
	}
	about := s.tenants[v.Tenant]
	own := v.Tenant == t.tenant || about != nil && about.mailbox() == by.mailbox() ||
		v.User != "" && v.Provider == by.account.Provider && v.User == by.account.User
	if own && d.alert.Type != alertRecovered {
		return fmt.Errorf("tenant %s cannot tell that it cannot send: %w", t.tenant, errNever)
	}
	m := alertMessage(d.alert, by.from, t.to)
	id := mailer.NewID()
	m.MessageID = mailer.NewMessageID(id, m.From)
	content, err := m.Compose()
	if err != nil {
		return fmt.Errorf("%w: %w", err, errNever)
	}
	_, err = a.mailer.Send(ctx, mailer.Submission{
		ID: id, MessageID: m.MessageID, Tenant: t.tenant, Caller: mailer.Caller{Kind: "alert", Name: string(v.Kind)},
		From: m.From, Envelope: m.Envelope(), Content: content, Options: mailer.Options{Async: a.mailer.Outbox != nil},
	})
	return err
}

// alertMessage is what people read.
func alertMessage(v alert, from mailer.Address, to []mailer.Address) *mailer.Message {
	t := v.Data
	head := strings.ReplaceAll(string(t.Kind), "_", " ")
	if about := t.about(); about != "" {
		head += ": " + about
	}
	m := &mailer.Message{
		From: from, To: to, Date: v.At, Subject: "[oauth_mail] " + head,
		Headers: []mailer.HeaderField{{Name: "Auto-Submitted", Value: "auto-generated"}},
		Text:    capitalized(strings.TrimSuffix(t.What, ".")) + ".\n",
	}
	switch v.Type {
	case alertRecovered:
		m.Subject = "[oauth_mail] recovered: " + head
		m.Text = "This is well again. There is nothing to do.\n\nWhat it was: " + t.What + "\n"
		return m
	case alertReminder:
		m.Subject = "[oauth_mail] still: " + head
	}
	if t.Since != nil {
		m.Text += "Since: " + t.Since.Format(time.RFC1123) + "\n"
	}
	if t.Do != "" {
		m.Text += "\nTo do (" + t.Who + "): " + t.Do + "\n"
	}
	return m
}
