package tokens

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var revealed = cmp.Comparer(func(a, b Secret) bool { return a.Reveal() == b.Reveal() })

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)
	for name, want := range map[string]*Token{
		"full": {
			Account: Account{"m365", "Ärger@example.com"}, Registration: "hash", Generation: 7,
			AccessToken: NewSecret("a"), RefreshToken: NewSecret("r"), PreviousRefreshToken: NewSecret("p"), Imported: "digest",
			Scopes:       []string{"x", "y"},
			Identity:     Identity{"iss", "sub", "tid", "oid", []string{"n@example.com"}},
			AuthorizedAt: at, AuthorizedBy: "ops", IssuedAt: at.Add(time.Hour), Expiry: at.Add(2 * time.Hour),
			Revoked: true, Failure: &Failure{at, "needs_person", "invalid_grant", "ended", "bad_token", []int{700082}, "trace", "correlation"},
		},
		"empty": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := encodeToken(want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeToken(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, revealed, cmpopts.IgnoreUnexported(Token{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRecordVersions(t *testing.T) {
	t.Parallel()
	if _, err := decodeToken([]byte(`{"version":2,"access_token":{"new":"shape"}}`)); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("newer record with another shape: %v", err)
	}
	if _, err := decodeToken([]byte(`{"expiry":1,"version":2}`)); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("newer record with another shape of a time: %v", err)
	}
	if _, err := decodeToken([]byte(`{"version":2}`)); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("newer record: %v", err)
	}
	if _, err := decodeToken([]byte(`{"access_token":1,"refresh_token":"canary"`)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("broken record: %v", err)
	}
}

func TestDueAndUsable(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		life, due, usable time.Duration // after the issue
	}{
		{10 * time.Second, 5 * time.Second, 9 * time.Second},
		{60 * time.Second, 30 * time.Second, 54 * time.Second},
		{4 * time.Minute, 2 * time.Minute, 216 * time.Second},
		{5 * time.Minute, 225 * time.Second, 270 * time.Second},
		{10 * time.Minute, 450 * time.Second, 9 * time.Minute},
		{time.Hour, 45 * time.Minute, 59 * time.Minute},
		{90 * time.Minute, 75 * time.Minute, 89 * time.Minute},
		{24 * time.Hour, 23*time.Hour + 45*time.Minute, 23*time.Hour + 59*time.Minute},
	} {
		t.Run(test.life.String(), func(t *testing.T) {
			t.Parallel()
			token := &Token{AccessToken: NewSecret("a"), IssuedAt: start, Expiry: start.Add(test.life)}
			if got := token.due().Sub(start); got != test.due {
				t.Errorf("due after %v, want %v", got, test.due)
			}
			for _, at := range []struct {
				after         time.Duration
				fresh, usable bool
			}{
				{-2 * time.Minute, false, true}, // by a clock that is ahead
				{-time.Second, true, true},
				{0, true, true},
				{test.due - 1, true, true},
				{test.due, false, true},
				{test.usable - 1, false, true},
				{test.usable, false, false},
				{test.life, false, false},
			} {
				now := start.Add(at.after)
				if token.fresh(now, 0) != at.fresh || token.usable(now) != at.usable {
					t.Errorf("after %v: fresh %v, usable %v; want %v, %v", at.after, token.fresh(now, 0), token.usable(now), at.fresh, at.usable)
				}
			}
			dead := *token
			dead.Revoked = true
			if dead.usable(start) {
				t.Error("usable though revoked")
			}
		})
	}
	if (*Token)(nil).usable(start) || (&Token{Expiry: start.Add(time.Hour)}).usable(start) {
		t.Error("no token is usable")
	}
}

func TestNewerThan(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	// Each tells more than the one before.
	order := []*Token{
		{AuthorizedAt: at, Generation: 8},
		{AuthorizedAt: at, Generation: 8, Revoked: true},
		{AuthorizedAt: at, Generation: 9},
		{AuthorizedAt: at, Generation: 9, Revoked: true},
		{AuthorizedAt: at.Add(time.Hour), Generation: 1},
		{AuthorizedAt: at.Add(time.Hour), Generation: 1, Revoked: true},
	}
	for i, a := range order {
		for j, b := range order {
			if got := a.newerThan(b); got != (i > j) {
				t.Errorf("%d newer than %d: %v", i, j, got)
			}
			if a.supersedes(b) && !a.newerThan(b) {
				t.Errorf("%d supersedes %d and is not newer", i, j)
			}
		}
	}
	if order[1].supersedes(order[0]) {
		t.Error("a mark supersedes a token")
	}
}

func TestAccountKeys(t *testing.T) {
	t.Parallel()
	a := Account{"m365", "noreply@example.com"}
	for name, test := range map[string]struct {
		other Account
		same  bool
	}{
		"same":           {Account{"m365", "noreply@example.com"}, true},
		"case":           {Account{"m365", "NoReply@Example.com"}, true},
		"provider":       {Account{"m366", "noreply@example.com"}, false},
		"provider case":  {Account{"M365", "noreply@example.com"}, false},
		"moved boundary": {Account{"m365n", "oreply@example.com"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := a.storageKey() == test.other.storageKey(); got != test.same {
				t.Errorf("same key: %v", got)
			}
			if got := a.lockName() == test.other.lockName(); got != test.same {
				t.Errorf("same lock: %v", got)
			}
		})
	}
}
