package tokens

import (
	"bytes"
	"encoding/json"
)

// answer is what a token endpoint says, each member by itself: one that can't be
// read must not cost the others, since a token among them may be the only one
// that is left.
type answer map[string]json.RawMessage

// readAnswer reads the JSON object that a body begins with; nil for none. What
// comes before or after one that is whole is not looked at: a byte order mark,
// or a comment that a proxy has added.
func readAnswer(body []byte) answer {
	var a answer
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	if json.NewDecoder(bytes.NewReader(body)).Decode(&a) != nil {
		return nil
	}
	return a
}

// member returns a member; nil where it is missing or unreadable.
func (a answer) member(name string) (value any) {
	_ = json.Unmarshal(a[name], &value)
	return value
}

// text returns a member that is a string; empty for any other.
func (a answer) text(name string) string {
	s, _ := a.member(name).(string)
	return s
}
