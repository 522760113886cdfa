package bolt

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// stall lets merges wait until it is ended. Nothing else waits for them.
type stall struct {
	begun chan struct{} // one for each
	ended chan struct{}
}

func newStall() *stall { return &stall{make(chan struct{}, 64), make(chan struct{})} }

func (s *stall) wait() { s.begun <- struct{}{}; <-s.ended }

// stalled opens a bench whose merges wait.
func stalled(t *testing.T, o Options) (*bench, *stall) {
	t.Helper()
	b, s := newBench(t, o), newStall()
	b.accept("lab", small) // so that there is a salt
	b.get(b.accept("lab", small).ID)
	b.set(func() { b.e.beforeMerge = s.wait })
	return b, s
}

// set has the goroutine that commits change the engine.
func (b *bench) set(f func()) {
	b.Helper()
	if err := b.e.do(&op{apply: func(*batch) error { f(); return nil }}); err != nil {
		b.Fatal(err)
	}
}

// look reads a message aside.
func (b *bench) look(id string) chan error {
	done := make(chan error, 1)
	go func() {
		_, err := b.e.Get(b.Context(), id)
		done <- err
	}()
	return done
}

// TestAcceptWhileMerging: a merge holds up nobody but who reads, until there is no room in
// the other journal. Then it is waited for, and nothing is lost.
func TestAcceptWhileMerging(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 256 << 10
		b, s := stalled(t, Options{MaxBytes: 8 * limit})
		all := []*outbox.Message{b.accept("lab", small)}
		first := b.look(all[0].ID)
		<-s.begun
		octets := strings.Repeat(small, 20)
		for range 5 {
			all = append(all, b.accept("lab", octets))
		}
		second := b.look(all[5].ID)
		dropped := b.accept("lab", small)
		b.drop(dropped.ID)
		blocked, done := true, make(chan error, 1)
		go func() {
			for range 10 {
				m, c := letter("lab", octets)
				if err := b.e.Accept(t.Context(), m, c); err != nil {
					done <- err
					return
				}
				all = append(all, m)
			}
			blocked = false
			done <- nil
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if !blocked || len(first) > 0 || len(second) > 0 {
			t.Errorf("merges stall; accepts wait: %v, readers have ended: %d, %d", blocked, len(first), len(second))
		}
		if n := len(all); n < 7 {
			t.Errorf("only %d messages were accepted", n)
		}
		opens(t, b.crashed(), all, []*outbox.Message{dropped})
		close(s.ended)
		for _, ended := range []chan error{first, second, done} {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		b.set(func() { b.e.beforeMerge = func() {} })
		opens(t, b.crashed(), all, []*outbox.Message{dropped})
		b.close()
		opens(t, b.folder, all, []*outbox.Message{dropped})
		b.open(Options{})
	})
}

// TestFailedMerge: where a merge fails, all is in the journals still. The file is opened
// again, and nothing is written to a journal until the database has all.
func TestFailedMerge(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(p *plug){
		"before": func(p *plug) { p.err = errIO },
		"after":  func(p *plug) { p.late = errIO },
		"full":   func(p *plug) { p.err = syscall.ENOSPC },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := stalled(t, Options{})
			all := []*outbox.Message{b.accept("lab", small), b.accept("lab", small)}
			read := b.look(all[0].ID)
			<-s.begun
			all = append(all, b.accept("lab", small))
			b.set(func() { b.e.beforeMerge = func() {} })
			b.plug.set(func() { fail(b.plug) })
			close(s.ended)
			if err := <-read; err == nil && name != "full" {
				t.Error("the reader was not told")
			} else if err != nil && name == "full" {
				t.Error(err)
			}
			opens(t, b.crashed(), all, nil)
			m, c := letter("lab", small)
			if err := b.e.Accept(t.Context(), m, c); err == nil {
				t.Error("accepted on a bad disk")
			}
			b.plug.set(func() { b.plug.err, b.plug.late = nil, nil })
			b.until("accepts go on", func() bool {
				m, c := letter("lab", small)
				if err := b.e.Accept(t.Context(), m, c); err != nil {
					return false
				}
				all = append(all, m)
				return true
			})
			opens(t, b.crashed(), all, []*outbox.Message{m})
			all = append(all, b.accept("lab", small))
			opens(t, b.crashed(), all, []*outbox.Message{m})
			b.get(all[0].ID)
			b.close()
			opens(t, b.folder, all, []*outbox.Message{m})
			b.open(Options{})
		})
	}
}

// TestNeverStored: the contents of messages that are delivered before a merge are not
// written to the database.
func TestNeverStored(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	b.run(handler{window: 8})
	octets := strings.Repeat(small, (100<<10)/len(small))
	size := func() int64 {
		info, err := os.Stat(filepath.Join(b.folder, databaseFile))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	b.untilState(b.accept("lab", octets).ID, outbox.StateSent)
	before := size()
	for range 10 {
		var last *outbox.Message
		for range 30 {
			last = b.accept("lab", octets)
			b.until("it is delivered", func() bool { return b.landed(last.ID) })
		}
		b.untilState(last.ID, outbox.StateSent)
	}
	if grown := size() - before; grown > 8*int64(len(octets)) {
		t.Errorf("for %d octets the database has grown by %d", 300*len(octets), grown)
	}
}

// landed reports whether a message is out no more, and its outcome known to the engine.
func (b *bench) landed(id string) (landed bool) {
	b.set(func() { landed = b.e.flights[id] == nil })
	return landed
}

// TestManyWait: who looks for the next message of a long queue does not pass over all that
// were handed out before it.
func TestManyWait(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		const many = 500
		for range many {
			m, c := letter("lab", "x")
			m.Due = time.Now().Add(time.Minute).UTC()
			if err := b.e.Accept(t.Context(), m, c); err != nil {
				t.Fatal(err)
			}
		}
		var r recorder
		b.run(handler{window: 1, deliver: r.deliver})
		time.Sleep(time.Minute)
		synctest.Wait() // and no merge comes yet
		if n := r.count(); n != many {
			t.Errorf("%d tries of %d", n, many)
		}
		passed := 0
		b.set(func() {
			tx, err := b.e.db.Begin(false)
			if err != nil {
				t.Error(err)
				return
			}
			defer tx.Rollback()
			prefix := lanePrefix(indexDue, "lab")
			c := bucketsOf(tx, b.e.young.layer).index.Cursor(prefix)
			c.Seek(b.e.floors.from(prefix))
			passed = c.passed
		})
		if passed > 2*manyPassed {
			t.Errorf("%d keys are passed over", passed)
		}
	})
}
