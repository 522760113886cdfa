package mailer

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestWithin holds Within to what context.WithTimeout does.
func TestWithin(t *testing.T) {
	t.Parallel()
	type key struct{}
	errGone := errors.New("gone")
	for name, makes := range map[string]func(context.Context, time.Duration) (context.Context, context.CancelFunc){"within": Within, "context": context.WithTimeout} {
		for _, waits := range []bool{false, true} {
			cases := map[string]struct {
				end         func(parent context.CancelCauseFunc, cancel context.CancelFunc)
				want, cause error
			}{
				"nothing":   {func(context.CancelCauseFunc, context.CancelFunc) { time.Sleep(time.Second - 1) }, nil, nil},
				"time":      {func(context.CancelCauseFunc, context.CancelFunc) { time.Sleep(time.Second) }, context.DeadlineExceeded, context.DeadlineExceeded},
				"cancelled": {func(_ context.CancelCauseFunc, cancel context.CancelFunc) { cancel() }, context.Canceled, context.Canceled},
				"parent":    {func(parent context.CancelCauseFunc, _ context.CancelFunc) { parent(errGone) }, context.Canceled, errGone},
				"cancelled and late": {func(_ context.CancelCauseFunc, cancel context.CancelFunc) {
					cancel()
					time.Sleep(time.Hour)
				}, context.Canceled, context.Canceled},
			}
			for what, c := range cases {
				if waits {
					what += ", somebody waits"
				}
				t.Run(name+"/"+what, func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						parent, end := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
						ctx, cancel := makes(parent, time.Second)
						defer cancel()
						child, endChild := context.WithCancel(context.Background())
						defer endChild()
						if waits {
							child, endChild = context.WithCancel(ctx)
							defer endChild()
						}
						if at, ok := ctx.Deadline(); !ok || time.Until(at) != time.Second {
							t.Errorf("ends at %v, %v", at, ok)
						}
						c.end(end, cancel)
						synctest.Wait()
						if ctx.Err() != c.want || context.Cause(ctx) != c.cause { //nolint:errorlint // the very same
							t.Errorf("ended by %v because of %v, want %v because of %v", ctx.Err(), context.Cause(ctx), c.want, c.cause)
						}
						if waits && (child.Err() != c.want || context.Cause(child) != c.cause) { //nolint:errorlint // the very same
							t.Errorf("who waits ended by %v because of %v, want %v because of %v", child.Err(), context.Cause(child), c.want, c.cause)
						}
						done := false
						select {
						case <-ctx.Done():
							done = true
						default:
						}
						if done != (c.want != nil) {
							t.Errorf("done: %v", done)
						}
						if got := ctx.Value(key{}); got != "value" {
							t.Errorf("value %v", got)
						}
					})
				})
			}
		}
	}
	near, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	later, cancel := Within(near, time.Hour)
	defer cancel()
	want, _ := near.Deadline()
	if got, _ := later.Deadline(); !got.Equal(want) {
		t.Errorf("ends at %v, later than what it is derived from, %v", got, want)
	}
}

// TestHangUp has a connection hung up when what it is used for ends, and no later.
func TestHangUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end   func(parent context.CancelFunc)
		alive bool
	}{
		"in time": {func(context.CancelFunc) { time.Sleep(time.Second - 1) }, true},
		"late":    {func(context.CancelFunc) { time.Sleep(time.Second) }, false},
		"gone":    {func(parent context.CancelFunc) { parent() }, false},
	} {
		for _, waits := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					near, far := net.Pipe()
					defer far.Close()
					conn := &Conn{raw: near, hangUp: func() { near.Close() }}
					for range 2 { // the first one is over in time
						over, cancel := Within(t.Context(), time.Second)
						conn.release(conn.guard(over))
						cancel()
						time.Sleep(time.Minute)
					}
					parent, end := context.WithCancel(t.Context())
					defer end()
					ctx, cancel := Within(parent, time.Second)
					defer cancel()
					if waits {
						ctx.Done()
					}
					stop := conn.guard(ctx)
					c.end(end)
					synctest.Wait()
					conn.release(stop)
					if conn.broken == c.alive {
						t.Errorf("broken: %v", conn.broken)
					}
					near.SetDeadline(time.Now()) //nolint:errcheck // it may be closed
					if _, err := near.Read(make([]byte, 1)); errors.Is(err, io.ErrClosedPipe) == c.alive || err == nil {
						t.Errorf("read: %v", err)
					}
				})
			})
		}
	}
}
