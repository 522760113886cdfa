package caddymodule

import (
	"strings"
)

// literal takes true, false or null.
func (r *jsonReader) literal(word string) error {
	if !r.need(len(word)) || string(r.buf[r.pos:r.pos+len(word)]) != word {
		return r.broken()
	}
	r.pos += len(word)
	return nil
}

// boolean reads true or false.
func (r *jsonReader) boolean() (bool, error) {
	switch r.peek() {
	case 't':
		return true, r.literal("true")
	case 'f':
		return false, r.literal("false")
	case 0:
		return false, r.broken()
	}
	return false, r.wrong("must be true or false")
}

// number reads a number as it is written.
func (r *jsonReader) number() (string, error) {
	r.peek()
	r.text = r.text[:0]
	digits := func() bool {
		n := 0
		for r.need(1) && '0' <= r.buf[r.pos] && r.buf[r.pos] <= '9' {
			r.keep(r.buf[r.pos])
			n++
		}
		return n > 0
	}
	one := func(any string) bool {
		if r.need(1) && strings.IndexByte(any, r.buf[r.pos]) >= 0 {
			r.keep(r.buf[r.pos])
			return true
		}
		return false
	}
	one("-")
	ok := one("0") || digits()
	if ok && one(".") {
		ok = digits()
	}
	if ok && one("eE") {
		one("+-")
		ok = digits()
	}
	if !ok {
		return "", r.broken()
	}
	return string(r.text), nil
}

// keep takes an octet of a number. Of one that is absurdly long the rest is dropped.
func (r *jsonReader) keep(c byte) {
	r.pos++
	if len(r.text) < maxShort {
		r.text = append(r.text, c)
	}
}

// skip reads any value and keeps nothing of it.
func (r *jsonReader) skip() error {
	switch c := r.peek(); c {
	case '"':
		r.pos++
		return r.skipString()
	case '{':
		return r.skipObject()
	case '[':
		return r.list(endless, r.skip)
	case 't':
		return r.literal("true")
	case 'f':
		return r.literal("false")
	case 'n':
		return r.literal("null")
	default:
		_, err := r.number()
		return err
	}
}
