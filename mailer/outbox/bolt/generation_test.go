package bolt

import (
	"errors"
	"fmt"
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

// opens opens a folder as it is after a crash, twice, and looks whether the messages that
// are in it are these.
func opens(t *testing.T, folder string, want, not []*outbox.Message) {
	t.Helper()
	for range 2 { // what was taken over once does not come again
		e, err := Open(folder, Options{Sealer: sealer()})
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range want {
			if _, err := e.Content(t.Context(), m.ID); err != nil {
				t.Errorf("message %d of %d: %v", i, len(want), err)
			}
		}
		for i, m := range not {
			if _, err := e.Get(t.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
				t.Errorf("message %d of %d that should not be there: %v", i, len(not), err)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		check(t, folder)
	}
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

// TestCrashWhileMerging: at whatever point of a merge a crash comes, and with how many
// entries in either journal, all is there afterwards that was acknowledged.
func TestCrashWhileMerging(t *testing.T) {
	t.Parallel()
	for _, later := range []int{0, 1, 5} {
		t.Run(fmt.Sprint(later), func(t *testing.T) {
			t.Parallel()
			b, s := stalled(t, Options{})
			var old, young []*outbox.Message
			for range 3 {
				old = append(old, b.accept("lab", small))
			}
			gone := b.accept("lab", small)
			read := b.look(old[0].ID)
			<-s.begun
			for range later {
				young = append(young, b.accept("lab", small))
			}
			if later > 0 {
				b.drop(gone.ID) // of the old journal, by the young one
			}
			all := append(old, young...)
			var copies []string
			inCopies := func(p *plug) { // each in the state of the moment
				p.fail = func() error { copies = append(copies, b.crashed()); return nil }
				p.late = nil
			}
			copies = append(copies, b.crashed()) // before the merge
			if n := len(journalsOf(t, copies[0])); n != min(2, 1+later) {
				t.Fatalf("%d journals count", n)
			}
			b.plug.set(func() { inCopies(b.plug) }) // before it is committed
			close(s.ended)
			if err := <-read; err != nil {
				t.Error(err)
			}
			b.plug.set(func() { b.plug.fail = nil })
			copies = append(copies, b.crashed()) // behind it
			for _, folder := range copies {
				if later == 0 {
					opens(t, folder, append(all, gone), nil)
				} else {
					opens(t, folder, all, []*outbox.Message{gone})
				}
			}
			if len(copies) < 3 {
				t.Errorf("only %d copies", len(copies))
			}
			b.set(func() { b.e.beforeMerge = func() {} })
		})
	}
}

// TestTornOlder: where the older journal has lost its end, the younger one does not come on
// top of the gap.
func TestTornOlder(t *testing.T) {
	t.Parallel()
	b, s := stalled(t, Options{})
	all := []*outbox.Message{b.accept("lab", small), b.accept("lab", small)}
	read := b.look(all[0].ID)
	<-s.begun
	all = append(all, b.accept("lab", small), b.accept("lab", small))
	whole := b.crashed()
	close(s.ended)
	if err := <-read; err != nil {
		t.Error(err)
	}
	b.set(func() { b.e.beforeMerge = func() {} })
	both := journalsOf(t, whole)
	if len(both) != 2 || len(both[0].entries) != 2 || len(both[1].entries) != 2 {
		t.Fatalf("the journals have %v", both)
	}
	end := both[0].size()
	first := entryHeader + len(both[0].entries[0])
	for name, tt := range map[string]struct {
		of     int
		change func([]byte)
		there  int // of all
	}{
		"nothing":                  {0, func([]byte) {}, 4},
		"the end of the older":     {0, func(j []byte) { j[end-1]++ }, 1},
		"its last entry":           {0, func(j []byte) { clear(j[first:]) }, 1},
		"its beginning":            {0, func(j []byte) { j[0]++ }, 0},
		"the end of the younger":   {1, func(j []byte) { j[both[1].size()-1]++ }, 3},
		"the younger":              {1, func(j []byte) { clear(j) }, 2},
		"rubbish behind the older": {0, func(j []byte) { copy(j[end:], "rubbish") }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "copy")
			copyFolder(t, whole, folder)
			f := both[tt.of]
			octets := append([]byte(nil), f.octets...)
			tt.change(octets)
			if err := os.WriteFile(filepath.Join(folder, f.name), octets, 0o600); err != nil {
				t.Fatal(err)
			}
			opens(t, folder, all[:tt.there], all[tt.there:])
		})
	}
}

// TestOneJournal: what a version left that had one journal is taken over, and not again.
func TestOneJournal(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	b.accept("lab", small)
	b.get(b.accept("lab", small).ID)
	var all []*outbox.Message
	for range 3 {
		all = append(all, b.accept("lab", small))
	}
	for name, also := range map[string]bool{"alone": false, "beside others": true} {
		t.Run(name, func(t *testing.T) {
			folder := b.crashed()
			f := journalsOf(t, folder)[0]
			if err := os.Rename(filepath.Join(folder, f.name), filepath.Join(folder, oneJournal)); err != nil {
				t.Fatal(err)
			}
			for _, name := range journalFiles {
				_ = os.Remove(filepath.Join(folder, name))
				if also { // of a newer version that was in use before
					if err := os.WriteFile(filepath.Join(folder, name), make([]byte, journalSize), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			opens(t, folder, all, nil)
			if _, err := os.Stat(filepath.Join(folder, oneJournal)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
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

// TestLargeEntry: what no journal has room for is stored all the same, and what comes
// before and behind it, too.
func TestLargeEntry(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{MaxBytes: 1 << 20}) // journals of an eighth
	huge := strings.Repeat(small, (200<<10)/len(small))
	var all []*outbox.Message
	for range 2 {
		for _, octets := range []string{small, huge, small, small} {
			all = append(all, b.accept("lab", octets))
			opens(t, b.crashed(), all, nil)
		}
	}
	for _, name := range journalFiles {
		if info, err := os.Stat(filepath.Join(b.folder, name)); err != nil || info.Size() != 1<<17 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestRefusedEntry: behind an entry that may be in the journal though it was refused comes
// no other.
func TestRefusedEntry(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{"full": syscall.ENOSPC, "bad": errIO} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{})
			all := []*outbox.Message{b.accept("lab", small), b.accept("lab", small)}
			b.plug.set(func() { b.plug.late = failure })
			refused, c := letter("lab", small)
			if err := b.e.Accept(t.Context(), refused, c); !errors.Is(err, failure) {
				t.Errorf("accept: %v", err)
			}
			b.plug.set(func() { b.plug.late = nil })
			b.drop(all[1].ID)
			opens(t, b.crashed(), all[:1], []*outbox.Message{all[1], refused})
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
