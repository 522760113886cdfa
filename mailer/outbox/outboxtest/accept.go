package outboxtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// same compares messages, whose times a store may cut to microseconds.
func same(a, b *outbox.Message) string {
	return cmp.Diff(a, b, cmpopts.EquateComparable(mailer.Caller{}), cmpopts.EquateApproxTime(time.Millisecond), cmpopts.EquateEmpty())
}

func full() *outbox.Message {
	m := message("lab")
	sum := sha256.Sum256([]byte(m.ID))
	m.Idempotency, m.Fingerprint = sum[:], []byte("fingerprint")
	m.AllRecipients, m.RequireTLS, m.EightBit = true, true, true
	m.DSN = mailer.DSN{Notify: []mailer.DSNEvent{mailer.NotifyFailure}, Return: mailer.ReturnFull, EnvelopeID: "env"}
	m.Attempts = 3
	m.Summary = &mailer.Summary{
		To: []mailer.Address{m.Recipients[0].Address}, Bcc: []mailer.Address{m.Recipients[1].Address}, Subject: "注文 4711",
		Tags: []mailer.Tag{{Name: "kind", Value: "order"}}, Attachments: []mailer.AttachmentNote{{Filename: "a.pdf", ContentType: "application/pdf", Size: 7}},
	}
	m.Failure = outbox.NewFailure(time.Now(), &mailer.Error{
		Stage: mailer.StageRcpt, Kind: mailer.KindTemporary, Server: "mail.example.com:587",
		Reply: mailer.Reply{Code: 450, Enhanced: mailer.EnhancedCode{4, 2, 0}, Text: "greylisted"}, RetryAfter: time.Minute,
		Code: "code", Err: errors.New("cause"),
	})
	m.Recipients[1].Done, m.Recipients[1].Kind, m.Recipients[1].Reply = true, mailer.KindRejected, mailer.Reply{Code: 550}
	return m
}

// What was accepted is there after a crash and after an orderly end, all of it.
func acceptOutlives(d *desk) {
	first := d.accept(full())
	d.crash(nil)
	second := full()
	second.State, second.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
	second.Expires = second.Due.Add(time.Hour)
	d.accept(second)
	d.reopen()
	for _, m := range []*outbox.Message{first, second} {
		if diff := same(m, d.get(m.ID)); diff != "" {
			d.Error(diff)
		}
		c, err := d.e.Content(d.Context(), m.ID)
		if err != nil {
			d.Fatalf("content: %v", err)
		}
		if got, err := read(c); err != nil || string(got) != letter || !c.EightBit() || c.UTF8Header() {
			d.Errorf("content %q, %v", got, err)
		}
	}
	var c clerk
	d.run(&c)
	d.until("the message of the first process is sent", func() bool { return d.get(first.ID).State == outbox.StateSent })
	if got := c.interrupted(); len(got) > 0 {
		d.Errorf("%d messages taken for interrupted that nobody had tried", len(got))
	}
}

// An accepted message is tried at once, and stands as being sent meanwhile.
func acceptHandsOut(d *desk) {
	g := make(gate)
	var got atomic.Pointer[outbox.Message]
	var octets atomic.Value
	c := &clerk{deliver: func(ctx context.Context, m *outbox.Message, content mailer.Content) outbox.Outcome {
		copied := *m
		got.Store(&copied)
		b, err := read(content)
		if err != nil {
			d.Errorf("reading the content: %v", err)
		}
		octets.Store(string(b))
		return g.deliver(ctx, m, content)
	}}
	d.run(c)
	m := d.accept(full())
	d.until("the message is handed out", func() bool { return octets.Load() != nil })
	if octets.Load() != letter {
		d.Errorf("content %q", octets.Load())
	}
	if at := d.get(m.ID); at.State != outbox.StateSending || got.Load().State != outbox.StateSending {
		d.Errorf("state %q while it is tried, %q in the store; want sending", got.Load().State, at.State)
	}
	want := *m
	want.State, want.Due = got.Load().State, got.Load().Due
	if diff := same(&want, got.Load()); diff != "" {
		d.Error(diff)
	}
	close(g)
	d.untilState(m.ID, outbox.StateSent)
	if n := c.count(); n != 1 {
		d.Errorf("tried %d times", n)
	}
}

// What the caller does with a message that it gave, or got, changes nothing.
func sharesNothing(d *desk) {
	m := message("lab")
	m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
	octets := []byte(letter)
	if err := d.e.Accept(d.Context(), m, source(m, octets)); err != nil {
		d.Fatal(err)
	}
	octets[0] = 'X'
	m.Recipients[0].Address.Local, m.MessageID = "changed", "changed"
	got := d.get(m.ID)
	if got.Recipients[0].Address.Local != "a" || got.MessageID == "changed" {
		d.Error("the engine keeps the message that it was given")
	}
	got.Recipients[0].Address.Local, got.State = "changed", outbox.StateSent
	if again := d.get(m.ID); again.Recipients[0].Address.Local != "a" || again.State != outbox.StateScheduled {
		d.Error("the engine keeps the message that it returned")
	}
	c, err := d.e.Content(d.Context(), m.ID)
	if err != nil {
		d.Fatal(err)
	}
	if b, err := read(c); err != nil || string(b) != letter {
		d.Errorf("content %q, %v", b, err)
	}
}

// Contents come back as they were, of any size, again and again.
func contentExact(d *desk) {
	d.run(&clerk{deliver: func(_ context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
		first, err := read(c)
		second, err2 := read(c)
		sum := sha256.Sum256(first)
		if err != nil || err2 != nil || !slices.Equal(first, second) || c.Size() != int64(len(first)) || !slices.Equal(sum[:], m.Fingerprint) {
			d.Errorf("content of %d octets: %d came, then %d; %v, %v", m.Size, len(first), len(second), err, err2)
		}
		return dead(m)
	}})
	const k64, m1 = 64 << 10, 1 << 20
	random := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{0, 1, k64 - 1, k64, k64 + 1, m1} {
		octets := make([]byte, size)
		_, _ = random.Read(octets)
		m := message("lab")
		sum := sha256.Sum256(octets)
		m.Fingerprint = sum[:]
		if err := d.e.Accept(d.Context(), m, source(m, octets)); err != nil {
			d.Fatalf("%d octets: %v", size, err)
		}
		d.untilState(m.ID, outbox.StateFailed)
		c, err := d.e.Content(d.Context(), m.ID)
		if err != nil {
			d.Fatalf("%d octets: %v", size, err)
		}
		if got, err := read(c); err != nil || !slices.Equal(got, octets) || c.Size() != int64(size) {
			d.Errorf("%d octets: %d came back, %v", size, len(got), err)
		}
	}
}

// A digest is known: the message that has it comes back, and nothing is stored.
func digestKnown(d *desk) {
	m := full()
	m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
	d.accept(m)
	again := func(want outbox.State) {
		d.Helper()
		other := full()
		other.Idempotency, other.Fingerprint = m.Idempotency, []byte("another")
		err := d.e.Accept(d.Context(), other, source(other, []byte("other")))
		dup, ok := errors.AsType[*outbox.DuplicateError](err)
		switch {
		case !ok:
			d.Fatalf("a known digest: %v", err)
		case dup.Prior == nil || dup.Prior.ID != m.ID || dup.Prior.State != want || string(dup.Prior.Fingerprint) != "fingerprint":
			d.Errorf("prior message %+v; want %s, %s", dup.Prior, m.ID, want)
		}
		if _, err := d.e.Get(d.Context(), other.ID); !errors.Is(err, outbox.ErrNotFound) {
			d.Errorf("the duplicate: %v", err)
		}
	}
	again(outbox.StateScheduled)
	d.reopen()
	again(outbox.StateScheduled)
	d.crash(nil)
	again(outbox.StateScheduled)
	d.run(&clerk{})
	if err := d.e.Change(d.Context(), m.ID, func(m *outbox.Message) error {
		m.State, m.Due = outbox.StateQueued, time.Now().UTC()
		return nil
	}); err != nil {
		d.Fatal(err)
	}
	d.untilState(m.ID, outbox.StateSent)
	again(outbox.StateSent)
	d.reopen()
	again(outbox.StateSent)
}

// A digest is free when its message comes back without it or is dropped, and not
// because it has failed.
func digestFree(d *desk) {
	var keep atomic.Bool
	d.run(&clerk{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		if !keep.Load() {
			m.Idempotency, m.Fingerprint = nil, nil
		}
		return dead(m)
	}})
	keep.Store(true)
	kept := d.accept(full())
	d.untilState(kept.ID, outbox.StateFailed)
	repeat := full()
	repeat.Idempotency = kept.Idempotency
	if err := d.e.Accept(d.Context(), repeat, source(repeat, nil)); !isDuplicate(err) {
		d.Errorf("the digest of a message that failed and has it: %v", err)
	}
	keep.Store(false)
	m := d.accept(full())
	d.untilState(m.ID, outbox.StateFailed)
	next := full()
	next.Idempotency = m.Idempotency
	next.State, next.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
	d.accept(next)
	if err := d.e.Drop(d.Context(), m.ID); err != nil { // no longer its digest
		d.Fatal(err)
	}
	third := full()
	third.Idempotency = m.Idempotency
	if err := d.e.Accept(d.Context(), third, source(third, nil)); !isDuplicate(err) {
		d.Errorf("the digest of a message that is there: %v", err)
	}
	if err := d.e.Drop(d.Context(), next.ID); err != nil {
		d.Fatal(err)
	}
	third.State = outbox.StateQueued
	d.accept(third)
}

func isDuplicate(err error) bool {
	_, ok := errors.AsType[*outbox.DuplicateError](err)
	return ok
}

// Of many equal messages at once one is stored.
func digestParallel(d *desk) {
	c := &clerk{}
	d.run(c)
	model := full()
	var stored, doubled atomic.Int32
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			m := full()
			m.Idempotency = model.Idempotency
			switch err := d.e.Accept(d.Context(), m, source(m, []byte(letter))); {
			case err == nil:
				stored.Add(1)
			case isDuplicate(err):
				doubled.Add(1)
			default:
				d.Errorf("accept: %v", err)
			}
		})
	}
	group.Wait()
	if stored.Load() != 1 || doubled.Load() != 99 {
		d.Errorf("%d stored, %d duplicates; want 1 and 99", stored.Load(), doubled.Load())
	}
	d.until("it is sent", func() bool { return c.count() > 0 })
	d.never("a second try", func() bool { return c.count() > 1 })
}

// A message in a final state is dropped when its time has come, with its digest.
func forget(d *desk) {
	d.run(&clerk{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
		o := sent(m)
		m.Forget = time.Now().Add(quiet)
		return o
	}})
	m := d.accept(full())
	kept := message("lab")
	kept.State, kept.Due = outbox.StateScheduled, time.Now().Add(time.Hour).UTC()
	d.accept(kept)
	d.until("the message is forgotten", func() bool {
		_, err := d.e.Get(d.Context(), m.ID)
		return errors.Is(err, outbox.ErrNotFound)
	})
	again := full()
	again.Idempotency = m.Idempotency
	d.accept(again)
	d.get(kept.ID)
}
