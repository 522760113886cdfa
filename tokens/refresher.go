package tokens

import (
	"context"
	"log/slog"
	"time"
)

const (
	// refreshTick is how often the refresher looks around at least. It is also
	// how soon a sign-in at another instance is noticed where one is waited for.
	refreshTick = 5 * time.Second
	// manyAccounts is up to how many accounts all are kept in memory, kept fresh
	// and watched for what other instances do. Of more, only those that are in
	// use.
	manyAccounts = 1000
)

// Refresher renews tokens before they end, without traffic. It has no goroutine
// and no timer for an account: a plan says whose turn is next.
type Refresher struct {
	// Sources are the accounts to look after. A Source is looked after by one
	// running Refresher at a time.
	Sources []*Source
	// Changes brings the sources to look after from now on, each list in the place
	// of the one before. Those that stay go on undisturbed. nil: they do not
	// change.
	Changes <-chan []*Source
	// Store is swept of what ended sign-ins leave, and searched for refreshes that
	// were cut short. nil is the first source's, which is not swept.
	Store *Store
	// Policy says which tokens are kept fresh.
	Policy Policy
	// Unauthorized is told of each account whose first look finds that nothing can be
	// sent until a person signs in. It may be called from several goroutines at once,
	// and should return soon; nil is nobody.
	Unauthorized func(a Account)
	// Logger gets what went wrong. nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Run works until the context ends, and returns when no renewal of its sources
// is under way: a refresh that was sent is never cut short. Tokens that are not
// stored by then are tried to be once more.
func (r *Refresher) Run(ctx context.Context) {
	underWay.begin() // what is not stored yet is, in the end
	defer underWay.end()
	d := r.duty(ctx)
	defer d.end()
	tick := time.NewTicker(intentBeat)
	defer tick.Stop()
	d.chores(r.now()) // refreshes that were cut come first
	for {
		wait := d.step(r.now(), time.Now())
		next := time.NewTimer(min(max(wait, time.Millisecond), refreshTick))
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-next.C:
		case <-d.plan.wake:
		case sources := <-r.Changes:
			d.use(sources)
		case <-tick.C:
			d.chores(r.now())
		}
		next.Stop()
	}
}

func (r *Refresher) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func (r *Refresher) logger() *slog.Logger {
	if r.Logger != nil {
		return r.Logger
	}
	return discard
}
