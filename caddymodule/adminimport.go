package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// exported are settings that were made at run time, without secrets.
type exported struct {
	Format    int             `json:"format"`
	Providers []exportedEntry `json:"providers"`
	Tenants   []exportedEntry `json:"tenants"`
	Keys      []exportedEntry `json:"keys"`
}

type exportedEntry struct {
	Name     string          `json:"name"`
	Settings json.RawMessage `json:"settings"`
	// Secrets are the places of secrets that are set, and not exported.
	Secrets []string `json:"secrets,omitempty"`
}

// exportSettings returns all that was made at run time, without secrets.
func (a admin) exportSettings(ctx context.Context) exported {
	entries := a.app.snapshot(ctx).entries
	x := exported{Format: settingsFormat, Providers: []exportedEntry{}, Tenants: []exportedEntry{}, Keys: []exportedEntry{}}
	for _, ref := range slices.SortedFunc(maps.Keys(entries), entryRef.compare) {
		e := entries[ref]
		list := map[entryKind]*[]exportedEntry{kindProvider: &x.Providers, kindTenant: &x.Tenants, kindKey: &x.Keys}[ref.kind]
		*list = append(*list, exportedEntry{Name: ref.name, Settings: e.settings, Secrets: e.places()})
	}
	return x
}

// imported is what became of an import.
type imported struct {
	Created   []string `json:"created"`
	Changed   []string `json:"changed"`
	Unchanged int      `json:"unchanged"`
	// Keys are API keys that were made, by their names; they are shown this once.
	Keys map[string]string `json:"keys,omitempty"`
	// Problems are why something is not in force, where it may be incomplete.
	Problems map[string]string `json:"problems,omitempty"`
	// DryRun: nothing was changed.
	DryRun bool `json:"dry_run,omitempty"`
}

// importOptions say how to import.
type importOptions struct {
	dryRun bool
	// incomplete takes settings whose secrets are missing. They are not in force until
	// those are given.
	incomplete bool
}

// errDryRun ends a change that is only tried.
var errDryRun = errors.New("nothing was changed")

// importSettings makes and changes what an export names, all of it or nothing. Secrets
// may be added to it; those that are left out stay, as with any change. What it does not
// name stays, too.
func (a admin) importSettings(ctx context.Context, x exported, o importOptions, by string) (imported, error) {
	var done imported
	before := a.app.snapshot(ctx)
	entries, err := a.app.saved.change(ctx, a.app.settingsStore(), by, func(present map[entryRef]*entry) (map[entryRef]*entry, error) {
		done = imported{Created: []string{}, Changed: []string{}, Keys: make(map[string]string), DryRun: o.dryRun}
		edits := make(map[entryRef]*entry)
		for _, kind := range entryKinds {
			for _, item := range map[entryKind][]exportedEntry{kindProvider: x.Providers, kindTenant: x.Tenants, kindKey: x.Keys}[kind] {
				if err := a.importOne(entryRef{kind, item.Name}, item.Settings, present, edits, &done, o); err != nil {
					return nil, err
				}
			}
		}
		if err := a.app.checkEdits(present, edits, o.incomplete); err != nil {
			return nil, err
		}
		if o.dryRun {
			return nil, errDryRun
		}
		return edits, nil
	})
	if errors.Is(err, errDryRun) {
		clear(done.Keys) // they were not made
		return done, nil
	}
	if err != nil {
		return imported{}, settingsError(err)
	}
	a.app.putInForce()
	a.app.logger.Info("settings imported at run time", "created", len(done.Created), "changed", len(done.Changed), "by", by)
	a.disconnectUnused(ctx, before, by)
	done.Problems = make(map[string]string)
	for ref, problem := range a.app.registry.load().problems {
		if entries[ref] != nil {
			done.Problems[ref.String()] = problem
		}
	}
	return done, nil
}

// importOne reads one entry of an import.
func (a admin) importOne(ref entryRef, settings json.RawMessage, present, edits map[entryRef]*entry, done *imported, o importOptions) error {
	at := func(err error) error {
		if p, ok := errors.AsType[*problem](err); ok {
			named := *p
			named.message = ref.String() + ": " + p.message
			return &named
		}
		return err
	}
	switch {
	case ref.name == "":
		return missing("name")
	case edits[ref] != nil:
		return invalid(ref.String(), "unsupported", "comes twice")
	case a.app.file.fileHas(ref):
		return errReadOnly(ref)
	case len(settings) == 0:
		return at(missing("settings"))
	}
	old := present[ref]
	e, made, err := readEntry(ref, settings, old, o.incomplete)
	if err != nil {
		return at(err)
	}
	if old != nil && string(old.settings) == string(e.settings) && slices.Equal(old.secrets, e.secrets) {
		done.Unchanged++
		return nil
	}
	if made != "" {
		done.Keys[ref.name] = made
	}
	edits[ref] = e
	if old == nil {
		done.Created = append(done.Created, ref.String())
	} else {
		done.Changed = append(done.Changed, ref.String())
	}
	return nil
}

// serveImport serves an import.
func serveImport(a admin, r *adminRequest) (int, any, error) {
	var in struct {
		exported
		DryRun     bool `json:"dry_run"`
		Incomplete bool `json:"incomplete"`
	}
	if err := checkText(r.body); err != nil {
		return 0, nil, err
	}
	if err := decodeStruct(r.body, "", &in); err != nil {
		return 0, nil, err
	}
	if in.Format > settingsFormat {
		return 0, nil, &adminError{kind: adminInvalid, err: fmt.Errorf("format %d was written by a newer version of this plugin; update this instance", in.Format)}
	}
	v, err := a.importSettings(r.Context(), in.exported, importOptions{dryRun: in.DryRun, incomplete: in.Incomplete}, r.by)
	r.about = []any{"created", v.Created, "changed", v.Changed, "dry_run", in.DryRun}
	return http.StatusOK, v, err
}
