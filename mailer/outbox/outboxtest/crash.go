package outboxtest

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// midway crashes with two messages being sent and three that wait.
func midway(d *desk) (sending, waiting []string) {
	g := make(gate)
	c := &clerk{window: 2, deliver: g.deliver}
	done := d.accept(message("lab"))
	d.run(&clerk{})
	d.untilState(done.ID, outbox.StateSent)
	d.halt()
	d.run(c)
	for range 5 {
		waiting = append(waiting, d.accept(message("lab")).ID)
	}
	d.until("the window is full", func() bool { now, _ := c.at("lab"); return now == 2 })
	for _, id := range waiting {
		if d.get(id).State == outbox.StateSending {
			sending = append(sending, id)
		}
	}
	waiting = slices.DeleteFunc(waiting, func(id string) bool { return slices.Contains(sending, id) })
	if len(sending) != 2 {
		d.Fatalf("%d messages are being sent, want 2", len(sending))
	}
	d.crash(func() { close(g) })
	return sending, waiting
}

// After a crash the handler decides about exactly those that were being sent, once.
func interrupted(d *desk) {
	sending, waiting := midway(d)
	c := &clerk{broken: func(m *outbox.Message) outbox.Outcome {
		m.Attempts = 5
		return outbox.Outcome{Verdict: outbox.Retry}
	}}
	d.run(c)
	for _, id := range append(slices.Clone(sending), waiting...) {
		d.untilState(id, outbox.StateSent)
	}
	got := c.interrupted()
	slices.Sort(got)
	slices.Sort(sending)
	if !slices.Equal(got, sending) {
		d.Errorf("asked about %v, want %v", got, sending)
	}
	for _, id := range sending {
		if m := d.get(id); m.Attempts != 5 {
			d.Error("what Interrupted changed is not recorded")
		}
	}
	d.reopen()
	next := &clerk{}
	d.run(next)
	d.never("a second question", func() bool { return len(next.interrupted()) > 0 || next.count() > 0 })
}

// What is held after a crash is not tried, until somebody changes it.
func interruptedHeld(d *desk) {
	sending, waiting := midway(d)
	c := &clerk{broken: func(*outbox.Message) outbox.Outcome { return outbox.Outcome{Verdict: outbox.Hold} }}
	d.run(c)
	for _, id := range waiting {
		d.untilState(id, outbox.StateSent)
	}
	for _, id := range sending {
		d.untilState(id, outbox.StateHeld)
	}
	if n := c.count(); n != len(waiting) {
		d.Errorf("%d tries, want %d", n, len(waiting))
	}
	d.crash(nil)
	next := &clerk{}
	d.run(next)
	d.never("a question about what is held, or a try", func() bool { return len(next.interrupted()) > 0 || next.count() > 0 })
	d.mustChange(sending[0], func(m *outbox.Message) { m.State, m.Due = outbox.StateQueued, time.Now().UTC() })
	d.untilState(sending[0], outbox.StateSent)
}

// server counts how often it got each message.
type server struct {
	mu  sync.Mutex
	got map[string]int
}

func (s *server) take(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got[id]++
}

// killLoop crashes at random moments under load. Nothing that was accepted may be
// lost, and no message may be sent twice but those that were being sent.
func killLoop(d *desk) {
	const rounds = 12
	s := &server{got: make(map[string]int)}
	var mu sync.Mutex
	accepted := make(map[string]bool)
	doubtful := 0
	for round := range rounds {
		var crashed atomic.Bool
		c := &clerk{
			deliver: func(_ context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
				if crashed.Load() { // a dead process sends nothing
					return outbox.Outcome{Verdict: outbox.Retry}
				}
				if b, err := read(c); err != nil || string(b) != letter {
					if crashed.Load() {
						return outbox.Outcome{Verdict: outbox.Retry}
					}
					d.Errorf("content %q, %v", b, err)
				}
				s.take(m.ID)
				time.Sleep(rand.N(2 * time.Millisecond))
				return sent(m)
			},
		}
		d.run(c)
		before := len(accepted)
		var group sync.WaitGroup
		for i := range 4 {
			group.Go(func() {
				for !crashed.Load() {
					m := message("t" + strconv.Itoa(i%2))
					if err := d.e.Accept(d.Context(), m, source(m, []byte(letter))); err != nil {
						if !crashed.Load() {
							d.Errorf("accept: %v", err)
						}
						return
					}
					mu.Lock()
					accepted[m.ID] = true
					mu.Unlock()
				}
			})
		}
		d.until("a message is accepted", func() bool { mu.Lock(); defer mu.Unlock(); return len(accepted) > before })
		time.Sleep(10*time.Millisecond + rand.N(30*time.Millisecond))
		if round == rounds-1 {
			crashed.Store(true)
			group.Wait()
			d.crash(nil)
			break
		}
		crashed.Store(true)
		d.crash(group.Wait)
		doubtful += len(c.interrupted())
	}
	last := &clerk{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		s.take(m.ID)
		return sent(m)
	}}
	d.run(last)
	for id := range accepted {
		d.untilState(id, outbox.StateSent)
	}
	doubtful += len(last.interrupted())
	s.mu.Lock()
	defer s.mu.Unlock()
	doubled := 0
	for id := range accepted {
		if s.got[id] == 0 {
			d.Errorf("lost: %s was accepted, and never sent", id)
		}
		doubled += max(0, s.got[id]-1)
	}
	for id, n := range s.got {
		if !accepted[id] { // stored, but the crash came before the answer
			doubled += n - 1
		}
	}
	if doubled > doubtful {
		d.Errorf("%d sent twice, and %d were being sent at the crashes", doubled, doubtful)
	}
	d.Logf("%d accepted, %d sent twice, %d in doubt", len(accepted), doubled, doubtful)
	if len(accepted) < rounds {
		d.Errorf("only %d messages were accepted", len(accepted))
	}
}
