package caddymodule

import (
	"bytes"
	"maps"
	"slices"
)

// decoder reads the value of a field.
type decoder func(r *jsonReader) error

// fields are the fields that an object may have.
type fields map[string]decoder

// decodeObject reads a JSON object that has no others than the given fields; why says
// what is wrong with others.
func decodeObject(body []byte, known fields, why string) error {
	var r jsonReader
	r.reset(bytes.NewReader(body))
	order := names(slices.Sorted(maps.Keys(known)))
	if err := r.enter('{'); err != nil {
		return err
	}
	var m members
	for {
		i, name, more, err := r.next(&m, order)
		switch {
		case err != nil:
			return err
		case !more:
			return r.finish()
		case i < 0:
			return invalid(r.place(), "unsupported", "%s", why)
		}
		if err := known[name](&r); err != nil {
			return err
		}
	}
}

// decodeText reads a string.
func decodeText(s *string) decoder {
	return func(r *jsonReader) (err error) {
		*s, err = r.string()
		return err
	}
}
