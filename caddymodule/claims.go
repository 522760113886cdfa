package caddymodule

import "slices"

// claims are what the configurations that have started want of something that outlives
// them, the newest last. A configuration is known by a pointer to a K. They have no lock.
type claims[K, T any] []*claim[K, T]

type claim[K, T any] struct {
	by   *K
	want T
	// loaded is set when the other apps of the configuration have started, too.
	loaded bool
}

// add adds a claim, or changes the one that a configuration has.
func (c *claims[K, T]) add(by *K, want T) {
	for _, x := range *c {
		if x.by == by {
			x.want = want
			return
		}
	}
	*c = append(*c, &claim[K, T]{by: by, want: want})
}

// load notes that the other apps of a configuration have started, too.
func (c claims[K, T]) load(by *K) {
	for _, x := range c {
		if x.by == by {
			x.loaded = true
		}
	}
}

// withdraw removes those of a configuration that ends. If it is the newest, since another
// part of it could not start, the one before is in force again.
func (c *claims[K, T]) withdraw(by *K) {
	*c = slices.DeleteFunc(*c, func(x *claim[K, T]) bool { return x.by == by })
}

// newest is the newest claim; nil for none.
func (c claims[K, T]) newest() *claim[K, T] {
	if len(c) == 0 {
		return nil
	}
	return c[len(c)-1]
}

// newestLoaded is the newest claim of a configuration whose apps have all started; nil
// for none.
func (c claims[K, T]) newestLoaded() *claim[K, T] {
	for _, x := range slices.Backward(c) {
		if x.loaded {
			return x
		}
	}
	return nil
}
