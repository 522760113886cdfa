package caddymodule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens"
)

// storageView is the storage as administrators see it.
type storageView struct {
	Storage string `json:"storage"`
	// Shared: other machines can reach it. Whether a folder is on a network file
	// system is not known.
	Shared bool `json:"shared"`
	// Findings are what the self-test has found the storage to lack; empty where
	// that is nothing, null while the test runs.
	Findings []string `json:"findings"`
	// TestedAt is when the self-test ended; null while it runs.
	TestedAt *time.Time  `json:"tested_at"`
	Probes   []probeView `json:"probes"`
	// Keys are the keys that seal, or have sealed, records. The first seals.
	Keys []keyUseView `json:"keys"`
	// Records is what the last pass over the records has found; null before the
	// first.
	Records *recordsView `json:"records"`
}

type probeView struct {
	Name         string  `json:"name"`
	Result       string  `json:"result"`
	Milliseconds float64 `json:"milliseconds"`
	Finding      string  `json:"finding,omitempty"`
}

type keyUseView struct {
	ID string `json:"id"`
	// Configured: it is one of the encryption keys.
	Configured bool `json:"configured"`
	// Records is how many records are sealed with it; null where it is not known
	// yet.
	Records *int `json:"records"`
	// Unneeded: no record needs it for certain. Never true of the first.
	Unneeded bool `json:"unneeded"`
}

type recordsView struct {
	CountedAt time.Time `json:"counted_at"`
	Rewrapped int       `json:"rewrapped"`
	Left      int       `json:"left"`
	Damaged   int       `json:"damaged"`
	Newer     int       `json:"newer"`
	Failures  int       `json:"failures"`
	Error     string    `json:"error,omitempty"`
}

// storageReport tells what is known of the storage and of the keys in use.
func (a *App) storageReport() storageView {
	_, local := a.storage.(*certmagic.FileStorage)
	v := storageView{Storage: describeStorage(a.storage), Shared: !local, Probes: []probeView{}, Keys: []keyUseView{}}
	if test := a.condition.test.Load(); test != nil {
		for _, p := range test.Probes {
			v.Probes = append(v.Probes, probeView{p.Name, string(p.Result), float64(p.Took.Microseconds()) / 1000, p.Finding})
		}
		if v.TestedAt = given(test.Ended); v.TestedAt != nil {
			v.Findings = append([]string{}, test.Findings()...)
		}
	}
	pass := a.condition.pass.Load()
	if pass != nil {
		u := pass.use
		v.Records = &recordsView{u.Ended, u.Rewrapped, u.Left, u.Damaged, u.Newer, u.Failures, ""}
		if pass.err != nil {
			v.Records.Error = pass.err.Error()
		}
	}
	v.Keys = a.keyUse(pass)
	return v
}

func (a *App) keyUse(pass *keyPass) []keyUseView {
	views := []keyUseView{}
	ring, err := a.keys()
	if err != nil {
		return views
	}
	counted := map[tokens.KeyID]int{}
	if pass != nil {
		counted = maps.Clone(pass.use.Records)
	}
	for i, id := range ring.IDs() {
		view := keyUseView{ID: id.String(), Configured: true}
		if n, ok := counted[id]; ok {
			view.Records, view.Unneeded = &n, i > 0 && pass.use.Unneeded(id)
		}
		delete(counted, id)
		views = append(views, view)
	}
	others := make([]keyUseView, 0, len(counted))
	for id, n := range counted {
		others = append(others, keyUseView{ID: id.String(), Records: &n})
	}
	slices.SortFunc(others, func(x, y keyUseView) int { return cmp.Compare(x.ID, y.ID) })
	return append(views, others...)
}

// describeStorage names a storage. Those of others may have a password in what
// they say of themselves: of them it is the type.
func describeStorage(s certmagic.Storage) string {
	if files, ok := s.(*certmagic.FileStorage); ok {
		return "files in " + files.Path
	}
	return fmt.Sprintf("%T", s)
}
