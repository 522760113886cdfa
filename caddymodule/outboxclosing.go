package caddymodule

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Destruct ends the loop and closes the engine. A reload does not wait for messages
// whose content is on its way; they are brought to their end all the same. An exit
// waits for them, within its grace.
func (s *outboxState) Destruct() error {
	s.mu.Lock()
	box, run := s.box, s.running
	s.mu.Unlock()
	if box == nil {
		return nil
	}
	logger := slog.New(&s.relay)
	if !caddy.Exiting() {
		warnLeft(s.key, box.Engine(), logger)
	}
	closed := beginClosing(s.key)
	go func() {
		defer closed.end()
		if run != nil {
			run.stop()
			<-run.ended
		}
		if err := box.Engine().Close(); err != nil {
			logger.Error("closing the outbox", "error", err)
		}
	}()
	if !caddy.Exiting() {
		return nil
	}
	select {
	case <-closed.done:
	case <-time.After(stopGrace):
		logger.Warn("exiting while messages are being sent; after the next start they may be sent a second time")
	}
	return nil
}

// warnLeft tells what is left in an outbox that is no longer configured.
func warnLeft(key string, e outbox.Engine, logger *slog.Logger) {
	stats, err := e.Stats(context.Background())
	if err != nil {
		return
	}
	left := 0
	for _, t := range stats.Tenants {
		left += waiting(t)
	}
	if left > 0 {
		logger.Warn("the outbox that is no longer configured still holds messages; they wait in it until it is configured again", "outbox", key, "messages", left)
	}
}

// waiting counts the messages of a tenant that are not done with.
func waiting(t outbox.TenantStats) int {
	n := 0
	for state, of := range t.Messages {
		if !state.Final() {
			n += of
		}
	}
	return n
}

// closings are the outboxes that are being closed, by key.
var closings sync.Map // string → *closing

// closing is an outbox that is being closed.
type closing struct {
	key  string
	done chan struct{}
}

func beginClosing(key string) *closing {
	c := &closing{key, make(chan struct{})}
	closings.Store(key, c)
	return c
}

func (c *closing) end() {
	closings.CompareAndDelete(c.key, c)
	close(c.done)
}

// closingWait is how long an outbox that is needed again is waited for.
const closingWait = 5 * time.Second

// awaitClosing waits for an outbox to be closed that was open before.
func awaitClosing(key string) error {
	v, ok := closings.Load(key)
	if !ok {
		return nil
	}
	select {
	case <-v.(*closing).done:
		return nil
	case <-time.After(closingWait):
		return errors.New("an earlier configuration had it open, and a message of it is still being sent; load this one again in a moment")
	}
}
