package caddymodule

import (
	"encoding/json"
	"net/http"
)

// maxImport is the largest import of settings, in octets.
const maxImport = 32 << 20

// changeRoutes are the calls of the administration that show and change what can be
// made at run time.
var changeRoutes = routes[*adminCall]{
	{http.MethodGet, "/providers", &adminCall{"viewer", serveList("providers", func(a admin, r *adminRequest, l listing) (any, string) {
		return anyList(a.providers(r.Context(), l))
	})}},
	{http.MethodPost, "/providers", &adminCall{"admin", serveCreate(kindProvider)}},
	{http.MethodGet, "/providers/{provider}", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		return serveShown(a, r, entryRef{kindProvider, r.provider}, changed{})
	}}},
	{http.MethodPut, "/providers/{provider}", &adminCall{"admin", serveEdit("put", kindProvider)}},
	{http.MethodPatch, "/providers/{provider}", &adminCall{"admin", serveEdit("patch", kindProvider)}},
	{http.MethodDelete, "/providers/{provider}", &adminCall{"admin", serveEdit("delete", kindProvider)}},

	{http.MethodGet, "/tenants", &adminCall{"viewer", serveList("tenants", func(a admin, r *adminRequest, l listing) (any, string) {
		return anyList(a.tenants(r.Context(), l))
	})}},
	{http.MethodPost, "/tenants", &adminCall{"admin", serveCreate(kindTenant)}},
	{http.MethodGet, "/tenants/{tenant}", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		return serveShown(a, r, entryRef{kindTenant, r.tenant}, changed{})
	}}},
	{http.MethodPut, "/tenants/{tenant}", &adminCall{"admin", serveEdit("put", kindTenant)}},
	{http.MethodPatch, "/tenants/{tenant}", &adminCall{"admin", serveEdit("patch", kindTenant)}},
	{http.MethodDelete, "/tenants/{tenant}", &adminCall{"admin", serveEdit("delete", kindTenant)}},

	{http.MethodGet, "/keys", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		return http.StatusOK, map[string]any{"keys": a.keys(r.Context())}, nil
	}}},
	{http.MethodPost, "/keys", &adminCall{"admin", serveCreate(kindKey)}},
	{http.MethodGet, "/keys/{key}", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		return serveShown(a, r, entryRef{kindKey, r.key}, changed{})
	}}},
	{http.MethodPut, "/keys/{key}", &adminCall{"admin", serveEdit("put", kindKey)}},
	{http.MethodPatch, "/keys/{key}", &adminCall{"admin", serveEdit("patch", kindKey)}},
	{http.MethodDelete, "/keys/{key}", &adminCall{"admin", serveEdit("delete", kindKey)}},

	{http.MethodGet, "/settings", &adminCall{"viewer", func(a admin, r *adminRequest) (int, any, error) {
		return http.StatusOK, a.exportSettings(r.Context()), nil
	}}},
	{http.MethodPost, "/settings", importCall},
	{http.MethodPost, "/settings/test", &adminCall{"admin", serveUnsavedTest}},

	{http.MethodGet, "/accounts", &adminCall{"viewer", serveList("accounts", func(a admin, r *adminRequest, l listing) (any, string) {
		return anyList(a.accounts(r.Context(), l))
	})}},
}

// anyList lets a list of any type be passed on.
func anyList[T any](list []T, next string) (any, string) { return list, next }

// serveList serves a page of a list, and says how to ask for the next one.
func serveList(name string, list func(admin, *adminRequest, listing) (any, string)) func(admin, *adminRequest) (int, any, error) {
	return func(a admin, r *adminRequest) (int, any, error) {
		l, err := readListing(r.URL.Query())
		if err != nil {
			return 0, nil, err
		}
		items, next := list(a, r, l)
		answer := map[string]any{name: items}
		if next != "" {
			answer["next"] = next
		}
		return http.StatusOK, answer, nil
	}
}

// serveShown answers with what is in force now.
func serveShown(a admin, r *adminRequest, ref entryRef, done changed) (status int, answer any, err error) {
	status = http.StatusOK
	if done.created {
		status = http.StatusCreated
	}
	switch ref.kind {
	case kindProvider:
		answer, err = a.provider(r.Context(), ref.name)
	case kindTenant:
		answer, err = a.tenant(r.Context(), ref.name)
	case kindKey:
		var v keyView
		v, err = a.key(r.Context(), ref.name)
		v.Key = done.key
		answer = v
	}
	return status, answer, err
}

// serveCreate makes something whose name is in the body, beside its settings.
func serveCreate(kind entryKind) func(admin, *adminRequest) (int, any, error) {
	return func(a admin, r *adminRequest) (int, any, error) {
		name, settings, err := takeName(r.body)
		if err != nil {
			return 0, nil, err
		}
		ref := entryRef{kind, name}
		*map[entryKind]*string{kindProvider: &r.provider, kindTenant: &r.tenant, kindKey: &r.key}[kind] = name
		done, err := a.edit(r.Context(), settingsEdit{how: "create", ref: ref, body: settings, by: r.by})
		if err != nil {
			return 0, nil, err
		}
		return serveShown(a, r, ref, done)
	}
}

// takeName takes the member `name` out of settings.
func takeName(body []byte) (name string, settings json.RawMessage, err error) {
	if err := checkMembers(body); err != nil {
		return "", nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return "", nil, badJSON("", "must be an object")
	}
	if json.Unmarshal(all["name"], &name) != nil || name == "" {
		return "", nil, missing("name")
	}
	delete(all, "name")
	settings, err = json.Marshal(all)
	return name, settings, err
}

// serveEdit changes or deletes something. The header If-Match names the revision that
// is meant.
func serveEdit(how string, kind entryKind) func(admin, *adminRequest) (int, any, error) {
	return func(a admin, r *adminRequest) (int, any, error) {
		ref := entryRef{kind, map[entryKind]string{kindProvider: r.provider, kindTenant: r.tenant, kindKey: r.key}[kind]}
		c := settingsEdit{
			how: how, ref: ref, body: r.body, by: r.by,
			revision: r.Header.Get("If-Match"), force: r.URL.Query().Get("force") == "true",
		}
		if how == "delete" {
			if err := r.settings(nil); err != nil {
				return 0, nil, err
			}
		}
		done, err := a.edit(r.Context(), c)
		if err != nil {
			return 0, nil, err
		}
		if how == "delete" {
			answer := map[string]any{"name": ref.name, "deleted": true}
			if len(done.disconnected) > 0 {
				answer["disconnected"] = done.disconnected
			}
			return http.StatusOK, answer, nil
		}
		return serveShown(a, r, ref, done)
	}
}

// importCall takes settings that were exported.
var importCall = &adminCall{"admin", serveImport}
