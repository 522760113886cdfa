package caddymodule

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The number of items in a page of a list.
const (
	defaultListing = 200
	maxListing     = 1000
)

// listing says which page of a list is asked for. The zero value is the first one.
type listing struct {
	// after is the name that the page before ended with.
	after string
	limit int
	// search is a part of the names that are wanted, in lower case.
	search string
}

// readListing reads the query of a call that lists something.
func readListing(q url.Values) (listing, error) {
	for name := range q {
		if !slices.Contains([]string{"after", "limit", "search"}, name) {
			return listing{}, invalid(name, "unsupported", "this call does not know it")
		}
	}
	l := listing{after: q.Get("after"), search: strings.ToLower(q.Get("search"))}
	if limit := q.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 1 || n > maxListing {
			return l, invalid("limit", "unsupported", "must be a number from 1 to %d", maxListing)
		}
		l.limit = n
	}
	return l, nil
}

// page returns a part of names, which are sorted, and what to ask for next; empty at the
// end.
func (l listing) page(names []string) (page []string, next string) {
	if l.limit == 0 {
		l.limit = defaultListing
	}
	from, found := slices.BinarySearch(names, l.after)
	if found {
		from++
	}
	for _, name := range names[from:] {
		if l.search != "" && !strings.Contains(strings.ToLower(name), l.search) {
			continue
		}
		if len(page) == l.limit {
			return page, page[len(page)-1]
		}
		page = append(page, name)
	}
	return page, ""
}

// names are those of all providers or tenants, sorted, with those that are not in
// force.
func (s *snapshot) names(kind entryKind) []string {
	var names []string
	switch kind {
	case kindProvider:
		names = slices.AppendSeq(make([]string, 0, len(s.providers)), maps.Keys(s.providers))
	case kindTenant:
		names = slices.AppendSeq(make([]string, 0, len(s.tenants)), maps.Keys(s.tenants))
	case kindKey: // has a list of its own
	}
	for ref := range s.problems {
		if ref.kind == kind {
			names = append(names, ref.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
