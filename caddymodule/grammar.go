package caddymodule

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// words are the subdirectives that a block knows.
type words map[string]word

// word is one subdirective. When parse is called, the dispenser stands on the
// word itself; parse takes all arguments and any block.
type word struct {
	parse func(*caddyfile.Dispenser) error
	// repeats allows the word more than once in a block.
	repeats bool
}

func single(parse func(*caddyfile.Dispenser) error) word { return word{parse: parse} }

func many(parse func(*caddyfile.Dispenser) error) word { return word{parse: parse, repeats: true} }

// parseBlock parses a block of subdirectives. Unknown and repeated ones are
// errors: a mistyped limit must not pass for one.
func parseBlock(d *caddyfile.Dispenser, w words) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		word, known := w[name]
		if !known {
			if len(w) == 0 {
				return d.Errf("unrecognized subdirective %s: none is taken here", name)
			}
			return d.Errf("unrecognized subdirective %s: must be one of %s",
				name, strings.Join(slices.Sorted(maps.Keys(w)), ", "))
		}
		if seen[name] && !word.repeats {
			return d.Errf("duplicate %s", name)
		}
		seen[name] = true
		if err := word.parse(d); err != nil {
			return err
		}
	}
	return nil
}

// unset is parse for a word that another block may have had: the blocks merge,
// and one of the values would be lost.
func unset(unset bool, parse func(*caddyfile.Dispenser) error) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if !unset {
			return d.Errf("duplicate %s: another oauth_mail block has it", d.Val())
		}
		return parse(d)
	}
}

// text takes one argument.
func text(s *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if !d.Args(s) || d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
}

// choice takes one argument out of a few.
func choice(s *string, choices ...string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		if err := text(s)(d); err != nil {
			return err
		}
		if !slices.Contains(choices, *s) {
			return d.Errf("unrecognized %s %s: must be one of %s", word, *s, strings.Join(choices, ", "))
		}
		return nil
	}
}

// list takes one argument or more.
func list(s *[]string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		*s = d.RemainingArgs()
		if len(*s) == 0 {
			return d.ArgErr()
		}
		return nil
	}
}

// pair takes a name and a value.
func pair(m *map[string]string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var name, value string
		word := d.Val()
		if !d.Args(&name, &value) || d.NextArg() {
			return d.ArgErr()
		}
		if _, taken := (*m)[name]; taken {
			return d.Errf("duplicate %s '%s'", word, name)
		}
		if *m == nil {
			*m = make(map[string]string)
		}
		(*m)[name] = value
		return nil
	}
}

// number takes a whole number above zero.
func number(n *int) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var s string
		word := d.Val()
		if err := text(&s)(d); err != nil {
			return err
		}
		v, err := strconv.Atoi(s)
		if err != nil || v < 1 {
			return d.Errf("bad %s value '%s': must be a whole number above zero", word, s)
		}
		*n = v
		return nil
	}
}

// positive takes a number above zero.
func positive(n *float64) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var s string
		word := d.Val()
		if err := text(&s)(d); err != nil {
			return err
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || !(v > 0) || math.IsInf(v, 0) {
			return d.Errf("bad %s value '%s': must be a number above zero", word, s)
		}
		*n = v
		return nil
	}
}

// duration takes a duration above zero.
func duration(t *caddy.Duration) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var s string
		word := d.Val()
		if err := text(&s)(d); err != nil {
			return err
		}
		v, err := caddy.ParseDuration(s)
		if err != nil || v <= 0 {
			return d.Errf("bad %s value '%s': must be a duration above zero, such as 15m", word, s)
		}
		*t = caddy.Duration(v)
		return nil
	}
}

// toggle takes no argument.
func toggle(b *bool) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if d.NextArg() {
			return d.ArgErr()
		}
		*b = true
		return nil
	}
}

// named takes a name and a block, and enters what the block says under the
// name.
func named[T any](m *map[string]*T, parse func(*caddyfile.Dispenser, *T) error) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		var name string
		word := d.Val()
		if !d.Args(&name) || d.NextArg() {
			return d.ArgErr()
		}
		if _, taken := (*m)[name]; taken {
			return d.Errf("duplicate %s '%s'", word, name)
		}
		if *m == nil {
			*m = make(map[string]*T)
		}
		(*m)[name] = new(T)
		return parse(d, (*m)[name])
	}
}
