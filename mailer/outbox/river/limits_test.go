package river

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// smtp is a mail server that counts what it sees: connections, idle ones too, and
// when messages come.
type smtp struct {
	mu         sync.Mutex
	open, most int
	messages   []time.Time
}

func (s *smtp) connect(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
	s.most = max(s.most, s.open)
}

// seen returns the most connections at once, and the messages.
func (s *smtp) seen() (connections, messages int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most, len(s.messages)
}

// busiest is the most messages in any window of a length.
func (s *smtp) busiest(per time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.messages, time.Time.Compare)
	most, from := 0, 0
	for to := range s.messages {
		for s.messages[to].Sub(s.messages[from]) >= per {
			from++
		}
		most = max(most, to-from+1)
	}
	return most
}

// sender is an instance with a pool of connections that stay open.
type sender struct {
	e     *Engine
	s     *smtp
	mu    sync.Mutex
	idle  int
	sent  atomic.Int32
	drain atomic.Int32
}

func (n *sender) drained() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drain.Add(1)
	n.s.connect(-n.idle)
	n.idle = 0
}

func (n *sender) connection() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.idle > 0 {
		n.idle--
		return
	}
	n.s.connect(1)
}

func (n *sender) limits(l outbox.MailboxLimits) outbox.MailboxLimits {
	l.Drain = n.drained
	return l
}

// send sends a message, if it may.
func (n *sender) send(ctx context.Context, l outbox.MailboxLimits, takes time.Duration) (wait time.Duration, err error) {
	release, wait, err := acquire(ctx, n.e, n.limits(l), 1)
	if err != nil || wait > 0 {
		return wait, err
	}
	n.connection()
	part := rand.N(takes)
	time.Sleep(part)
	n.s.mu.Lock()
	n.s.messages = append(n.s.messages, time.Now())
	n.s.mu.Unlock()
	n.sent.Add(1)
	time.Sleep(takes - part)
	n.mu.Lock()
	n.idle++
	n.mu.Unlock()
	release()
	return 0, nil
}

// acquire asks for a place in the limits of one mailbox.
func acquire(ctx context.Context, e *Engine, l outbox.MailboxLimits, recipients int) (release func(), wait time.Duration, err error) {
	release, full, err := e.Acquire(ctx, "shop@example.com", l, recipients)
	if full != nil {
		wait = full.Wait
	}
	return release, wait, err
}

func senders(t *testing.T, n int, tm timing) (*smtp, []*sender) {
	t.Helper()
	schema := newSchema()
	s := new(smtp)
	var all []*sender
	for range n {
		e, _ := running(t, schema, tm, &clerk{})
		all = append(all, &sender{e: e, s: s})
	}
	return s, all
}

// work has a sender send with so many workers until ctx ends.
func (n *sender) work(ctx context.Context, t *testing.T, group *sync.WaitGroup, workers int, l outbox.MailboxLimits, takes time.Duration) {
	for range workers {
		group.Go(func() {
			for ctx.Err() == nil {
				wait, err := n.send(ctx, l, takes)
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				sleep(ctx, wait)
			}
		})
	}
}

// Three instances keep to 30 messages in any two seconds and three connections, and
// use nine tenths of that.
func TestSharedLimits(t *testing.T) {
	t.Parallel()
	l := outbox.MailboxLimits{Rate: 30, Per: 2 * time.Second, Connections: 3}
	s, all := senders(t, 3, usualTiming())
	const long = 10 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	began := time.Now()
	var group sync.WaitGroup
	for _, n := range all {
		n.work(ctx, t, &group, 6, l, 20*time.Millisecond)
	}
	group.Wait()
	took := time.Since(began)
	if most := s.busiest(l.Per); most > l.Rate {
		t.Errorf("%d messages in %v", most, l.Per)
	}
	connections, messages := s.seen()
	if connections > l.Connections {
		t.Errorf("%d connections at once", connections)
	}
	allowed := float64(l.Rate) * float64(took) / float64(l.Per)
	share := float64(messages) / allowed
	if share < 0.9 {
		t.Errorf("%d messages in %v are %.0f %% of what is allowed", messages, took, 100*share)
	}
	t.Logf("%.0f %% of the allowed speed; %d in the busiest window, %d connections; by instance %d, %d, %d",
		100*share, s.busiest(l.Per), connections, all[0].sent.Load(), all[1].sent.Load(), all[2].sent.Load())
}

// Two connections and three instances with work all the time: each gets its turn.
func TestLeaseTurns(t *testing.T) {
	t.Parallel()
	tm := usualTiming()
	tm.tenure = 600 * time.Millisecond
	l := outbox.MailboxLimits{Connections: 2}
	s, all := senders(t, 3, tm)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	var group sync.WaitGroup
	for _, n := range all {
		n.work(ctx, t, &group, 3, l, 10*time.Millisecond)
	}
	group.Wait()
	connections, messages := s.seen()
	if connections > 2 {
		t.Errorf("%d connections at once", connections)
	}
	total := int32(messages)
	for i, n := range all {
		if n.sent.Load() < total/10 {
			t.Errorf("instance %d sent %d of %d", i, n.sent.Load(), total)
		}
	}
	t.Logf("%d messages: %d, %d, %d", total, all[0].sent.Load(), all[1].sent.Load(), all[2].sent.Load())
}

// Idle connections are given up when another instance waits, and closed before.
func TestIdleLease(t *testing.T) {
	t.Parallel()
	l := outbox.MailboxLimits{Connections: 1}
	s, all := senders(t, 2, usualTiming())
	if wait, err := all[0].send(t.Context(), l, time.Millisecond); wait != 0 || err != nil {
		t.Fatal(wait, err)
	}
	eventually(t, 10*time.Second, "the other's turn", func() bool {
		wait, err := all[1].send(t.Context(), l, time.Millisecond)
		return wait == 0 && err == nil
	})
	if connections, _ := s.seen(); connections > 1 || all[0].drain.Load() == 0 {
		t.Errorf("%d connections at once, drained %d times", connections, all[0].drain.Load())
	}
}

// The lease of a dead instance comes free when others take it for dead, and not
// before it has closed its connections, if it lives after all; then, too, the place of
// the message that it was sending.
func TestLeaseOfTheDead(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.patience = 0
	schema := newSchema()
	dead, wire := running(t, schema, tm, &clerk{})
	var drained atomic.Int64
	lease := outbox.MailboxLimits{Connections: 1, Drain: func() { drained.CompareAndSwap(0, time.Now().UnixNano()) }}
	release, wait, err := acquire(t.Context(), dead, lease, 1)
	if wait != 0 || err != nil {
		t.Fatal(wait, err)
	}
	release() // and the connection stays open
	place := outbox.MailboxLimits{Rate: 1, Per: 200 * time.Millisecond}
	if _, full, err := dead.Acquire(t.Context(), "another", place, 1); full != nil || err != nil {
		t.Fatal(full, err)
	}
	living, _ := running(t, schema, tm, &clerk{})
	for began := time.Now(); time.Since(began) < 2*tm.dead; sleep(t.Context(), tm.beat) {
		_, full, err := living.Acquire(t.Context(), "another", place, 1)
		if full == nil || full.Limit != outbox.LimitRate || err != nil {
			t.Fatalf("while the other sends: %v, %v", full, err)
		}
	}
	if drained.Load() != 0 {
		t.Fatal("drained, though nobody waits for the connection")
	}
	wire.set(true)
	cut := time.Now()
	for what, try := range map[string]func() (*outbox.Full, error){
		"the place": func() (*outbox.Full, error) {
			_, full, err := living.Acquire(t.Context(), "another", place, 1)
			return full, err
		},
		"the lease": func() (*outbox.Full, error) {
			_, full, err := living.Acquire(t.Context(), "shop@example.com", outbox.MailboxLimits{Connections: 1}, 1)
			if full == nil && drained.Load() == 0 {
				t.Error("two have the one connection")
			}
			return full, err
		},
	} {
		eventually(t, 10*time.Second, what, func() bool { full, err := try(); return full == nil && err == nil })
	}
	if took := time.Since(cut); took < tm.dead-2*tm.beat {
		t.Errorf("free %v after the last beat", took)
	}
	if _, full, err := dead.Acquire(t.Context(), "shop@example.com", lease, 1); full != nil || err == nil {
		t.Errorf("it still hands out: %v, %v", full, err)
	}
}

// An instance whose lease was used when it was out of contact for long counts again
// when it is back: the others open no more connections than are left.
func TestLeaseComesBack(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.patience = 0
	schema := newSchema()
	first, wire := running(t, schema, tm, &clerk{})
	l := outbox.MailboxLimits{Connections: 2}
	release, wait, err := acquire(t.Context(), first, l, 1)
	if wait != 0 || err != nil {
		t.Fatal(wait, err)
	}
	second, _ := running(t, schema, tm, &clerk{})
	wire.set(true)
	var releases []func()
	eventually(t, 10*time.Second, "both leases", func() bool {
		release, wait, err := acquire(t.Context(), second, l, 1)
		if wait == 0 && err == nil {
			releases = append(releases, release)
		}
		return len(releases) == 2
	})
	wire.set(false)
	db := admin(t)
	leases := func() (n int) {
		if err := db.QueryRow(t.Context(), `SELECT sum(n) FROM `+schema+`.leases`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, 10*time.Second, "three leases", func() bool { return leases() == 3 })
	release()
	_, full, err := first.Acquire(t.Context(), "shop@example.com", outbox.MailboxLimits{Connections: 2, Rate: 1000}, 1)
	if err != nil || full != nil { // its own
		t.Errorf("%v, %v", full, err)
	}
	if _, full, err = first.Acquire(t.Context(), "shop@example.com", l, 1); err != nil || full == nil || full.Limit != outbox.LimitConnections {
		t.Errorf("a connection too many: %v, %v", full, err)
	}
	for _, release := range releases {
		release()
	}
}

func TestRecipientsPerDay(t *testing.T) {
	t.Parallel()
	tm := usualTiming()
	tm.patience = 0
	e, _ := running(t, newSchema(), tm, &clerk{})
	l := outbox.MailboxLimits{RecipientsPerDay: 10}
	for _, n := range []int{6, 4} {
		release, wait, err := acquire(t.Context(), e, l, n)
		if wait != 0 || err != nil {
			t.Fatal(wait, err)
		}
		release()
		release() // which changes nothing
	}
	_, wait, err := acquire(t.Context(), e, l, 1)
	if err != nil || wait < 24*time.Hour-time.Minute || wait > 25*time.Hour {
		t.Errorf("wait %v, %v", wait, err)
	}
	if _, full, err := e.Acquire(t.Context(), "another", l, 1); full != nil || err != nil {
		t.Errorf("another mailbox: %v, %v", full, err)
	}
	_, err = admin(t).Exec(t.Context(), `UPDATE `+e.Schema+`.recipients SET minute = minute - interval '25 hours'`)
	if err != nil {
		t.Fatal(err)
	}
	if _, wait, err := acquire(t.Context(), e, l, 10); wait != 0 || err != nil {
		t.Errorf("a day later: %v, %v", wait, err)
	}
}

// A place is kept from the acquisition until Per after the release.
func TestPlaceIsKept(t *testing.T) {
	t.Parallel()
	tm := usualTiming()
	tm.patience = 0
	e, _ := running(t, newSchema(), tm, &clerk{})
	l := outbox.MailboxLimits{Rate: 1, Per: 300 * time.Millisecond}
	release, wait, err := acquire(t.Context(), e, l, 1)
	if wait != 0 || err != nil {
		t.Fatal(wait, err)
	}
	time.Sleep(2 * l.Per)
	if _, wait, err := acquire(t.Context(), e, l, 1); wait == 0 || err != nil {
		t.Fatalf("while the message is under way: %v, %v", wait, err)
	}
	released := time.Now()
	release()
	eventually(t, 5*time.Second, "the next place", func() bool {
		_, wait, err := acquire(t.Context(), e, l, 1)
		return wait == 0 && err == nil
	})
	if took := time.Since(released); took < l.Per {
		t.Errorf("free %v after the release", took)
	}
}
