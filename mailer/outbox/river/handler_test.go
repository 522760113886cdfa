package river

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// clerk is a handler that notes what it is asked.
type clerk struct {
	deliver func(context.Context, *outbox.Message) outbox.Outcome // nil sends
	window  int                                                   // 4

	mu          sync.Mutex
	tried       map[string]int
	interrupted map[string]int
}

func (c *clerk) Window(string) int {
	if c.window > 0 {
		return c.window
	}
	return 4
}

func (c *clerk) Interrupted(m *outbox.Message) outbox.Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.interrupted == nil {
		c.interrupted = make(map[string]int)
	}
	c.interrupted[m.ID]++
	return outbox.Outcome{}
}

func (c *clerk) Deliver(ctx context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
	c.mu.Lock()
	if c.tried == nil {
		c.tried = make(map[string]int)
	}
	c.tried[m.ID]++
	c.mu.Unlock()
	if c.deliver != nil {
		return c.deliver(ctx, m)
	}
	return outbox.Outcome{Verdict: outbox.Sent}
}

func (c *clerk) tries(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tried[id]
}

func (c *clerk) asked(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.interrupted[id]
}

// running is an engine that hands out messages until the test ends.
func running(t testing.TB, schema string, tm timing, h outbox.Handler) (*Engine, *wire) {
	t.Helper()
	e, w := openTest(t, schema, tm)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		e.Close()
	})
	eventually(t, 10*time.Second, "the engine runs", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.run != nil
	})
	return e, w
}

func accept(t testing.TB, e *Engine, m *outbox.Message) *outbox.Message {
	t.Helper()
	if err := e.Accept(context.Background(), m, m.Content(mailer.Bytes(letter))); err != nil {
		t.Fatal(err)
	}
	return m
}

func untilState(t testing.TB, e *Engine, id string, want outbox.State, patience time.Duration) {
	t.Helper()
	var state outbox.State
	eventually(t, patience, "state "+string(want), func() bool {
		m, err := e.Get(context.Background(), id)
		if err != nil {
			return false
		}
		state = m.State
		return state == want
	})
}

func (c *clerk) count() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.tried {
		n += k
	}
	return n
}
