package mailer

import (
	"strconv"
	"strings"
	"unique"
)

// offers are the lines in which a server says what it offers (RFC 5321, section
// 4.1.1.1). What very many connections have in common is kept once, as long as one has
// the handle.
type offers struct{ handle unique.Handle[offered] }

// offered is what every message asks for, and the lines: keywords in capitals, and their
// parameters as they are.
type offered struct {
	lines string

	pipelining, chunking, size, smtputf8, eightBit, requireTLS, dsn bool
	// maxSize is the largest message that the server takes, or 0 where it does not
	// say (RFC 1870, section 3).
	maxSize int64
}

func newOffers(lines []string) offers {
	var b strings.Builder
	for _, line := range lines {
		word, params, _ := strings.Cut(line, " ")
		b.WriteString(strings.ToUpper(word) + " " + params + "\n")
	}
	o := offered{lines: b.String()}
	o.pipelining, o.chunking = o.has("PIPELINING"), o.has("CHUNKING")
	o.smtputf8, o.eightBit = o.has("SMTPUTF8"), o.has("8BITMIME")
	o.requireTLS, o.dsn = o.has("REQUIRETLS"), o.has("DSN")
	var most string
	most, o.size = o.of("SIZE")
	if n, err := strconv.ParseInt(strings.TrimSpace(most), 10, 64); err == nil && n > 0 {
		o.maxSize = n
	}
	return offers{handle: unique.Make(o)}
}

// all returns them; nothing where nobody has asked.
func (o offers) all() offered {
	if o == (offers{}) {
		return offered{}
	}
	return o.handle.Value()
}

func (o offered) has(keyword string) bool {
	_, ok := o.of(keyword)
	return ok
}

// of returns the parameters of a keyword, of the last line that has it.
func (o offered) of(keyword string) (params string, ok bool) {
	for line := range strings.SplitSeq(o.lines, "\n") {
		if word, rest, _ := strings.Cut(line, " "); word == keyword && line != "" {
			params, ok = rest, true
		}
	}
	return params, ok
}
