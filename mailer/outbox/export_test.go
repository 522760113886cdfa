package outbox

// HandlerOf returns the policy as the engine sees it.
func HandlerOf(o *Outbox) Handler { return handler{o} }

// SetJitter replaces chance.
func SetJitter(o *Outbox, f func() float64) { o.jitter = f }

// Waiting is how many senders wait.
func Waiting(o *Outbox) int {
	o.waiters.mu.Lock()
	defer o.waiters.mu.Unlock()
	return len(o.waiters.of)
}
