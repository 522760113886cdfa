package caddymodule

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// route is one call: a method, a path whose segments in braces are parameters,
// and what serves it.
type route[H any] struct {
	method  string
	pattern string
	handle  H
}

// routes are the calls of an endpoint. http.ServeMux is not used: it redirects,
// and cannot tell an unknown path, which is passed on, from a wrong method.
type routes[H any] []route[H]

// find returns the handler for a request and the values of its parameters.
// Where the path is known and the method is not, it returns the methods that
// are; where the path is not known, neither.
func (rs routes[H]) find(method, cleaned string) (handle H, params map[string]string, allowed []string) {
	if method == http.MethodHead {
		method = http.MethodGet // the server leaves the body out
	}
	for _, r := range rs {
		p, ok := matchPattern(r.pattern, cleaned)
		if !ok {
			continue
		}
		if r.method == method {
			return r.handle, p, nil
		}
		allowed = append(allowed, r.method)
	}
	slices.Sort(allowed)
	return handle, nil, allowed
}

func matchPattern(pattern, cleaned string) (map[string]string, bool) {
	want, got := strings.Split(pattern, "/"), strings.Split(cleaned, "/")
	if len(want) != len(got) {
		return nil, false
	}
	params := make(map[string]string)
	for i, w := range want {
		if name, ok := strings.CutPrefix(w, "{"); ok {
			if got[i] == "" {
				return nil, false
			}
			params[strings.TrimSuffix(name, "}")] = got[i]
		} else if w != got[i] {
			return nil, false
		}
	}
	return params, true
}

// calledPath returns the path that a client asked for, also where the site has taken a
// prefix away, and cleaned as cleanPath does.
func calledPath(r *http.Request) string {
	if called, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		r = &called
	}
	return cleanPath(r)
}

// cleanPath returns the request's path without empty, "." and ".." segments:
// SDKs whose base URL ends in a slash ask for //emails. A slash at the end stays,
// as it does in Caddy's own matchers: to them it is another path.
func cleanPath(r *http.Request) string {
	cleaned := path.Clean("/" + r.URL.Path)
	if strings.HasSuffix(r.URL.Path, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned
}
