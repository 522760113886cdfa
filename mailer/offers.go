package mailer

import (
	"strings"
	"unique"
)

// offers are the lines in which a server says what it offers (RFC 5321, section
// 4.1.1.1): keywords in capitals, and their parameters as they are. What very many
// connections have in common is kept once, as long as one has the handle.
type offers struct{ lines unique.Handle[string] }

func newOffers(lines []string) offers {
	var b strings.Builder
	for _, line := range lines {
		word, params, _ := strings.Cut(line, " ")
		b.WriteString(strings.ToUpper(word) + " " + params + "\n")
	}
	return offers{unique.Make(b.String())}
}

// of returns the parameters of a keyword, of the last line that has it.
func (o offers) of(keyword string) (params string, ok bool) {
	if o == (offers{}) {
		return "", false
	}
	for line := range strings.SplitSeq(o.lines.Value(), "\n") {
		if word, rest, _ := strings.Cut(line, " "); word == keyword && line != "" {
			params, ok = rest, true
		}
	}
	return params, ok
}
