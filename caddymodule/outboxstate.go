package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// outboxes are the outboxes in use, by [outboxEngine.OutboxKey]. Configurations and
// the requests under way hold references.
var outboxes = caddy.NewUsagePool() // string → *outboxState

// outboxState is an outbox that outlives configurations. One engine is open and one
// loop hands out messages, however many configurations there are: the settings of
// the newest one are in force whose apps have all started.
type outboxState struct {
	key string
	// relay logs for the newest configuration, and sealer seals for those that have
	// started.
	relay  relay
	sealer outboxSealer
	// refusing is the code with which messages are refused at present; nil: they are
	// accepted.
	refusing atomic.Pointer[string]
	backlogs backlogs

	// opening is held while the engine is being opened.
	opening sync.Mutex

	mu sync.Mutex
	// box is nil until the engine is open; running is its loop, from when the first
	// settings are in force.
	box     *outbox.Outbox
	running *outboxRun
	// claims are in force when they are loaded.
	claims claims[App, outboxClaim]
	// inForce is the configuration of the claim in force, also when that was withdrawn
	// and there is none, and the one that opened the engine until there is.
	inForce *App
	// opened are the settings that the engine was opened with.
	opened []byte
}

// outboxClaim is what a configuration wants of an outbox.
type outboxClaim struct {
	settings outbox.Settings
	keys     *tokens.KeyRing
}

// takeOutbox takes a reference to an outbox. It opens nothing.
func (h *holdings) takeOutbox(key string) (s *outboxState, err error) {
	h.outbox, err = referOutbox(key)
	return h.outbox, err
}

func referOutbox(key string) (*outboxState, error) {
	v, _, err := outboxes.LoadOrNew(key, func() (caddy.Destructor, error) { return &outboxState{key: key}, nil })
	if err != nil {
		return nil, err
	}
	return v.(*outboxState), nil
}

// unrefer gives a reference back.
func (s *outboxState) unrefer() { _, _ = outboxes.Delete(s.key) }

// useOutbox opens the outbox of a configuration unless it is open, and keeps it
// open until release is called, whatever becomes of the configuration.
func (a *App) useOutbox() (box *outbox.Outbox, release func(), err error) {
	s, box, err := a.referOpen()
	if err != nil {
		return nil, nil, err
	}
	return box, sync.OnceFunc(s.unrefer), nil
}

// referOpen is useOutbox for whoever gives the reference back once.
func (a *App) referOpen() (s *outboxState, box *outbox.Outbox, err error) {
	if s, err = referOutbox(a.box.key); err != nil {
		return nil, nil, err
	}
	if box, err = s.open(a); err != nil {
		s.unrefer()
		return nil, nil, err
	}
	return s, box, nil
}

// outboxStats are the figures of that outbox.
func (a *App) outboxStats(ctx context.Context) (outbox.Stats, error) {
	box, release, err := a.useOutbox()
	if err != nil {
		return outbox.Stats{}, err
	}
	defer release()
	return box.Engine().Stats(ctx)
}

// open opens the engine by the settings of a configuration, unless it is open.
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
	s.mu.Lock()
	s.inForce = by
	s.mu.Unlock()
	s.relay.to(by.logger)
	s.sealer.use(keys)
	logger := slog.New(&s.relay)
	engine, err := openEngine(by.engine, &s.sealer, logger)
	if err != nil {
		return nil, err
	}
	box = outbox.New(engine, s.settings(by))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.box, s.running, s.opened = box, nil, engineSettings(by.engine)
	s.useLocked()
	if by.loading.done() { // a late request of a configuration that has ended
		s.runLocked()
	}
	return box, nil
}

// hold notes the settings of a configuration that starts. The engine is open.
func (s *outboxState) hold(by *App) error {
	keys, err := by.keys()
	if err != nil {
		return err
	}
	if err := s.sealer.check(keys); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims.add(by, outboxClaim{s.settings(by), keys})
	s.useLocked()
	if now := engineSettings(by.engine); !bytes.Equal(now, s.opened) {
		by.logger.Warn("settings of the outbox have changed that count from when it is opened; restart Caddy to put them in force",
			"engine", by.engineName, "outbox", s.key)
	}
	return nil
}

// takeForce puts the settings of a configuration in force, and returns the one that was
// in force until now; nil for none.
func (s *outboxState) takeForce(by *App) (before *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.claims.newestLoaded(); c != nil {
		before = c.by
	}
	s.claims.load(by)
	s.useLocked()
	s.runLocked()
	return before
}

// engineSettings are those of an engine's module.
func engineSettings(e outboxEngine) []byte {
	text, _ := json.Marshal(e) // it was made of JSON
	return text
}

// withdraw takes back what a configuration wants that ends. If it was in force, since
// what Caddy does last with a configuration failed, the one before is again, and what
// parked meanwhile is let go.
func (s *outboxState) withdraw(by *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.claims.newestLoaded()
	s.claims.withdraw(by)
	s.useLocked()
	if now := s.claims.newestLoaded(); before != nil && now != nil && before.by != now.by {
		go now.by.guarded(func() { now.by.openChanged(context.Background(), by.registry.load()) })
	}
}

func (s *outboxState) useLocked() {
	if s.box == nil || len(s.claims) == 0 {
		return
	}
	rings := make([]*tokens.KeyRing, len(s.claims))
	for i, c := range s.claims {
		rings[i] = c.want.keys
	}
	s.sealer.use(rings...)
	c := s.claims.newestLoaded()
	if c == nil {
		return
	}
	s.inForce = c.by
	s.relay.to(c.by.logger)
	s.box.Use(c.want.settings)
}

// runLocked begins to hand out messages, unless that has begun.
func (s *outboxState) runLocked() {
	if s.box != nil && s.running == nil && !caddy.Exiting() {
		s.running = beginRun(s.box, slog.New(&s.relay))
	}
}

// endRun begins to end the loop, for good. Those who wait for messages hear at once
// that these are queued, and so does who brings more.
func (s *outboxState) endRun() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		s.running.stop()
	}
}

// app is the configuration in force, or the last one that was.
func (s *outboxState) app() *App {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inForce
}

// newest is the configuration whose settings are in force; nil for none.
func (s *outboxState) newest() (*outbox.Outbox, *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.claims.newestLoaded()
	if c == nil {
		return s.box, nil
	}
	return s.box, c.by
}

// releaseOutbox gives the reference of a configuration back.
func (h *holdings) releaseOutbox(a *App) {
	s := h.outbox
	if s == nil {
		return
	}
	h.outbox = nil
	s.withdraw(a)
	s.unrefer()
}
