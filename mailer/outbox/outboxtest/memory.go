package outboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// Memory is an engine that keeps messages in memory, for tests. It is slow with many
// of them. Its zero value is an engine on an empty store.
type Memory struct {
	mu     sync.Mutex
	store  store
	dead   bool // crashed
	h      outbox.Handler
	ctx    context.Context //nolint:containedctx // of Run
	wake   *time.Timer
	lanes  map[string]*memoryLane
	flying sync.WaitGroup
}

// store is what outlives an engine.
type store struct {
	messages map[string]*outbox.Message
	contents map[string][]byte
	digests  map[string]string
	lanes    map[string]outbox.Lane
}

type memoryLane struct {
	out     int
	probing string // the id of the message that tries a closed lane
}

// NewMemory returns an engine on the store of another one that was closed, or
// crashed. Nil: on an empty store.
func NewMemory(before *Memory) *Memory {
	e := new(Memory)
	if before != nil {
		before.mu.Lock()
		defer before.mu.Unlock()
		e.store = before.store
		before.store = store{}
		before.dead = true
	}
	return e
}

// Crash ends the engine as the death of its process would.
func (e *Memory) Crash() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead = true
}

// Close ends the use of the engine.
func (e *Memory) Close() error { return nil }

func (e *Memory) initLocked() error {
	if e.dead {
		return context.Canceled
	}
	if e.store.messages == nil {
		e.store = store{
			messages: make(map[string]*outbox.Message), contents: make(map[string][]byte),
			digests: make(map[string]string), lanes: make(map[string]outbox.Lane),
		}
	}
	if e.lanes == nil {
		e.lanes = make(map[string]*memoryLane)
	}
	return nil
}

func clone(m *outbox.Message) *outbox.Message {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	of := new(outbox.Message)
	if err := json.Unmarshal(b, of); err != nil {
		panic(err)
	}
	return of
}

// Accept stores a message.
func (e *Memory) Accept(_ context.Context, m *outbox.Message, c mailer.Content) error {
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.initLocked(); err != nil {
		return err
	}
	if prior := e.store.digests[string(m.Idempotency)]; prior != "" && len(m.Idempotency) > 0 {
		return &outbox.DuplicateError{Prior: clone(e.store.messages[prior])}
	}
	if len(m.Idempotency) > 0 {
		e.store.digests[string(m.Idempotency)] = m.ID
	}
	e.store.messages[m.ID], e.store.contents[m.ID] = clone(m), b.Bytes()
	e.dispatchLocked()
	return nil
}
