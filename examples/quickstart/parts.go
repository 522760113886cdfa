package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// parts is everything that runs in this process.
type parts struct {
	inbox  *inbox
	plugin *plugin

	stops []func() error // in the order of starting
}

// startParts starts all parts. They are to be stopped also when it fails.
func startParts(ctx context.Context, o options, caddyfile []byte) (*parts, error) {
	p := &parts{plugin: newPlugin()}
	dir, err := os.MkdirTemp("", "caddy-oauth-mail-quickstart-")
	if err != nil {
		return p, err
	}
	p.stops = append(p.stops, func() error { return removeFolder(dir) })

	// The plugin may look its authorization server up as soon as it starts, so that comes first.
	idp, err := p.startIDP(o)
	if err != nil {
		return p, err
	}
	p.inbox = newInbox(idp.owner)
	if o.breakPart != "smtp" {
		err = p.startInbox()
		if err != nil {
			return p, err
		}
	}
	err = p.startPage(breakNote(o.breakPart))
	if err != nil {
		return p, err
	}
	err = portFree(ctx, pluginPort, "plugin")
	if err != nil {
		return p, err
	}
	err = isolateCaddy(dir)
	if err != nil {
		return p, err
	}
	err = startCaddy(caddyfile, o.config, o.verbose)
	if err != nil {
		return p, err
	}
	p.stops = append(p.stops, stopCaddy)
	return p, nil
}

func (p *parts) startIDP(o options) (*idp, error) {
	listeners, err := listenLoopback(idpPort, "authorization server")
	if err != nil {
		return nil, err
	}
	server, err := newIDP(idpConfig{
		issuer:       issuerURL,
		clientID:     clientID,
		clientSecret: clientSecret,
		redirectURI:  callbackURL,
		users:        []user{{"user-1", mailbox}, {"user-2", stranger}},
		tokenLife:    o.tokenLife,
		broken:       o.breakPart == "idp",
	})
	if err != nil {
		return nil, err
	}
	p.stopLater("authorization server", serveHTTP(server, listeners))
	return server, nil
}

func (p *parts) startInbox() error {
	listeners, err := listenLoopback(inboxPort, "mail server")
	if err != nil {
		return err
	}
	p.inbox.serve(listeners)
	p.stopLater("mail server", func(context.Context) error { return p.inbox.stop() })
	return nil
}

func (p *parts) startPage(note string) error {
	listeners, err := listenLoopback(pagePort, "inbox page")
	if err != nil {
		return err
	}
	web := &page{inbox: p.inbox, plugin: p.plugin, provider: provider, mailbox: mailbox, note: note}
	p.stopLater("inbox page", serveHTTP(web.handler(), listeners))
	return nil
}

// stopLater has stop called, with a limit of its own, when the parts are stopped.
func (p *parts) stopLater(name string, stop func(context.Context) error) {
	p.stops = append(p.stops, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		err := stop(ctx)
		if err != nil {
			return fmt.Errorf("stopping the %s: %w", name, err)
		}
		return nil
	})
}

// stop stops the parts, the last started first, so that the plugin goes while what it needs is still there.
func (p *parts) stop() error {
	var errs []error
	for _, stop := range slices.Backward(p.stops) {
		errs = append(errs, stop())
	}
	p.stops = nil
	return errors.Join(errs...)
}

// removeFolder removes a folder in which Caddy, although it has stopped, may still be
// closing the outbox.
func removeFolder(dir string) (err error) {
	for range 50 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}
