package caddymodule

import (
	"bytes"
	"strings"
	"testing"
	"testing/iotest"
)

// TestBrokenJSON: what is no JSON is told with its place, however it arrives.
func TestBrokenJSON(t *testing.T) {
	t.Parallel()
	const early = "ends too early: it was cut, or a quote or a bracket is not closed."
	far := `{"subject":"` + strings.Repeat("x", 3*jsonBuffer) + `","to":`
	for body, want := range map[string]string{
		"":                        "The body is empty.",
		" \n":                     "The body is empty.",
		`{`:                       "The body " + early,
		`{"to":`:                  "The field `to` " + early,
		`{"subject":"x`:           "The field `subject` " + early,
		far + `["a@example.net"`:  "The field `to` " + early,
		`{to:"a@example.net"}`:    "The body is no JSON: octet 2 (`t`) cannot stand there.",
		`{'to':"a@example.net"}`:  "The body is no JSON: octet 2 (`'`) cannot stand there.",
		`{"to":"a@example.net",}`: "The body is no JSON: octet 23 (`}`) cannot stand there.",
		`{"to" "a@example.net"}`:  "The field `to` is no JSON: octet 7 (`\"`) cannot stand there.",
		"{\"to\"\u00a0:1}":        "The field `to` is no JSON: octet 6 (0xc2) cannot stand there.",
		"{\"subject\":\"a\nb\"}":  "The field `subject` is no JSON: octet 14 is a line break or another control character, which is escaped in a string.",
		far + `["a@example.net"}`: "The field `to` is no JSON: octet 49188 (`}`) cannot stand there.",
		`{"To":"a@example.net"}`:  "The field `To` must be written `to`.",
		`{"to":"a@example.net","subject":"x","text":"x"} {}`: "The body is followed by something else.",
		`["a@example.net"]`: "The body must be an object.",
	} {
		for name, read := range map[string]func() error{
			"whole": func() error { _, err := parseEmail([]byte(body), true); return err },
			"octet for octet": func() error {
				r := newEmailReader(iotest.OneByteReader(bytes.NewReader([]byte(body))), nil, true)
				defer r.giveBack()
				_, err := r.document()
				return err
			},
		} {
			err := read()
			if err == nil {
				t.Errorf("%.50q: accepted", body)
			} else if got := toProblem(err).message; got != want {
				t.Errorf("%.50q, %s: %q, want %q", body, name, got, want)
			}
		}
	}
}

// TestBrokenSettings: the same of what administrators send.
func TestBrokenSettings(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"":              "The body is empty.",
		`{"name":"a"`:   "The body ends too early: it was cut, or a quote or a bracket is not closed.",
		`{"name":}`:     "The field `name` is no JSON: invalid character '}'",
		`{name:"a"}`:    "The body is no JSON: invalid character 'n'",
		`{"Name":"a"}`:  "The field `Name` must be written `name`.",
		`{"name":"a"}1`: "The body is followed by something else.",
	} {
		err := decodeObject([]byte(body), "", fields{"name": decodeText(new(string))}, nil)
		if err == nil {
			t.Errorf("%s: accepted", body)
		} else if got := toProblem(err).message; !strings.HasPrefix(got, want) { // the rest is encoding/json's
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}
