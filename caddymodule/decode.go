package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// decoder reads the value of a field. Path names it for errors.
type decoder func(path string, raw json.RawMessage) error

// fields are the fields that an object may have.
type fields map[string]decoder

// decodeObject reads a JSON object strictly: a field that comes twice, or in
// another case, is an error. encoding/json lets the last one win, so that what
// one program checked is not what another sends. Fields that are not known go
// to other.
func decodeObject(raw []byte, path string, known fields, other func(path, name string, raw json.RawMessage) error) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return badJSON(path, "must be an object")
	}
	seen := make(map[string]bool)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return badJSON(path, "is cut or broken")
		}
		name := t.(string) // the decoder lets nothing else pass here
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return badJSON(join(path, name), "is cut or broken")
		}
		folded := strings.ToLower(name)
		if seen[folded] {
			return badJSON(join(path, name), "comes twice")
		}
		seen[folded] = true
		decode, ok := known[name]
		if !ok && known[folded] != nil {
			return badJSON(join(path, name), "must be written "+folded)
		}
		if !ok {
			err = other(join(path, name), name, value)
		} else {
			err = decode(join(path, name), value)
		}
		if err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return badJSON(path, "is cut or broken")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badJSON(path, "is followed by something else")
	}
	return nil
}

func join(path, name string) string {
	if len(name) > 100 {
		name = name[:100]
	}
	name = strings.ToValidUTF8(name, "")
	if path == "" {
		return name
	}
	return path + "." + name
}

// decodeInto reads a value into a variable. null leaves it as it is.
func decodeInto[T any](v *T) decoder {
	return func(path string, raw json.RawMessage) error {
		if err := json.Unmarshal(raw, v); err != nil {
			if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
				return badJSON(path, "must be "+wanted(wrongType))
			}
			return badJSON(path, err.Error())
		}
		return nil
	}
}

func wanted(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "string":
		return "a string"
	case "slice":
		return "a string or a list of strings"
	}
	return e.Type.String()
}

// stringList is a JSON string or a list of strings.
type stringList []string

func (l *stringList) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*l = stringList{s}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(l))
}
