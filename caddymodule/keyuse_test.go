package caddymodule

import (
	"testing"
	"time"
)

// TestKeyRate: never do more messages come in a window than a key may send, and what
// the header says comes true.
func TestKeyRate(t *testing.T) {
	t.Parallel()
	const most, window = 10, time.Minute
	now := time.Date(2026, 1, 1, 0, 0, 7, 11, time.UTC)
	u := &keyUse{now: func() time.Time { return now }}
	var came []time.Time
	for step := range 3000 {
		n := step%4 + 1
		left, ok := u.take(n, most, window)
		if ok {
			for range n {
				came = append(came, now)
			}
		}
		for len(came) > 0 && now.Sub(came[0]) >= 2*window {
			came = came[1:]
		}
		within := 0
		for _, at := range came {
			if now.Sub(at) < window {
				within++
			}
		}
		if within > most {
			t.Fatalf("step %d: %d messages within the window", step, within)
		}
		if left.most != most || left.left < 0 || left.left > most-within {
			t.Fatalf("step %d: %+v with %d within the window", step, left, within)
		}
		if !ok {
			if left.reset <= 0 || left.reset > window*keySlices/(keySlices-1)+time.Second {
				t.Fatalf("step %d: %+v", step, left)
			}
			later := &keyUse{now: func() time.Time { return now.Add(left.reset) }, window: u.window, counts: u.counts, part: u.part, total: u.total}
			if _, ok := later.take(n, most, window); !ok {
				t.Fatalf("step %d: after %v there is still no room for %d", step, left.reset, n)
			}
		}
		now = now.Add(time.Duration(step%13) * 517 * time.Millisecond)
	}
	now = now.Add(2 * window)
	if left, ok := u.take(most, most, window); !ok || left.left != 0 {
		t.Errorf("after a pause: %+v, %v", left, ok)
	}
	if _, ok := u.take(1, most, window); ok {
		t.Error("one more than the limit")
	}
	if left, ok := u.take(1, most, 2*window); !ok || left.left != most-1 {
		t.Errorf("another window: %+v, %v", left, ok)
	}
	if left, ok := u.take(1000, 0, 0); !ok || left.most != 0 {
		t.Errorf("no limit: %+v, %v", left, ok)
	}
}
