package caddymodule

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// keyView is a key as administrators see it: all but the key.
type keyView struct {
	Name   string `json:"name"`
	Origin origin `json:"origin"`
	// By is what is presented: "key", "user" or "nothing".
	By                string   `json:"by"`
	User              string   `json:"user,omitempty"`
	Tenant            string   `json:"tenant,omitempty"`
	Tenants           []string `json:"tenants,omitempty"`
	Scopes            []string `json:"scopes"`
	Senders           []string `json:"senders,omitempty"`
	AllowedRecipients []string `json:"allowed_recipients,omitempty"`
	// Messages in Window are the rate; zero for no limit.
	Messages  int        `json:"messages,omitempty"`
	Window    string     `json:"window,omitempty"`
	Networks  []string   `json:"networks,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// LastUsedAt is when it was last used since Caddy began.
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
	// Key is one that was made, and is shown this once.
	Key string `json:"key,omitempty"`
	runtimeView
}

// keys lists the keys by names.
func (a admin) keys(ctx context.Context) []keyView {
	s := a.app.snapshot(ctx)
	views := make([]keyView, 0, len(s.keys))
	for _, k := range s.allKeys() {
		views = append(views, viewKey(s, k, false))
	}
	for ref := range s.problems {
		if ref.kind == kindKey && s.keyNamed(ref.name) == nil {
			views = append(views, keyView{Name: ref.name, Origin: originRuntime, Scopes: []string{}, runtimeView: s.viewEntry(ref, false)})
		}
	}
	slices.SortFunc(views, func(x, y keyView) int { return cmp.Compare(x.Name, y.Name) })
	return views
}

// key shows one key, but for the key itself.
func (a admin) key(ctx context.Context, name string) (keyView, error) {
	s := a.app.snapshot(ctx)
	if k := s.keyNamed(name); k != nil {
		return viewKey(s, k, true), nil
	}
	ref := entryRef{kindKey, name}
	if s.entries[ref] == nil {
		return keyView{}, &adminError{kind: adminNotFound, err: fmt.Errorf("there is no key %q", name)}
	}
	return keyView{Name: name, Origin: originRuntime, Scopes: []string{}, runtimeView: s.viewEntry(ref, true)}, nil
}

// keyNamed finds a key by its name; nil for none.
func (s *snapshot) keyNamed(name string) *apiKey {
	for _, k := range s.allKeys() {
		if k.name == name {
			return k
		}
	}
	return nil
}

func viewKey(s *snapshot, k *apiKey, whole bool) keyView {
	v := keyView{
		Name: k.name, Origin: k.origin, By: "key", User: k.shown.User, Tenant: k.tenant, Tenants: k.tenants, Scopes: k.scopes,
		Senders: k.shown.Senders, AllowedRecipients: k.shown.AllowedRecipients, Messages: k.rate, Networks: k.shown.Networks,
		ExpiresAt: given(k.expires.UTC()), LastUsedAt: given(k.use.lastUsed().UTC()),
		runtimeView: s.viewEntry(entryRef{kindKey, k.name}, whole),
	}
	switch {
	case k.shown.User != "":
		v.By = "user"
	case k.shown.Unauthenticated:
		v.By = "nothing"
	}
	if len(v.Scopes) == 0 {
		v.Scopes = keyScopes
	}
	if k.rate > 0 {
		v.Window = k.window.String()
	}
	return v
}
