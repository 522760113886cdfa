package river

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// With the intervals of real life, the messages of a dead instance are in other hands
// within 30 s.
func TestTakeOverTime(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	stuck := make(chan struct{})
	tm := usualTiming()
	tm.end = 100 * time.Millisecond
	first, wire := running(t, schema, tm, &clerk{deliver: func(context.Context, *outbox.Message) outbox.Outcome {
		<-stuck
		return outbox.Outcome{}
	}})
	defer close(stuck)
	m := accept(t, first, newMessage("lab"))
	c := &clerk{}
	second, _ := running(t, schema, tm, c)
	untilState(t, second, m.ID, outbox.StateSending, 5*time.Second)
	began := time.Now()
	wire.set(true)
	untilState(t, second, m.ID, outbox.StateSent, 30*time.Second)
	if c.asked(m.ID) != 1 || c.tries(m.ID) != 1 {
		t.Errorf("asked %d times, tried %d times", c.asked(m.ID), c.tries(m.ID))
	}
	t.Logf("sent %v after the death of its instance", time.Since(began).Round(time.Millisecond))
}

// An instance that was away learns that its message is in other hands: what it
// brings is not recorded over what they did, and it goes on under another name.
func TestSlowInstance(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	var brokenOff atomic.Bool
	done := make(chan struct{})
	slow := &clerk{deliver: func(ctx context.Context, m *outbox.Message) outbox.Outcome {
		if m.Tenant == "lab" {
			<-ctx.Done()
			brokenOff.Store(true)
			<-done
			return outbox.Outcome{Verdict: outbox.Dead}
		}
		return outbox.Outcome{Verdict: outbox.Sent}
	}}
	first, wire := running(t, schema, quick(), slow)
	name := first.run.id()
	m := accept(t, first, newMessage("lab"))
	c := &clerk{}
	second, _ := running(t, schema, quick(), c)
	untilState(t, second, m.ID, outbox.StateSending, 5*time.Second)
	wire.set(true)
	untilState(t, second, m.ID, outbox.StateSent, 10*time.Second)
	if !brokenOff.Load() {
		t.Error("the delivery was not told that the instance is out of contact")
	}
	close(done)
	wire.set(false)
	eventually(t, 10*time.Second, "another name", func() bool { return first.run.id() != name })
	other := newMessage("other")
	accept(t, first, other)
	untilState(t, first, other.ID, outbox.StateSent, 5*time.Second)
	eventually(t, 10*time.Second, "the slow instance has let go", func() bool {
		first.mu.Lock()
		defer first.mu.Unlock()
		return len(first.run.tries) == 0
	})
	untilState(t, second, m.ID, outbox.StateSent, 5*time.Second)
	if slow.tries(m.ID) != 1 || c.tries(m.ID) != 1 {
		t.Errorf("%d and %d tries", slow.tries(m.ID), c.tries(m.ID))
	}
}

// News that a message was sent is good even when it was taken over, as long as
// nobody has begun it again.
func TestSentAfterAll(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	done := make(chan struct{})
	first, wire := running(t, schema, quick(), &clerk{deliver: func(context.Context, *outbox.Message) outbox.Outcome {
		<-done
		return outbox.Outcome{Verdict: outbox.Sent}
	}})
	m := accept(t, first, newMessage("lab"))
	c := &clerk{}
	second, _ := running(t, schema, quick(), c)
	if err := second.SetLane(context.Background(), "lab", outbox.Lane{State: outbox.LanePaused}); err != nil {
		t.Fatal(err)
	}
	wire.set(true)
	untilState(t, second, m.ID, outbox.StateQueued, 10*time.Second)
	wire.set(false)
	close(done)
	untilState(t, second, m.ID, outbox.StateSent, 10*time.Second)
	if c.tries(m.ID) != 0 {
		t.Error("it was tried again")
	}
	if _, err := second.Content(context.Background(), m.ID); err == nil {
		t.Error("its content is still there")
	}
}

// When the database was away, who is back first looks at the others, and does not take
// them for dead because they are back a moment later.
func TestOutageOfTheDatabase(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.dead = 4 * time.Second // in which there are several looks
	schema, db := newSchema(), admin(t)
	ask := func(sql string, args ...any) (answer int) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql, args...).Scan(&answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	done := make(chan struct{})
	finish := sync.OnceFunc(func() { close(done) })
	defer finish()
	c := &clerk{deliver: func(context.Context, *outbox.Message) outbox.Outcome {
		<-done
		return outbox.Outcome{Verdict: outbox.Sent}
	}}
	first, wire := running(t, schema, tm, c)
	m := accept(t, first, newMessage("lab"))
	other := &clerk{}
	second, otherWire := running(t, schema, tm, other)
	untilState(t, second, m.ID, outbox.StateSending, 5*time.Second)
	wire.set(true)
	otherWire.set(true)
	eventually(t, 30*time.Second, "nobody has been seen for long", func() bool {
		return ask(`SELECT count(*) FROM `+schema+`.instances WHERE seen > clock_timestamp() - $1::interval`, tm.dead) == 0
	})
	beats := func() int { return ask(`SELECT beat FROM `+schema+`.instances WHERE id = $1`, second.run.id()) }
	before := beats()
	otherWire.set(false)
	eventually(t, 10*time.Second, "the other is back and has looked around", func() bool { return beats() >= before+3 })
	wire.set(false)
	finish()
	untilState(t, second, m.ID, outbox.StateSent, 10*time.Second)
	if other.asked(m.ID) != 0 || c.tries(m.ID)+other.tries(m.ID) != 1 {
		t.Errorf("asked %d times, tried %d times", other.asked(m.ID), c.tries(m.ID)+other.tries(m.ID))
	}
}

// An instance whose pool is busy is not dead.
func TestBusyInstance(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	done := make(chan struct{})
	defer close(done)
	first, _ := running(t, schema, quick(), &clerk{deliver: func(context.Context, *outbox.Message) outbox.Outcome {
		<-done
		return outbox.Outcome{Verdict: outbox.Sent}
	}})
	m := accept(t, first, newMessage("lab"))
	c := &clerk{}
	second, _ := running(t, schema, quick(), c)
	ctx, cancel := context.WithTimeout(t.Context(), 4*quick().dead)
	defer cancel()
	for { // until there is none left, and none comes back
		if _, err := first.pool.Exec(ctx, `SELECT 1`); err != nil {
			break
		}
		conn, err := first.pool.Acquire(ctx)
		if err != nil {
			break
		}
		defer conn.Release()
	}
	if c.asked(m.ID) != 0 {
		t.Error("it was taken for dead")
	}
	untilState(t, second, m.ID, outbox.StateSending, 5*time.Second)
}

// A message whose claim was never answered is nobody's doubt: it is tried as if
// nothing had been.
func TestStray(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	c := &clerk{}
	tm := quick()
	e, _ := running(t, schema, tm, c)
	m := newMessage("lab")
	m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour)
	accept(t, e, m)
	_, err := admin(t).Exec(context.Background(), `UPDATE `+schema+`.messages SET state = 'sending', owner = $1, generation = generation + 1`, e.run.id())
	if err != nil {
		t.Fatal(err)
	}
	untilState(t, e, m.ID, outbox.StateSent, 20*time.Second)
	if c.asked(m.ID) != 0 || c.tries(m.ID) != 1 {
		t.Errorf("asked %d times, tried %d times", c.asked(m.ID), c.tries(m.ID))
	}
}

// Instances that each live too short to see another one's beat stand still take over
// together.
func TestTakeOverByTheYoung(t *testing.T) {
	t.Parallel()
	schema := newSchema()
	stuck := make(chan struct{})
	tm := quick()
	tm.beat, tm.dead = 500*time.Millisecond, 3*time.Second
	first, wire := running(t, schema, tm, &clerk{deliver: func(context.Context, *outbox.Message) outbox.Outcome {
		<-stuck
		return outbox.Outcome{}
	}})
	defer close(stuck)
	m := accept(t, first, newMessage("lab"))
	wire.set(true)
	c := &clerk{}
	began := time.Now()
	for c.tries(m.ID) == 0 {
		if time.Since(began) > 20*tm.dead {
			t.Fatal("it was not taken over")
		}
		e, _ := openTest(t, schema, tm)
		ctx, cancel := context.WithTimeout(context.Background(), tm.dead/2)
		if err := e.Run(ctx, c); err != nil {
			t.Error(err)
		}
		cancel()
		e.Close()
	}
	if c.asked(m.ID) != 1 || time.Since(began) < tm.dead-2*tm.beat {
		t.Errorf("asked %d times, %v after the last beat", c.asked(m.ID), time.Since(began))
	}
}
