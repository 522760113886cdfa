package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestLentMemory: nobody refers to the memory of a generation that was merged when it
// serves again: it is overwritten then, and all messages are whole wherever they are read.
func TestLentMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, lentMemory)
}

func lentMemory(t *testing.T) {
	b := newBench(t, Options{MaxBytes: 4 << 20, Sealer: slowSealer{sealer()}}) // the journals take turns often
	var mu sync.Mutex
	sent := map[string]string{} // contents by id
	look := func(m *outbox.Message, c mailer.Content, err error) {
		t.Helper()
		mu.Lock()
		want := sent[m.ID]
		mu.Unlock()
		if err == nil {
			var got string
			if got, err = readAll(c); err == nil && got != want {
				err = fmt.Errorf("content %.20q of %.20q", got, want)
			}
		}
		if err != nil {
			t.Errorf("message %s: %v", m.ID, err)
		}
	}
	var tried sync.Map // ids
	b.run(handler{window: 3, deliver: func(_ context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
		tried.Store(m.ID, nil)
		look(m, c, nil)
		if m.Attempts++; m.Attempts == 1 && m.Size%5 == 0 {
			return outbox.Outcome{} // again at once
		}
		return outbox.Outcome{Verdict: outbox.Sent}
	}})
	b.setLane("paused", outbox.Lane{State: outbox.LanePaused})
	var group sync.WaitGroup
	kept := make([][]*outbox.Message, 4)
	var accepted sync.Map
	for w := range kept {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			for i := range 400 {
				time.Sleep(time.Millisecond)
				octets := fmt.Sprint(w, i) + strings.Repeat(small, r.IntN(10))
				m, c := letter([]string{"paused", "a", "b"}[i%3], octets)
				m.Idempotency = fmt.Append(nil, "key ", w, i)
				mu.Lock()
				sent[m.ID] = octets
				mu.Unlock()
				if err := b.e.Accept(t.Context(), m, c); errors.Is(err, outbox.ErrFull) {
					continue
				} else if err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					kept[w] = append(kept[w], m)
				} else {
					accepted.Store(m.ID, nil)
				}
				if len(kept[w]) > 20 {
					b.drop(kept[w][0].ID)
					kept[w] = kept[w][1:]
				}
				if i%100 == 99 {
					m := kept[w][len(kept[w])-1]
					c, err := b.e.Content(t.Context(), m.ID)
					look(m, c, err)
				}
			}
		})
	}
	group.Wait()
	if n := b.lent.Load(); n < 5 {
		t.Errorf("memory has served again only %d times", n)
	}
	time.Sleep(time.Minute)
	for id := range accepted.Range {
		if _, ok := tried.Load(id); !ok {
			t.Errorf("message %s was not tried", id)
		}
	}
	b.stop()
	b.reopen()
	for _, m := range slices.Concat(kept...) {
		c, err := b.e.Content(t.Context(), m.ID)
		look(m, c, err)
	}
	b.close()
	check(t, b.folder)
	b.open(Options{})
}

// slowSealer takes so long to open something that generations come and go meanwhile.
type slowSealer struct{ outbox.Sealer }

func (s slowSealer) AppendOpen(dst []byte, name string, sealed []byte) ([]byte, error) {
	time.Sleep(400 * time.Millisecond)
	return s.Sealer.AppendOpen(dst, name, sealed)
}

// TestUndoneInLentMemory: a change that was taken back is none, whatever was in its memory
// before.
func TestUndoneInLentMemory(t *testing.T) {
	t.Parallel()
	g := newGeneration(1)
	for i := range 1000 {
		g.change(inIndex, fmt.Append(nil, "before ", i), isSet, []byte("stale"))
	}
	g.layer.keep()
	g = g.successor(2)
	for i := range 1000 {
		g.change(inIndex, fmt.Append(nil, "after ", i), isSet, []byte("fresh"))
	}
	g.undo()
	for c := range g.all {
		t.Errorf("%q is %q", c.key, c.value)
	}
}

// TestMemoryAtRest: when no more come than a journal takes within a second, no memory is kept
// for the next.
func TestMemoryAtRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{MaxBytes: 16 << 20})
		octets := strings.Repeat(small, 20)
		for range 200 {
			b.accept("lab", octets)
		}
		if b.lent.Load() == 0 {
			t.Error("memory did not serve again")
		}
		b.accept("lab", small)
		time.Sleep(mergeTime)
		synctest.Wait()
		b.set(func() {
			if e := b.e; e.past != nil || e.old != nil || len(e.young.blocks.all) > 1 || len(e.young.slabs.all) > 1 {
				t.Errorf("at rest there are %d blocks and %d slabs, past: %v, old: %v", len(e.young.blocks.all), len(e.young.slabs.all), e.past != nil, e.old != nil)
			}
		})
	})
}

// TestPieces: pieces serve again while there is room, those that were not needed go.
func TestPieces(t *testing.T) {
	t.Parallel()
	var p pieces[byte]
	for _, least := range []int{1, 50, 10} {
		copy(p.next(least, 20), "used")
	}
	p = p.again(75)
	if len(p.all) != 2 || len(p.all[0]) != 20 || len(p.all[1]) != 50 {
		t.Fatalf("kept: %q", p.all)
	}
	if got := p.next(30, 20); len(got) != 50 || !bytes.HasPrefix(got, []byte("used")) {
		t.Errorf("another piece than that which is large enough: %q", got)
	}
	if got := p.next(5, 20); len(got) != 20 || got[0] != 0 {
		t.Errorf("not a new piece, when all are used: %q", got)
	}
	p = p.again(1000)
	p.next(1, 20)
	if p = p.again(1000); len(p.all) != 1 {
		t.Errorf("%d pieces, of which one was needed", len(p.all))
	}
}
