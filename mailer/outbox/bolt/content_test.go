package bolt

import (
	"os"
	"strings"
	"testing"
)

// TestInlineShares: a content of middle size is in the database, as long as those on
// their way there leave room; and what it has taken of that it gives back.
func TestInlineShares(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{})
	middle := strings.Repeat(small, 100<<10/len(small)+1)
	inFile := func(octets string) bool {
		t.Helper()
		m := b.accept("lab", octets)
		_, err := os.Stat(b.e.contentFile(m.ID))
		c, cerr := b.e.Content(t.Context(), m.ID)
		if cerr != nil {
			t.Fatal(cerr)
		}
		if got, err := readAll(c); err != nil || got != octets {
			t.Errorf("%d octets, %v", len(got), err)
		}
		return err == nil
	}
	for _, tt := range []struct {
		name   string
		octets string
		others int64
		want   bool
	}{
		{"small", small, sharedInline, false},
		{"middle", middle, sharedInline - int64(len(middle)), false},
		{"middle, and no room", middle, sharedInline - int64(len(middle)) + 1, true},
		{"large", large, 0, true},
	} {
		b.e.inline.Store(tt.others)
		if got := inFile(tt.octets); got != tt.want {
			t.Errorf("%s: in a file: %v", tt.name, got)
		}
		if n := b.e.inline.Load(); n != tt.others {
			t.Errorf("%s: %d octets are on their way, not %d", tt.name, n, tt.others)
		}
	}
}
