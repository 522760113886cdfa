package outboxtest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// clerk is a handler that notes what it is given.
type clerk struct {
	// deliver decides; nil sends all.
	deliver func(context.Context, *outbox.Message, mailer.Content) outbox.Outcome
	// broken decides about interrupted messages; nil tries them again.
	broken func(*outbox.Message) outbox.Outcome
	window int // 4

	mu       sync.Mutex
	tried    []try
	asked    []string // ids given to Interrupted
	running  map[string]int
	most     map[string]int // at once, by tenant
	twice    []string       // ids tried twice at once
	underway map[string]bool
}

type try struct {
	id string
	at time.Time
}

func (c *clerk) Window(string) int {
	if c.window > 0 {
		return c.window
	}
	return 4
}

func (c *clerk) Interrupted(m *outbox.Message) outbox.Outcome {
	c.mu.Lock()
	c.asked = append(c.asked, m.ID)
	c.mu.Unlock()
	if c.broken == nil {
		return outbox.Outcome{Verdict: outbox.Retry}
	}
	return c.broken(m)
}

func (c *clerk) Deliver(ctx context.Context, m *outbox.Message, content mailer.Content) outbox.Outcome {
	c.begin(m)
	defer c.finish(m.ID, m.Tenant)
	if c.deliver == nil {
		return sent(m)
	}
	return c.deliver(ctx, m, content)
}

func (c *clerk) begin(m *outbox.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		c.running, c.most, c.underway = make(map[string]int), make(map[string]int), make(map[string]bool)
	}
	c.tried = append(c.tried, try{m.ID, time.Now()})
	if c.underway[m.ID] {
		c.twice = append(c.twice, m.ID)
	}
	c.underway[m.ID] = true
	c.running[m.Tenant]++
	c.most[m.Tenant] = max(c.most[m.Tenant], c.running[m.Tenant])
}

func (c *clerk) finish(id, tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[tenant]--
	delete(c.underway, id)
}

// ids returns the ids of all tries, in their order.
func (c *clerk) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]string, len(c.tried))
	for i, t := range c.tried {
		out[i] = t.id
	}
	return out
}

// tries returns when a message was tried.
func (c *clerk) tries(id string) []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []time.Time
	for _, t := range c.tried {
		if t.id == id {
			out = append(out, t.at)
		}
	}
	return out
}

func (c *clerk) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.tried)
}

func (c *clerk) interrupted() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

func (c *clerk) at(tenant string) (now, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running[tenant], c.most[tenant]
}

func sent(m *outbox.Message) outbox.Outcome {
	m.Finished = time.Now().UTC()
	m.Forget = m.Finished.Add(time.Hour)
	return outbox.Outcome{Verdict: outbox.Sent}
}

func dead(m *outbox.Message) outbox.Outcome {
	o := sent(m)
	o.Verdict = outbox.Dead
	return o
}

// gate is a delivery that waits until it is opened.
type gate chan struct{}

func (g gate) deliver(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
	<-g
	return sent(m)
}

// message returns a message of a tenant that is due now.
func message(tenant string) *outbox.Message {
	now := time.Now().UTC()
	id := mailer.NewID()
	return &outbox.Message{
		ID: id, MessageID: "<" + id + "@example.com>", Tenant: tenant,
		Caller: mailer.Caller{Kind: "key", Name: "shop"},
		From:   mailer.Address{Name: "Shop", Local: "shop", Domain: "example.com"},
		Sender: mailer.Address{Local: "bounce", Domain: "example.com"},
		Recipients: []outbox.Recipient{
			{Address: mailer.Address{Local: "a", Domain: "example.net"}},
			{Address: mailer.Address{Local: "b", Domain: "example.net"}},
		},
		Size: int64(len(letter)), Accepted: now, Expires: now.Add(48 * time.Hour), State: outbox.StateQueued, Due: now,
	}
}

const letter = "Subject: order 4711\r\n\r\nThank you.\r\n"

// source is a content of octets.
func source(m *outbox.Message, octets []byte) mailer.Content {
	m.Size = int64(len(octets))
	return m.Content(mailer.Bytes(octets))
}

func read(c mailer.Content) ([]byte, error) {
	var b bytes.Buffer
	_, err := c.WriteTo(&b)
	return b.Bytes(), err
}

// accept stores a message with a usual content.
func (d *desk) accept(m *outbox.Message) *outbox.Message {
	d.Helper()
	if err := d.e.Accept(d.Context(), m, source(m, []byte(letter))); err != nil {
		d.Fatalf("accept: %v", err)
	}
	return m
}

func (d *desk) get(id string) *outbox.Message {
	d.Helper()
	m, err := d.e.Get(d.Context(), id)
	if err != nil {
		d.Fatalf("get: %v", err)
	}
	return m
}

func (d *desk) untilState(id string, s outbox.State) *outbox.Message {
	d.Helper()
	var m *outbox.Message
	d.until(string(s), func() bool {
		m = d.get(id)
		return m.State == s
	})
	return m
}

func (d *desk) lane(tenant string) outbox.Lane {
	d.Helper()
	all, err := d.e.Lanes(d.Context())
	if err != nil {
		d.Fatalf("lanes: %v", err)
	}
	return all[tenant]
}
