package caddymodule

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// settingsEvery is how often an instance looks for what others have changed.
const settingsEvery = 2 * time.Second

// settledWait is how long a request waits for the storage's settings after a start.
const settledWait = 5 * time.Second

func (a *App) settingsStore() *settingsStore {
	return &settingsStore{storage: durable(a.storage), keys: a.keys}
}

// provisionSettings builds the first snapshot. What this process has read of the
// storage before, under another configuration, is in it: requests may come as soon as
// the first app starts. The storage itself is left alone.
func (a *App) provisionSettings() (*snapshot, error) {
	a.sources = make(chan []*tokens.Source, 1)
	a.settled = make(chan struct{})
	var err error
	if a.saved, err = a.holdings.settings(storageName(a.storage)); err != nil {
		return nil, err
	}
	s := a.file
	if entries, known := a.saved.entries(); known && len(entries) > 0 {
		s = layer(a.file, a.file, entries)
		if err := a.attach(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// startSettings reads the storage's settings. A storage that does not answer keeps no
// server from starting: what was known stays in force, and it is asked again.
func (a *App) startSettings() {
	if err := a.saved.refresh(context.Background(), a.settingsStore()); err != nil {
		_, known := a.saved.entries()
		a.logger.Error("the settings that were made at run time cannot be read; it goes on trying",
			"error", err, "known_from_before", known)
	}
	a.putInForce()
	a.warnProblems(nil, a.registry.load())
}

// followSettings puts in force what other instances change.
func (a *App) followSettings(ctx context.Context) {
	tick := time.NewTicker(settingsEvery)
	defer tick.Stop()
	complaint := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		said := ""
		if err := a.saved.refresh(ctx, a.settingsStore()); err != nil && ctx.Err() == nil {
			said = err.Error()
		}
		if said != "" && said != complaint {
			a.logger.Warn("looking for settings that others have changed", "error", said)
		}
		complaint = said
		a.putInForce()
	}
}

// endSettings keeps changes from being put in force from now on.
func (a *App) endSettings() {
	a.changing.Lock()
	defer a.changing.Unlock()
	a.ended = true
}

// putInForce puts the newest settings in force that are known, unless they are already.
// What they do not change goes on undisturbed, sends under way included.
func (a *App) putInForce() {
	a.changing.Lock()
	defer a.changing.Unlock()
	entries, _ := a.saved.entries()
	before := a.registry.load()
	if a.ended || sameEntries(entries, before.entries) {
		return
	}
	next := layer(a.file, before, entries)
	if err := a.attach(next); err != nil {
		a.logger.Error("putting changed settings in force", "error", err)
		return
	}
	a.registry.current.Store(next)
	a.holdings.begin()
	a.holdings.retain(next)
	select { // only the newest list counts
	case <-a.sources:
	default:
	}
	a.sources <- next.sources()
	a.warnProblems(before, next)
	if a.stop == nil {
		return // the rest is done when all starts
	}
	a.expiryWatch().look(time.Now())
	if a.engine != nil && a.loading.done() {
		go a.guarded(func() { a.openChanged(context.Background(), before) })
	}
}

// sameEntries reports whether the entries are the very same.
func sameEntries(x, y map[entryRef]*entry) bool { return maps.Equal(x, y) }

// warnProblems tells of what was made at run time and is not in force.
func (a *App) warnProblems(before, now *snapshot) {
	for _, ref := range slices.SortedFunc(maps.Keys(now.problems), entryRef.compare) {
		if before == nil || before.problems[ref] != now.problems[ref] {
			a.logger.Warn("a setting that was made at run time is not in force", string(ref.kind), ref.name, "problem", now.problems[ref])
		}
	}
}

// snapshot returns the one in force. Right after a start it waits until the storage's
// settings are there, or could not be read.
func (a *App) snapshot(ctx context.Context) *snapshot {
	if a.settled != nil {
		select {
		case <-a.settled:
		default:
			wait := time.NewTimer(settledWait)
			defer wait.Stop()
			select {
			case <-a.settled:
			case <-wait.C:
			case <-ctx.Done():
			}
		}
	}
	return a.registry.load()
}
