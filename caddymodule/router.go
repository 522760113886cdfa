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

// matchPattern reports whether a path is of a pattern, and returns the values of its
// parameters; nil for none.
func matchPattern(pattern, cleaned string) (params map[string]string, ok bool) {
	for more := true; more; {
		var want, got string
		var further bool
		want, pattern, more = strings.Cut(pattern, "/")
		if got, cleaned, further = strings.Cut(cleaned, "/"); further != more {
			return nil, false
		}
		name, isParam := strings.CutPrefix(want, "{")
		switch {
		case !isParam && want != got, isParam && got == "":
			return nil, false
		case isParam && params == nil:
			params = make(map[string]string)
		}
		if isParam {
			params[strings.TrimSuffix(name, "}")] = got
		}
	}
	return params, true
}

// calledPath returns the path that a client asked for, also where the site has taken a
// prefix away, and cleaned as cleanPath does.
func calledPath(r *http.Request) string {
	if called, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return clean(called.URL.Path)
	}
	return cleanPath(r)
}

// cleanPath returns the request's path without empty, "." and ".." segments:
// SDKs whose base URL ends in a slash ask for //emails. A slash at the end stays,
// as it does in Caddy's own matchers: to them it is another path.
func cleanPath(r *http.Request) string { return clean(r.URL.Path) }

func clean(called string) string {
	if !strings.HasPrefix(called, "/") {
		called = "/" + called
	}
	p := path.Clean(called)
	if strings.HasSuffix(called, "/") && p != "/" {
		p += "/"
	}
	return p
}
