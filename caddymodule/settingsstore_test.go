package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

func settingsStoreOf(t *testing.T, storage tokens.Storage, key byte) *settingsStore {
	t.Helper()
	ring, err := tokens.NewKeyRing(bytes.Repeat([]byte{key}, tokens.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return &settingsStore{storage: storage, keys: func() (*tokens.KeyRing, error) { return ring, nil }}
}

// put is a change that makes one tenant.
func putTenant(name, settings string) settingsChange {
	return func(map[entryRef]*entry) (map[entryRef]*entry, error) {
		ref := entryRef{kindTenant, name}
		return map[entryRef]*entry{ref: {entryRef: ref, settings: json.RawMessage(settings)}}, nil
	}
}

// TestSettingsOfTwoInstances: two instances that change settings at the same time lose
// none of them, and both see all. What has not changed stays the very same.
func TestSettingsOfTwoInstances(t *testing.T) {
	t.Parallel()
	const changes = 40
	storage := tokenstest.NewStorage()
	store := settingsStoreOf(t, storage, 1)
	instances := []*savedSettings{new(savedSettings), new(savedSettings)}
	var group sync.WaitGroup
	for i, v := range instances {
		group.Go(func() {
			for n := range changes {
				if _, err := v.change(t.Context(), store, "ops", putTenant(fmt.Sprintf("tenant-%d-%d", i, n), `{}`)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for i, v := range instances {
		if err := v.refresh(t.Context(), store); err != nil {
			t.Fatal(err)
		}
		if all, known := v.entries(); !known || len(all) != 2*changes {
			t.Errorf("instance %d has %d entries, want %d", i, len(all), 2*changes)
		}
	}
	before, _ := instances[1].entries()
	if _, err := instances[0].change(t.Context(), store, "ops", putTenant("tenant-0-0", `{"warm":true}`)); err != nil {
		t.Fatal(err)
	}
	if err := instances[1].refresh(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	after, _ := instances[1].entries()
	for ref, e := range after {
		if changed := ref.name == "tenant-0-0"; (before[ref] != e) != changed || changed && e.revision <= before[ref].revision {
			t.Errorf("%s: changed %v", ref, before[ref] != e)
		}
	}
	loads := storage.Count(tokenstest.OpLoad)
	if err := instances[1].refresh(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if n := storage.Count(tokenstest.OpLoad) - loads; n != 1 {
		t.Errorf("%d loads where nothing has changed", n)
	}
}

// TestSettingsThatFail: what the storage does not take is not in force, and what it
// does not show stays as it was.
func TestSettingsThatFail(t *testing.T) {
	t.Parallel()
	storage := tokenstest.NewStorage()
	store := settingsStoreOf(t, storage, 1)
	v := new(savedSettings)
	if _, err := v.change(t.Context(), store, "ops", putTenant("a", `{}`)); err != nil {
		t.Fatal(err)
	}
	down := errors.New("the storage is down")
	storage.Hook(func(context.Context, tokenstest.Op, string) error { return down })
	if _, err := v.change(t.Context(), store, "ops", putTenant("b", `{}`)); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
	if err := v.refresh(t.Context(), store); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
	if all, _ := v.entries(); len(all) != 1 {
		t.Errorf("%d entries", len(all))
	}
	storage.Hook(nil)

	// An instance that ends between the two records has changed nothing that anybody saw.
	storage.Hook(func(_ context.Context, op tokenstest.Op, key string) error {
		if op == tokenstest.OpStore && key == headKey {
			return down
		}
		return nil
	})
	if _, err := v.change(t.Context(), store, "ops", putTenant("c", `{}`)); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
	storage.Hook(nil)
	if _, err := v.change(t.Context(), store, "ops", putTenant("c", `{"warm":true}`)); err != nil {
		t.Error(err)
	}
	other := new(savedSettings)
	if err := other.refresh(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	all, _ := other.entries()
	if e := all[entryRef{kindTenant, "c"}]; len(all) != 2 || e == nil || string(e.settings) != `{"warm":true}` {
		t.Errorf("%v", all)
	}

	// Another key opens nothing, and damages nothing.
	if _, err := new(savedSettings).change(t.Context(), settingsStoreOf(t, storage, 2), "ops", putTenant("d", `{}`)); !errors.Is(err, tokens.ErrUnknownKey) {
		t.Errorf("error %v", err)
	}
	if err := v.refresh(t.Context(), store); err != nil {
		t.Error(err)
	}
	for _, key := range []string{headKey, entryRef{kindTenant, "c"}.shard().key()} {
		if sealed := string(storage.Get(key)); sealed == "" || strings.Contains(sealed, "warm") {
			t.Errorf("%s is not sealed", key)
		}
	}
}

// TestSettingsUnderAnotherKey: settings follow a new key, so that the old one can be
// dropped.
func TestSettingsUnderAnotherKey(t *testing.T) {
	t.Parallel()
	storage := tokenstest.NewStorage()
	v, old := new(savedSettings), settingsStoreOf(t, storage, 1)
	for _, name := range []string{"a", "b", "c"} {
		if _, err := v.change(t.Context(), old, "ops", putTenant(name, `{}`)); err != nil {
			t.Fatal(err)
		}
	}
	both, err := tokens.NewKeyRing(bytes.Repeat([]byte{2}, tokens.KeySize), bytes.Repeat([]byte{1}, tokens.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	counts, err := v.reseal(t.Context(), &settingsStore{storage: storage, keys: func() (*tokens.KeyRing, error) { return both, nil }})
	if err != nil || len(counts) != 1 || counts[both.IDs()[0]] < 2 {
		t.Errorf("%v, %v", counts, err)
	}
	fresh := new(savedSettings)
	if err := fresh.refresh(t.Context(), settingsStoreOf(t, storage, 2)); err != nil {
		t.Fatal(err)
	}
	if all, _ := fresh.entries(); len(all) != 3 {
		t.Errorf("%d entries", len(all))
	}
	if counts, err := new(savedSettings).reseal(t.Context(), settingsStoreOf(t, tokenstest.NewStorage(), 1)); err != nil || len(counts) != 0 {
		t.Errorf("nothing stored: %v, %v", counts, err)
	}
}

// TestListing: pages go through all names, each once.
func TestListing(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 450 {
		names = append(names, fmt.Sprintf("tenant-%03d", i))
	}
	seen, pages := 0, 0
	for l := (listing{}); ; {
		page, next := l.page(names)
		for _, name := range page {
			if name != names[seen] {
				t.Fatalf("%s, want %s", name, names[seen])
			}
			seen++
		}
		if pages++; next == "" {
			break
		}
		l.after = next
	}
	if seen != len(names) || pages != 3 {
		t.Errorf("%d names in %d pages", seen, pages)
	}
	if page, next := (listing{search: "44", limit: 1}).page(names); len(page) != 1 || next != "tenant-044" {
		t.Errorf("%v, then %q", page, next)
	}
}
