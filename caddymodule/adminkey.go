package caddymodule

import (
	"cmp"
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
}

func (a admin) keys() []keyView {
	all := a.app.registry.load().allKeys()
	slices.SortFunc(all, func(x, y *apiKey) int { return cmp.Compare(x.name, y.name) })
	views := make([]keyView, len(all))
	for i, k := range all {
		v := keyView{
			Name: k.name, Origin: k.origin, By: "key", User: k.shown.User, Tenant: k.tenant, Tenants: k.tenants, Scopes: k.scopes,
			Senders: k.shown.Senders, AllowedRecipients: k.shown.AllowedRecipients, Messages: k.rate, Networks: k.shown.Networks,
			ExpiresAt: given(k.expires.UTC()), LastUsedAt: given(k.use.lastUsed().UTC()),
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
		views[i] = v
	}
	return views
}
