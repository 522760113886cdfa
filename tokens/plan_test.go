package tokens

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Turns come in their order, whatever was moved and taken out before.
func TestPlanOrder(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // reproducible
	p := newPlan(0)
	want := map[*Source]int64{}
	poked := map[*Source]bool{} // while they were not planned
	sources := make([]*Source, 300)
	for i := range sources {
		sources[i] = &Source{}
	}
	for range 5000 {
		s := sources[rng.IntN(len(sources))]
		switch at := 1 + rng.Int64N(1000); rng.IntN(10) {
		case 0, 1:
			p.poke(s)
			if _, planned := want[s]; planned {
				want[s] = 0
			} else {
				poked[s] = true
			}
		case 2:
			p.remove(s)
			delete(want, s)
			delete(poked, s)
		case 3, 4:
			got, next := p.pop(at)
			first := int64(never)
			for _, w := range want {
				first = min(first, w)
			}
			switch {
			case got == nil && next != first:
				t.Fatalf("nobody's turn until %d, want %d", next, first)
			case got != nil && (want[got] != first || first > at):
				t.Fatalf("popped a turn of %d at %d, the first is %d", want[got], at, first)
			case got == nil && first <= at:
				t.Fatalf("nobody's turn at %d, though one is due at %d", at, first)
			}
			delete(want, got)
		default:
			p.put(s, at)
			want[s] = at
			if poked[s] {
				want[s] = 0
			}
			delete(poked, s)
		}
	}
	var last int64
	for range len(want) {
		s, _ := p.pop(never - 1)
		if s == nil || want[s] < last {
			t.Fatal("out of order, or lost")
		}
		last = want[s]
		delete(want, s)
	}
	if s, next := p.pop(never - 1); s != nil || next != never {
		t.Errorf("an empty plan has the turn of %v at %d", s, next)
	}
}

func TestPlanPoke(t *testing.T) {
	t.Parallel()
	p := newPlan(2)
	a, b := &Source{}, &Source{}
	p.put(a, 100)
	p.put(b, 200)
	woken := func() bool {
		select {
		case <-p.wake:
			return true
		default:
			return false
		}
	}
	p.poke(b)
	p.poke(b)
	if !woken() || woken() {
		t.Error("not woken once")
	}
	if s, _ := p.pop(10); s != b {
		t.Error("the one that was poked is not first")
	}
	p.poke(b) // it is out
	if woken() {
		t.Error("woken for nothing")
	}
	if s, next := p.pop(10); s != nil || next != 100 {
		t.Errorf("next turn at %d, want 100", next)
	}
}

func TestPlanSpread(t *testing.T) {
	t.Parallel()
	p := newPlan(0)
	for range 10 {
		p.put(&Source{}, never)
	}
	p.spread(1000, 5)
	var got []int64
	for range 10 {
		_, next := p.pop(0)
		got = append(got, next)
		p.pop(next)
	}
	if want := []int64{1000, 1005, 1010, 1015, 1020, 1025, 1030, 1035, 1040, 1045}; !slices.Equal(got, want) {
		t.Errorf("turns at %v, want %v", got, want)
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	l := &line{every: 10 * time.Millisecond}
	now := time.Now()
	together := 0
	var last time.Time
	for range 1000 {
		slot := l.join(now)
		if slot.Equal(now) {
			together++
		}
		last = slot
	}
	if together != 10 {
		t.Errorf("%d go at once, want 10", together)
	}
	if wait := last.Sub(now); wait < 9*time.Second || wait > 10*time.Second {
		t.Errorf("the last of 1000 waits %v", wait)
	}
	if later := now.Add(time.Minute); !l.join(later).Equal(later) {
		t.Error("a line that has emptied keeps waiting")
	}
}

// A poke that comes between finding out when the next turn is and planning it is
// not lost; the one before is what was just found out.
func TestPokeWhileReplanned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.authorized()
		s := f.source()
		f.mustToken(s)
		d := (&Refresher{Sources: []*Source{s}, Store: f.store}).duty(t.Context())
		defer d.end()
		now := time.Now().UnixNano()
		_, _ = d.plan.pop(now)
		s.poke()
		d.replan(s)
		if got, _ := d.plan.pop(now); got != nil {
			t.Error("a poke from before has it looked at again")
		}
		d.plan.put(s, 0)
		_, _ = d.plan.pop(now)
		at, _, _ := s.turn(time.Now(), d.upkeep.Load())
		s.Reject(s.cell.token.Load().AccessToken.Reveal())
		d.plan.put(s, at)
		if got, next := d.plan.pop(now); got != s {
			t.Errorf("the poke is lost; the next look is in %v", time.Duration(next-now))
		}
	})
}

// A plan that ends leaves nothing to the next, though pokes come meanwhile.
func TestDetach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		var list []*Source
		for i := range 3 {
			f.account.User = fmt.Sprintf("user-%d@example.com", i)
			list = append(list, f.source())
		}
		r := &Refresher{Sources: list, Store: f.store}
		p := r.duty(t.Context()).plan
		list[0].detach(p)
		list[2].poke()
		list[1].detach(p)
		list[2].detach(p)
		if len(p.turns) != 0 {
			t.Errorf("%d turns are left", len(p.turns))
		}
		next := r.duty(t.Context())
		defer next.end()
		for range list {
			if s, _ := next.plan.pop(never - 1); s == nil {
				t.Error("a source is missing in the next plan")
			}
		}
	})
}
