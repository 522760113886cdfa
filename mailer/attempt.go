package mailer

import (
	"context"
	"fmt"
	"time"
)

// attempt is a try by a tenant that has a failover. Once it is the message's
// turn, it may take so long until the content begins that time is left for the
// other tenant. It serves one goroutine. A nil attempt is not bounded.
type attempt struct {
	breaker *Breaker
	probe   bool
	// bounded ends when the time is over; nil before it begins.
	bounded context.Context //nolint:containedctx // it begins in the midst of a submission
	cancel  context.CancelFunc
	began   time.Time
}

// longestTry is the most time that a try has.
const longestTry = 15 * time.Second

// errSlow is why a try is broken off.
var errSlow = fmt.Errorf("the mail server took too long, and there is another tenant to ask: %w", context.DeadlineExceeded)

// bound returns ctx, bounded by the time of the try, which begins with the first
// call.
func (a *attempt) bound(ctx context.Context) context.Context {
	if a == nil {
		return ctx
	}
	if a.bounded == nil {
		a.began = time.Now()
		most := longestTry
		if at, ok := ctx.Deadline(); ok {
			most = min(most, time.Until(at)/2)
		}
		a.bounded, a.cancel = context.WithTimeoutCause(ctx, most, errSlow)
	}
	return a.bounded
}

// dialer bounds dial. Who has waited for a connection until the tenant went down
// need not dial any more.
func (a *attempt) dialer(dial func(context.Context) (*Conn, error)) func(context.Context) (*Conn, error) {
	if a == nil {
		return dial
	}
	return func(ctx context.Context) (*Conn, error) {
		if !a.probe {
			if e := a.breaker.refused(); e != nil {
				return nil, downError{e}
			}
		}
		return dial(a.bound(ctx))
	}
}

// conclusive reports whether a failure tells something of the tenant: not where
// the try was given up soon, by whomever.
func (a *attempt) conclusive(ctx context.Context, e *Error) bool {
	if a.bounded != nil {
		ctx = a.bounded
	}
	return e.Reply.Code != 0 || ctx.Err() == nil || a.bounded != nil && time.Since(a.began) >= longTry
}

// end gives back what the attempt holds.
func (a *attempt) end() {
	if a.cancel != nil {
		a.cancel()
	}
}

// downError is why a message did not try its tenant. Its refusal says nothing that
// the breaker does not know.
type downError struct{ refusal *Error }

func (e downError) Error() string { return e.refusal.Error() }
