//go:build !windows

// On Windows a file that is open stays where it is.

package bolt

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/outbox"
)

// TestTakenAway: while the database is not in its folder any more, nothing is accepted,
// and what was accepted before goes on.
func TestTakenAway(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(*testing.T, string){
		"removed": func(*testing.T, string) {},
		"replaced": func(t *testing.T, file string) {
			if err := os.WriteFile(file, []byte("another"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log logged
			b := newBench(t, Options{Logger: log.logger()})
			before := b.accept("lab", small)
			file := filepath.Join(b.folder, databaseFile)
			if err := os.Rename(file, file+".away"); err != nil {
				t.Fatal(err)
			}
			replace(t, file)
			for range 3 {
				m, c := letter("lab", small)
				err := b.e.Accept(t.Context(), m, c)
				if err == nil || errors.Is(err, outbox.ErrFull) || !strings.Contains(err.Error(), "no longer in its folder") {
					t.Errorf("accept: %v", err)
				}
				if _, err := b.e.Get(t.Context(), m.ID); !errors.Is(err, outbox.ErrNotFound) {
					t.Errorf("what was refused: %v", err)
				}
			}
			b.run(handler{})
			b.untilState(before.ID, outbox.StateSent)
			if n := log.count("removed or replaced while it was open"); n != 1 {
				t.Errorf("%d lines in the log", n)
			}
			if err := os.Rename(file+".away", file); err != nil {
				t.Fatal(err)
			}
			b.untilState(b.accept("lab", small).ID, outbox.StateSent)
			if n := log.count("back in its place"); n != 1 {
				t.Errorf("%d lines in the log", n)
			}
		})
	}
}

// TestTakenAwayIdle: it is noticed when nobody sends, too; and another file is not
// taken for the database when that must be opened again.
func TestTakenAwayIdle(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, b *bench) {
		var log logged
		b.reopenWith(Options{Logger: log.logger()})
		file := filepath.Join(b.folder, databaseFile)
		octets, err := os.ReadFile(file)
		if err := errors.Join(err, os.Rename(file, file+".away"), os.WriteFile(file, octets, 0o600)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(longestSleep + time.Second)
		synctest.Wait()
		if n := log.count("removed or replaced while it was open"); n != 1 {
			t.Errorf("%d lines in the log", n)
		}
		b.plug.set(func() { b.plug.err = errIO })
		if err := b.e.SetLane(context.Background(), "lab", outbox.Lane{State: outbox.LanePaused}); !errors.Is(err, errIO) {
			t.Errorf("on a bad disk: %v", err)
		}
		b.plug.set(func() { b.plug.err = nil })
		time.Sleep(2 * calmTime)
		if err := b.e.SetLane(context.Background(), "lab", outbox.Lane{State: outbox.LanePaused}); err == nil || !strings.Contains(err.Error(), "another file") {
			t.Errorf("on another file: %v", err)
		}
		if err := os.Rename(file+".away", file); err != nil {
			t.Fatal(err)
		}
		if err := b.e.SetLane(context.Background(), "lab", outbox.Lane{State: outbox.LanePaused}); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("when it is back: %v", err)
		}
	})
}
