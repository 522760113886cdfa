package outbox

import "time"

// schedule is how long a message waits after each try that failed; the last entry
// stays. Greylisting ends within minutes, outages within hours.
var schedule = [...]time.Duration{
	30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
	10 * time.Minute, 20 * time.Minute, 40 * time.Minute, time.Hour,
}

// nextTry returns when a message is due after so many tries that failed. A jitter
// from 0 to 1 spreads it by a fifth to both sides, so that messages that failed
// together do not come back together.
func nextTry(now time.Time, attempts int, jitter float64, atLeast time.Duration) time.Time {
	wait := schedule[min(max(attempts, 1), len(schedule))-1]
	wait = time.Duration(float64(wait) * (0.8 + 0.4*jitter))
	return now.Add(max(wait, atLeast))
}
