package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// outboxes are the outboxes in use, by [outboxEngine.OutboxKey]. Configurations and
// the requests under way hold references.
var outboxes = caddy.NewUsagePool() // string → *outboxState

// outboxState is an outbox that outlives configurations. One engine is open and one
// loop hands out messages, however many configurations there are: the settings of
// the newest one that has started are in force.
type outboxState struct {
	key string
	// relay logs for the newest configuration, too.
	relay relay

	// opening is held while the engine is being opened.
	opening sync.Mutex

	mu sync.Mutex
	// box is nil until the engine is open; running then ends its loop.
	box     *outbox.Outbox
	running *outboxRun
	// words are those of the configurations that have started, the newest last.
	words []outboxWord
}

// outboxRun is a loop that hands out messages.
type outboxRun struct {
	stop  context.CancelFunc
	ended chan struct{}
}

// outboxWord is what a configuration says of an outbox.
type outboxWord struct {
	by       *App
	settings outbox.Settings
}

// takeOutbox takes a reference to an outbox. It opens nothing.
func (h *holdings) takeOutbox(key string) error {
	s, err := referOutbox(key)
	if err != nil {
		return err
	}
	h.outbox = s
	return nil
}

func referOutbox(key string) (*outboxState, error) {
	v, _, err := outboxes.LoadOrNew(key, func() (caddy.Destructor, error) { return &outboxState{key: key}, nil })
	if err != nil {
		return nil, err
	}
	return v.(*outboxState), nil
}

// useOutbox opens the outbox of a configuration unless it is open, and keeps it
// open until release is called, whatever becomes of the configuration.
func (a *App) useOutbox() (box *outbox.Outbox, release func(), err error) {
	s, err := referOutbox(a.engine.OutboxKey())
	if err != nil {
		return nil, nil, err
	}
	release = sync.OnceFunc(func() { _, _ = outboxes.Delete(s.key) })
	if box, err = s.open(a); err != nil {
		release()
		return nil, nil, err
	}
	return box, release, nil
}

// open opens the engine by the words of a configuration, unless it is open.
func (s *outboxState) open(by *App) (*outbox.Outbox, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	box := s.box
	s.mu.Unlock()
	if box != nil {
		return box, nil
	}
	keys, err := by.keys()
	if err != nil {
		return nil, err
	}
	if err := awaitClosing(s.key); err != nil {
		return nil, err
	}
	s.relay.to(by.logger)
	logger := slog.New(&s.relay)
	engine, err := by.engine.OpenOutbox(context.Background(), keys, logger)
	if err != nil {
		return nil, err
	}
	box = outbox.New(engine, by.outboxSettings())
	ctx, stop := context.WithCancel(context.Background())
	run := &outboxRun{stop, make(chan struct{})}
	go func() {
		defer close(run.ended)
		runOutbox(ctx, box, logger)
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.box, s.running = box, run
	s.useLocked()
	return box, nil
}

// runAgain is when the loop of an outbox begins anew that has ended by itself.
const runAgain = 10 * time.Second

// runOutbox hands out messages until ctx ends.
func runOutbox(ctx context.Context, box *outbox.Outbox, logger *slog.Logger) {
	for ctx.Err() == nil {
		err := runGuarded(ctx, box, logger)
		if ctx.Err() != nil {
			return
		}
		logger.Error("the outbox hands out no messages; it is tried again in a moment", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(runAgain):
		}
	}
}

// runGuarded runs an outbox: a panic in it must not end the web server.
func runGuarded(ctx context.Context, box *outbox.Outbox, logger *slog.Logger) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			logger.Error("panic in the outbox", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return box.Run(ctx)
}

// hold puts the settings of a configuration in force that starts.
func (s *outboxState) hold(by *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words = append(s.words, outboxWord{by, by.outboxSettings()})
	s.useLocked()
}

// withdraw takes a configuration's word back. If it is the newest, since another
// part of it could not start, the one before is in force again.
func (s *outboxState) withdraw(by *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.words = slices.DeleteFunc(s.words, func(w outboxWord) bool { return w.by == by })
	s.useLocked()
}

func (s *outboxState) useLocked() {
	if s.box == nil || len(s.words) == 0 {
		return
	}
	newest := s.words[len(s.words)-1]
	s.relay.to(newest.by.logger)
	s.box.Use(newest.settings)
}

// newest is the configuration whose settings are in force; nil for none.
func (s *outboxState) newest() (*outbox.Outbox, *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.box == nil || len(s.words) == 0 {
		return s.box, nil
	}
	return s.box, s.words[len(s.words)-1].by
}

// releaseOutbox gives the reference of a configuration back.
func (h *holdings) releaseOutbox(a *App) {
	s := h.outbox
	if s == nil {
		return
	}
	h.outbox = nil
	s.withdraw(a)
	_, _ = outboxes.Delete(s.key)
}

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
		warnLeft(box.Engine(), logger)
	}
	closed := beginClosing(s.key)
	go func() {
		defer closed.end()
		run.stop()
		<-run.ended
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
func warnLeft(e outbox.Engine, logger *slog.Logger) {
	stats, err := e.Stats(context.Background())
	if err != nil {
		return
	}
	left := 0
	for _, t := range stats.Tenants {
		for state, n := range t.Messages {
			if !state.Final() {
				left += n
			}
		}
	}
	if left > 0 {
		logger.Warn("the outbox that is no longer configured still holds messages; they wait in it until it is configured again", "messages", left)
	}
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
