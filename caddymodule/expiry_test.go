package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// ending is a provider whose credentials end at the given times.
func ending(name string, ends ...*time.Time) func() map[string]*provider {
	p := &provider{name: name}
	for i, at := range ends {
		p.credentials = append(p.credentials, credential{
			Credential: tokens.Credential{Name: fmt.Sprintf("client_secret %d", i+1)},
			expires:    func() time.Time { return *at },
		})
	}
	return func() map[string]*provider { return map[string]*provider{name: p} }
}

// TestExpiryWarnings: at each stage, once, though configurations come and go; a
// new credential begins anew.
func TestExpiryWarnings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		end, never := start.Add(61*day+time.Hour), time.Time{}
		var told []string
		notes := new(expiryNotes)
		run := func(d time.Duration) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				expiryWatch{ending("m365", &end, &never), notes, func(e expiry, left time.Duration) {
					told = append(told, fmt.Sprintf("day %d: %s of %s, %d left", time.Since(start)/day, e.Credential, e.Provider, left/day))
				}}.run(ctx)
			}()
			time.Sleep(d)
			cancel()
			<-done
		}
		run(40*day + time.Minute)
		run(time.Minute) // a reload
		run(25 * day)
		end = start.Add(85 * day) // replaced, while in use
		run(25 * day)
		want := []string{
			"day 2: client_secret 1 of m365, 59 left",
			"day 32: client_secret 1 of m365, 29 left",
			"day 55: client_secret 1 of m365, 6 left",
			"day 61: client_secret 1 of m365, 0 left",
			"day 62: client_secret 1 of m365, 0 left",
			"day 65: client_secret 1 of m365, 19 left",
			"day 78: client_secret 1 of m365, 6 left",
			"day 84: client_secret 1 of m365, 0 left",
			"day 85: client_secret 1 of m365, 0 left",
		}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// TestExpiryStage: the borders.
func TestExpiryStage(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		left time.Duration
		want int
	}{
		{61 * day, -1},
		{60*day + 1, -1},
		{60 * day, 0},
		{30*day + 1, 0},
		{30 * day, 1},
		{7*day + 1, 1},
		{7 * day, 2},
		{day + 1, 2},
		{day, 3},
		{1, 3},
		{0, 4},
		{-1000 * day, 4},
	} {
		if got := (expiry{At: now.Add(tt.left)}).stage(now); got != tt.want {
			t.Errorf("%s left: stage %d, want %d", tt.left, got, tt.want)
		}
	}
}

// TestExpiryLog: an end is an error, what comes before a warning, and both say
// which setting it is.
func TestExpiryLog(t *testing.T) {
	t.Parallel()
	log := new(lockedBuffer)
	a := &App{logger: slog.New(slog.NewTextHandler(log, nil))}
	e := expiry{"m365", "client_secret 2", time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC)}
	a.credentialExpires(e, 6*day+time.Hour)
	a.credentialExpires(e, 0)
	for _, want := range []string{
		`level=WARN msg="a client's credential will expire`, "days_left=6", "provider=m365", `credential="client_secret 2"`, "expires=2027-06-30",
		`level=ERROR msg="a client's credential has reached its end`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in\n%s", want, log)
		}
	}
}

// TestSoonestExpiry: what administrators are shown.
func TestSoonestExpiry(t *testing.T) {
	t.Parallel()
	late, soon, never := time.Date(2028, 6, 30, 0, 0, 0, 0, time.UTC), time.Date(2027, 6, 30, 0, 0, 0, 0, time.UTC), time.Time{}
	if got := ending("p", &late, &never, &soon)()["p"].expires(); !got.Equal(soon) {
		t.Errorf("got %s", got)
	}
	if got := ending("p", &never)()["p"].expires(); !got.IsZero() {
		t.Errorf("got %s", got)
	}
}
