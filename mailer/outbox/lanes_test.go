package outbox_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestFailedTogether: tries that were under way when the lane closed lengthen its rest
// no further, and do not open it.
func TestFailedTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
			time.Sleep(time.Duration(n) * time.Second)
			if n == 3 { // it got through before the server went down
				return taken(s)
			}
			return mailer.Receipt{}, refusal(mailer.StageConnect, mailer.KindTemporary, 0)
		})
		var sent atomic.Int32
		for range 6 {
			go func() {
				r, err := o.Send(t.Context(), submission("lab"))
				if err != nil {
					t.Error(err)
				}
				if r.Status == mailer.StatusSent {
					sent.Add(1)
				}
			}()
		}
		time.Sleep(10 * time.Second)
		if sent.Load() != 1 { // its lane has closed meanwhile, but it was under way
			t.Errorf("%d senders heard that theirs was sent, want 1", sent.Load())
		}
		time.Sleep(10 * time.Second)
		// The first failed after 1 s; its rest ends at 11 s.
		if got, want := o.tried(), []time.Duration{0, 0, 0, 0, 11 * time.Second}; !slices.Equal(got, want) {
			t.Errorf("tried at %v, want %v", got, want)
		}
	})
}

// TestThrottleObeyed: a whole lane waits as long as its server has asked for, and no
// other lane does.
func TestThrottleObeyed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := open(t, func(n int, s mailer.Submission) (mailer.Receipt, error) {
			if n == 1 {
				e := refusal(mailer.StageMail, mailer.KindThrottled, 451)
				e.RetryAfter = 7 * time.Minute
				return mailer.Receipt{}, e
			}
			return taken(s)
		})
		var ids []string
		for range 3 {
			s := submission("lab")
			ids = append(ids, s.ID)
			r, err := o.Send(t.Context(), s)
			if err != nil || r.Status != mailer.StatusQueued || r.Due.Sub(o.begin) != 7*time.Minute {
				t.Errorf("%+v, %v", r, err)
			}
			time.Sleep(time.Minute)
		}
		if r, err := o.Send(t.Context(), submission("other")); err != nil || r.Status != mailer.StatusSent {
			t.Errorf("%+v, %v", r, err)
		}
		time.Sleep(10 * time.Minute)
		for _, id := range ids {
			if m := o.get(t, id); m.State != outbox.StateSent || m.Finished.Sub(o.begin) != 7*time.Minute {
				t.Errorf("%s at %v", m.State, m.Finished.Sub(o.begin))
			}
		}
	})
}
