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
	"strconv"
	"strings"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

// alertTarget is somebody who is told.
type alertTarget interface {
	// name tells targets apart, and says in a log which one it is. No secret is in it.
	name() string
	deliver(ctx context.Context, a *App, d *delivery) error
}

// errNever is an alert that a target cannot be told.
var errNever = errors.New("it is not tried again")

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
