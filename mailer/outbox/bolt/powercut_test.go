//go:build powercut && linux

package bolt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/internal/disktest"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// These tests need root, loop devices and ext4's tools, and fail without them.
//
//	go test -tags powercut -run 'PowerCut|RealDisk' -count=1 -timeout 30m ./mailer/outbox/bolt
const (
	// powerCuts is how many cuts the outbox has to live through.
	powerCuts = 100
	// looseCuts is how many are made without flushing the journal, files and their folder, to see
	// that a cut is one. Left out alone, the flush of the folder is not missed: ext4
	// flushes the name of a new file with the file.
	looseCuts = 20
)

// TestOutboxPowerCut: what was acknowledged is there after a power cut: messages that were
// accepted, with their contents, and those that were canceled.
func TestOutboxPowerCut(t *testing.T) {
	trial, large := outboxTrial, 0
	trial.Lost = func(t *testing.T, folder string, acknowledged []string) []string {
		for _, line := range acknowledged {
			if strings.HasPrefix(line, "large ") {
				large++
			}
		}
		return lostOutbox(t, folder, acknowledged)
	}
	trial.Keeps(t, powerCuts)
	if large < powerCuts {
		t.Errorf("only %d messages had files", large)
	}
}

// TestOutboxPowerCutLoose: the same, but for the flushes of large contents and of the journal.
func TestOutboxPowerCutLoose(t *testing.T) { outboxTrial.Loses(t, looseCuts) }

var outboxTrial = disktest.Trial{Write: writeOutbox, Lost: lostOutbox, Busy: 40 * time.Millisecond}

// octetsOf makes the content of a message of its id.
func octetsOf(id string, large bool) string {
	n := 40
	if large {
		n = 5000
	}
	return strings.Repeat(fmt.Sprintf("%x\r\n", sha256.Sum256([]byte(id))), n)
}

// lostOutbox returns which of the acknowledged changes are not there.
func lostOutbox(t *testing.T, disk string, acknowledged []string) (lost []string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "found")
	copyFolder(t, filepath.Join(disk, "outbox"), folder)
	e, err := Open(folder, Options{Sealer: sealer()})
	if err != nil {
		return append(lost, err.Error())
	}
	for _, line := range acknowledged {
		kind, id, _ := strings.Cut(line, " ")
		switch kind {
		case "open":
			continue
		case "canceled":
			if m, err := e.Get(context.Background(), id); err != nil || m.State != outbox.StateCanceled {
				lost = append(lost, line)
			}
			continue
		}
		c, err := e.Content(context.Background(), id)
		if err != nil {
			lost = append(lost, fmt.Sprint(line, ": ", err))
			continue
		}
		if got, err := readAll(c); err != nil || got != octetsOf(id, kind == "large") {
			lost = append(lost, fmt.Sprint(line, ": ", len(got), " octets, ", err))
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if len(lost) == 0 {
		check(t, folder)
	}
	return lost
}

// writeOutbox accepts and cancels messages. Deliveries go on all the time. Loosely it does
// not flush large contents.
func writeOutbox(t *testing.T, folder string, loose bool, acknowledge func(...any)) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	e, err := open(filepath.Join(folder, "outbox"), Options{Sealer: sealer()}, func(e *Engine) {
		if loose {
			e.syncFile = func(*os.File) error { return nil }
			e.syncData = e.syncFile
			e.syncFolder = func(string) error { return nil }
		}
	})
	must(err)
	go func() {
		must(e.Run(context.Background(), handler{deliver: func(_ context.Context, m *outbox.Message, _ mailer.Content) outbox.Outcome {
			return outbox.Outcome{Verdict: outbox.Dead} // contents stay
		}}))
	}()
	go func() { // has the journals take turns all the time
		for {
			_, err := e.Stats(context.Background())
			must(err)
		}
	}()
	acknowledge("open")
	for n := 0; ; n++ {
		id := mailer.NewID()
		kind := []string{"small", "large"}[n%2]
		octets := octetsOf(id, kind == "large")
		m, c := letter("lab", octets)
		m.ID = id
		if n%3 == 0 {
			m.State, m.Due = outbox.StateScheduled, time.Now().Add(time.Hour)
		}
		must(e.Accept(t.Context(), m, c))
		acknowledge(kind, id)
		if n%6 == 0 {
			must(e.Change(t.Context(), id, func(m *outbox.Message) error { m.State = outbox.StateCanceled; return nil }))
			acknowledge("canceled", id)
		}
	}
}

// TestRealDisk: a disk that is full, or that nothing can be written to, loses nothing
// that was accepted, and nothing is sent twice.
func TestRealDisk(t *testing.T) {
	for name, trouble := range map[string]struct {
		begin, end func(d *disktest.Disk)
		full       bool
	}{
		"full":      {(*disktest.Disk).Fill, (*disktest.Disk).Empty, true},
		"read-only": {(*disktest.Disk).Fail, (*disktest.Disk).Mend, false}, // the engine lets go of it by itself
	} {
		t.Run(name, func(t *testing.T) {
			d := disktest.New(t, filepath.Join(t.TempDir(), "mounted"))
			b := &bench{TB: t, folder: filepath.Join(d.Dir, "outbox")}
			b.open(Options{})
			t.Cleanup(b.close)
			var r recorder
			gate := make(chan struct{})
			b.run(handler{window: 2, deliver: func(ctx context.Context, m *outbox.Message, c mailer.Content) outbox.Outcome {
				<-gate
				if _, err := readAll(c); err != nil {
					t.Error(err)
				}
				return r.deliver(ctx, m, c)
			}})
			var all []*outbox.Message
			for i := range 30 {
				all = append(all, b.accept([]string{"a", "b"}[i%2], strings.Repeat(small, 1+i%2*60)))
			}
			trouble.begin(d)
			refused := 0
			for n := 0; refused < 5; n++ {
				m, c := letter("a", large)
				switch err := b.e.Accept(t.Context(), m, c); {
				case err == nil && n < 1000: // into what is free within the file
					all = append(all, m)
				case errors.Is(err, outbox.ErrFull) == trouble.full && err != nil:
					refused++
				default:
					t.Fatal(err)
				}
			}
			close(gate)
			if trouble.full { // deliveries go on
				for _, m := range all {
					b.untilState(m.ID, outbox.StateSent)
				}
			} else {
				b.until("what is out is sent", func() bool { return r.count() >= 2 })
			}
			trouble.end(d)
			for _, m := range all {
				b.until("sent", func() bool {
					m, err := b.e.Get(t.Context(), m.ID)
					return err == nil && m.State == outbox.StateSent
				})
				if n := r.tries(m.ID); n != 1 {
					t.Errorf("sent %d times", n)
				}
			}
			b.until("accepts go on", func() bool {
				m, c := letter("a", small)
				return b.e.Accept(t.Context(), m, c) == nil
			})
			t.Logf("%d messages sent once", len(all))
		})
	}
}
