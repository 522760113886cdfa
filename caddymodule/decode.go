package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxMembers is the most that an object may have: more than any SDK knows, and
// little enough to go through.
const maxMembers = 200

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
	if t, err := dec.Token(); errors.Is(err, io.EOF) {
		return badJSON(path, "is empty")
	} else if err != nil || t != json.Delim('{') {
		return badJSON(path, "must be an object")
	}
	seen := make(map[string]bool) // by lower case
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return brokenJSON(path, err)
		}
		name := t.(string) // the decoder lets nothing else pass here
		if len(seen) >= maxMembers {
			return badJSON(path, fmt.Sprintf("has more than %d members", maxMembers))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return brokenJSON(join(path, name), err)
		}
		folded := strings.ToLower(name)
		if seen[folded] {
			return badJSON(join(path, name), "comes twice")
		}
		seen[folded] = true
		decode, ok := known[name]
		if !ok && known[folded] != nil {
			return badJSON(join(path, name), "must be written `"+folded+"`")
		}
		if string(value) == "null" {
			continue // as good as absent
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
		return brokenJSON(path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badJSON(path, "is followed by something else")
	}
	return nil
}

// brokenJSON is a document that is no JSON, as the decoder says.
func brokenJSON(path string, err error) error {
	if _, ok := errors.AsType[*json.SyntaxError](err); ok && !strings.HasPrefix(err.Error(), "unexpected end") {
		return badJSON(path, "is no JSON: "+err.Error())
	}
	return badJSON(path, "ends too early: it was cut, or a quote or a bracket is not closed")
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

// decodeList reads a JSON list of at most the given length, one item after the
// other: a list of millions costs no more than one that is full.
func decodeList(raw []byte, path string, most int, item decoder) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return badJSON(path, "must be a list")
	}
	for i := 0; dec.More(); i++ {
		if i == most {
			return invalid(path, "too_many", "there are more than %d", most)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return brokenJSON(path, err)
		}
		if err := item(fmt.Sprintf("%s[%d]", path, i), value); err != nil {
			return err
		}
	}
	return nil
}

// decodeText reads a string.
func decodeText(s *string) decoder {
	return func(path string, raw json.RawMessage) error {
		if err := json.Unmarshal(raw, s); err != nil {
			return badJSON(path, "must be a string")
		}
		return nil
	}
}

// checkText refuses what encoding/json would replace in silence: octets that are
// no UTF-8, and halves of surrogate pairs.
func checkText(body []byte) error {
	if !utf8.Valid(body) {
		return badJSON("", "is not in UTF-8")
	}
	for rest := body; ; {
		i := bytes.IndexByte(rest, '\\')
		if i < 0 || i+1 >= len(rest) {
			return nil
		}
		rest = rest[i:]
		high, escape := surrogate(rest)
		switch {
		case !escape:
			rest = rest[2:]
			continue
		case high:
			rest = rest[6:]
			if nextHigh, next := surrogate(rest); next && !nextHigh {
				rest = rest[6:]
				continue
			}
		}
		return badJSON("", "has half of a surrogate pair")
	}
}

// surrogate reports whether b begins with the escape of a surrogate, and whether
// of a high one, which comes first.
func surrogate(b []byte) (high, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' || b[2]|0x20 != 'd' {
		return false, false
	}
	switch c := b[3] | 0x20; {
	case c == '8' || c == '9' || c == 'a' || c == 'b':
		return true, true
	case c >= 'c' && c <= 'f':
		return false, true
	}
	return false, false
}
