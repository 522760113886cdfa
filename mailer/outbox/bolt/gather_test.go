package bolt

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestGather: a batch waits for three of four of a crowd, and for nobody else, as long as a
// flush takes and no longer.
func TestGather(t *testing.T) {
	t.Parallel()
	const (
		flush = 400 * time.Microsecond
		apart = 10 * time.Microsecond // come those who are waited for
	)
	posts := func(n int) (all []*op) {
		for range n {
			all = append(all, &op{accept: true, done: make(chan error, 1)})
		}
		return all
	}
	for _, tt := range []struct {
		name         string
		crowds       []int // that were seen
		flush        time.Duration
		there, later []*op
		end          time.Duration // of the queue; zero: after all this
		want         time.Duration
	}{
		{name: "alone", crowds: []int{1, 1, 1}, there: posts(1), later: posts(1), want: 0},
		{name: "two", crowds: []int{2, 2}, there: posts(1), later: posts(1), want: 0},
		{name: "crowd", crowds: []int{16}, there: posts(1), later: posts(15), want: 11 * apart},
		{name: "crowd that is there", crowds: []int{16}, there: posts(12), later: posts(4), want: 0},
		{name: "part of a crowd", crowds: []int{16}, there: posts(1), later: posts(3), want: flush},
		{name: "slow disk", crowds: []int{16}, flush: time.Second, there: posts(1), want: maxGather},
		{name: "multitude", crowds: []int{1000}, there: posts(maxCrowd * 3 / 4), want: 0},
		{name: "crowd that went", crowds: []int{16, 1, 1, 1, 1, 1, 1, 1}, there: posts(1), later: posts(1), want: 0},
		{name: "crowd that went a moment ago", crowds: []int{16, 1}, there: posts(1), later: posts(15), want: 8 * apart},
		{name: "nothing there", crowds: []int{16}, later: posts(15), want: 0},
		{name: "reader there", crowds: []int{16}, there: append(posts(1), &op{reader: true, done: make(chan error, 1)}), later: posts(1), want: 0},
		{name: "reader", crowds: []int{16}, there: posts(1), later: []*op{{reader: true, done: make(chan error, 1)}}, want: apart},
		{name: "outcome that nobody waits for", crowds: []int{16}, there: posts(1), later: []*op{{keep: true}}, want: flush},
		{name: "end", crowds: []int{16}, there: posts(1), end: flush / 2, want: flush / 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newQueue()
				var g gathering
				for _, n := range tt.crowds {
					g.note(n, max(tt.flush, flush))
				}
				for _, o := range tt.there {
					q.add(o)
				}
				begin := time.Now()
				go func() {
					for _, o := range tt.later {
						time.Sleep(apart)
						q.add(o)
					}
				}()
				if tt.end > 0 {
					time.AfterFunc(tt.end, q.close)
				}
				g.wait(&q)
				if took := time.Since(begin); took != tt.want {
					t.Errorf("it took %v, not %v", took, tt.want)
				}
				synctest.Wait()
				q.take()
				time.Sleep(time.Second)
				q.take()
				select {
				case <-q.wake:
				default:
				}
				if q.accepts != 0 || q.hasty != 0 {
					t.Errorf("the empty queue counts %d and %d", q.accepts, q.hasty)
				}
				if q.add(&op{}); len(q.wake) == 0 && tt.end == 0 {
					t.Error("what comes after a batch wakes nobody")
				}
			})
		})
	}
}

// TestFlushesOfCrowd: clients that post one message after the other share flushes with
// most others; the one who stays behind does not wait for those who went.
func TestFlushesOfCrowd(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		const clients, each, flush = 16, 50, time.Millisecond
		b.plug.set(func() { b.plug.fail = func() error { time.Sleep(flush); return nil } })
		before := b.stored()
		post := func() {
			m, c := letter("lab", small)
			if err := b.e.Accept(context.Background(), m, c); err != nil {
				t.Error(err)
			}
		}
		var group sync.WaitGroup
		for i := range clients {
			group.Go(func() {
				for k := range each {
					post()
					time.Sleep(flush / clients * time.Duration((i+k)%clients) / 2)
				}
			})
		}
		group.Wait()
		if n := clients * each / (b.stored() - before); n < 10 {
			t.Errorf("%d messages a flush", n)
		}
		for range 10 {
			post()
		}
		begin := time.Now()
		post()
		if took := time.Since(begin); took != flush {
			t.Errorf("a lone client waited for %v", took)
		}
	})
}
