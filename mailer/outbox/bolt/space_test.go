package bolt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestScheduledHalf: messages that are scheduled leave room for others, and what they
// took is free again when they are not.
func TestScheduledHalf(t *testing.T) {
	t.Parallel()
	for name, octets := range map[string]string{"small": strings.Repeat(small, 8), "large": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const most = 4 << 20
			b := newBench(t, Options{MaxBytes: most})
			schedule := func() (*outbox.Message, error) {
				m, c := letter("lab", octets)
				m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour)
				return m, b.e.Accept(t.Context(), m, c)
			}
			var all []*outbox.Message
			for {
				m, err := schedule()
				if errors.Is(err, outbox.ErrFull) {
					break
				}
				if err != nil || len(all) > 1000 {
					t.Fatal(err)
				}
				all = append(all, m)
			}
			if n := len(all) * len(octets); n < most/4 || n > most/2 {
				t.Errorf("%d octets of %d are scheduled", n, most)
			}
			b.reopenWith(Options{MaxBytes: most})
			if _, err := schedule(); !errors.Is(err, outbox.ErrFull) {
				t.Errorf("one more, opened again: %v", err)
			}
			b.accept("other", octets)
			b.drop(all[0].ID)
			if _, err := schedule(); err != nil {
				t.Errorf("after one is dropped: %v", err)
			}
			if left, _ := os.ReadDir(filepath.Join(b.folder, contentsFolder)); len(octets) > maxInline && len(left) > len(all)+1 {
				t.Errorf("%d files for %d messages", len(left), len(all)+1)
			}
		})
	}
}

func (b *bench) reopenWith(o Options) {
	b.Helper()
	b.close()
	b.open(o)
}

// TestForgetEarly: messages that were sent make room for others before their time, the
// oldest first; failed ones do not, nor those whose idempotency key may come again.
func TestForgetEarly(t *testing.T) {
	t.Parallel()
	for name, octets := range map[string]string{"small": small, "large": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const most = 1 << 20
			b := newBench(t, Options{MaxBytes: most})
			put := func(s outbox.State, digest string, age time.Duration) string {
				m, c := letter("lab", small)
				m.State, m.Accepted = s, time.Now().UTC().Add(-age)
				m.Forget, m.Idempotency = m.Accepted.Add(24*time.Hour), []byte(digest)
				if err := b.e.Accept(t.Context(), m, c); err != nil {
					t.Fatal(err)
				}
				return m.ID
			}
			failed := put(outbox.StateFailed, "", 12*time.Hour)
			young := put(outbox.StateSent, "young", spareAge-time.Minute)
			old := put(outbox.StateSent, "old", spareAge+time.Minute)
			canceled := put(outbox.StateCanceled, "", time.Minute)
			newest := put(outbox.StateSent, "", 0)
			there := func(id string) bool {
				_, err := b.e.Get(t.Context(), id)
				return err == nil
			}
			refused := false
			for n := 0; !refused; n++ {
				m, c := letter("lab", octets)
				err := b.e.Accept(t.Context(), m, c)
				if refused = errors.Is(err, outbox.ErrFull); (err != nil && !refused) || n > 1000 {
					t.Fatal(err)
				}
				if !there(newest) && (there(old) || there(canceled)) {
					t.Fatal("the newest was forgotten first")
				}
			}
			for id, want := range map[string]bool{failed: true, young: true, old: false, canceled: false, newest: false} {
				if there(id) != want {
					t.Errorf("%s is there: %v", map[string]string{failed: "failed", young: "young", old: "old", canceled: "canceled", newest: "newest"}[id], !want)
				}
			}
			b.close()
			check(t, b.folder)
			b.open(Options{})
		})
	}
}

// TestClockSetBack: what waits for its next try waits no longer than before. What is
// scheduled keeps its time.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ back, after time.Duration }{
		"an hour":  {time.Hour, 10 * time.Minute},
		"a year":   {365 * 24 * time.Hour, 10 * time.Minute},
		"a second": {time.Second, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, b *bench) {
				var r recorder
				// The messages were stored by the old time.
				const many = maxShift + 10
				var all []string
				for i := range many {
					m, c := letter([]string{"a", "b"}[i%2], "x")
					m.Due = time.Now().Add(tt.back + tt.after).UTC()
					m.Expires = m.Due.Add(48 * time.Hour)
					if err := b.e.Accept(t.Context(), m, c); err != nil {
						t.Fatal(err)
					}
					err := b.e.Change(t.Context(), m.ID, func(m *outbox.Message) error { m.State = outbox.StateQueued; return nil })
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, m.ID)
				}
				s, c := letter("a", "x")
				s.State, s.Due = outbox.StateScheduled, time.Now().Add(tt.back+tt.after).UTC()
				s.Expires = s.Due.Add(48 * time.Hour)
				if err := b.e.Accept(t.Context(), s, c); err != nil {
					t.Fatal(err)
				}
				b.run(handler{window: 100, deliver: r.deliver})
				b.setLane("b", outbox.Lane{State: outbox.LaneResting, Until: time.Now().Add(tt.back + tt.after)})
				synctest.Wait()
				err := b.e.do(&op{apply: func(*batch) error { b.e.clock.wall = b.e.clock.wall.Add(tt.back); return nil }})
				if err != nil {
					t.Fatal(err)
				}
				if tt.back < leastStep {
					time.Sleep(tt.back)
				}
				time.Sleep(tt.after - time.Second)
				synctest.Wait()
				if n := r.count(); n != 0 {
					t.Errorf("%d tries before the time", n)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				want := many
				if tt.back < leastStep {
					want++
				}
				if n := r.count(); n != want {
					t.Errorf("%d tries, want %d", n, want)
				}
				for _, id := range all {
					if n := r.tries(id); n != 1 {
						t.Fatalf("%d tries of one", n)
					}
				}
			})
		})
	}
}
