package mailer

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestDeadline: a deadline is set again where it would be wrong, and not for what makes
// no difference.
func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const minute = time.Minute
		var d deadline
		for i, step := range []struct {
			after, within time.Duration
			moves         bool
		}{
			{0, 5 * minute, true},
			{0, 5 * minute, false},
			{999 * time.Millisecond, 5 * minute, false},
			{time.Millisecond, 5 * minute, true},
			{0, 10 * minute, true},
			{0, 5 * minute, true}, // sooner, by whatever
			{0, 5*minute - 1, true},
			{0, 64 * time.Millisecond, true},
			{time.Millisecond, 64 * time.Millisecond, true}, // a second is much here
			{999 * time.Microsecond, 64 * time.Millisecond, false},
			{0, -minute, true},
			{0, -minute, true}, // which is over anyway
			{minute, minute, true},
		} {
			time.Sleep(step.after)
			if d.moves(uptime(), step.within) != step.moves {
				t.Errorf("%d: moves is not %v", i, step.moves)
			}
		}
	})
}
