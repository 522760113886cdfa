//go:build fleet

// Package fleet runs several processes on one file storage, against an
// authorization server that allows no mistake, with and without kill -9. It
// takes minutes:
//
//	go test -tags fleet -count=1 -timeout 10m ./caddymodule/fleet/...
//
// FLEET_REFRESHES, 10000 where it isn't set, is how many refreshes each test
// waits for; some 300 of them take a quarter of a minute.
package fleet

import (
	"os"
	"strconv"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(asInstance); plan != "" {
		os.Exit(runInstance(plan))
	}
	if os.Getenv(asCaddy) != "" {
		os.Exit(runCaddy())
	}
	os.Exit(m.Run())
}

// size is how large a run is.
type size struct {
	refreshes, accounts int
	// life is how long an access token lives. Half of it goes by between two
	// refreshes, which the refresher's tick rounds up to five seconds.
	life time.Duration
}

func sizeOf(t *testing.T) size {
	t.Helper()
	n := 10000
	if text := os.Getenv("FLEET_REFRESHES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 100 {
			t.Fatalf("FLEET_REFRESHES is %q, must be a number from 100", text)
		}
	}
	if n < 3000 {
		return size{refreshes: n, accounts: n / 2, life: 8 * time.Second}
	}
	return size{refreshes: n, accounts: n / 5, life: 40 * time.Second}
}
