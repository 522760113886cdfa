package mailer

import "strings"

const (
	foldAt  = 78  // RFC 5322, section 2.1.1: should
	maxLine = 998 // the same: must
	// maxHeaderName leaves room for a first word beside the name.
	maxHeaderName = 76
)

// HeaderField is one field of a message's header that the caller adds.
type HeaderField struct {
	Name, Value string
}

// HeaderClass tells what a caller may do with a header field.
type HeaderClass int

// The classes of header fields.
const (
	// HeaderMalformed: the name is not one (RFC 5322, section 3.6.8).
	HeaderMalformed HeaderClass = iota
	// HeaderStructural: the field is made by the composer, or by servers on
	// the way, or is not known to be harmless.
	HeaderStructural
	// HeaderFree: callers may set it.
	HeaderFree
)

// ClassifyHeader tells what a caller may do with the field called name. Compose
// refuses what is not [HeaderFree]; who wants to drop structural fields with a
// warning asks here first.
func ClassifyHeader(name string) HeaderClass {
	if name == "" || len(name) > maxHeaderName || !isAlnum(name[0]) {
		return HeaderMalformed
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(c) && c != '-' && c != '_' {
			return HeaderMalformed
		}
	}
	lower := asciiLower(name)
	switch lower {
	case "message-id", "in-reply-to", "references",
		"auto-submitted", "precedence", "importance", "priority", "feedback-id":
		return HeaderFree
	}
	for _, prefix := range []string{"x-", "list-", "thread-"} {
		if len(lower) > len(prefix) && strings.HasPrefix(lower, prefix) {
			return HeaderFree
		}
	}
	return HeaderStructural
}

// isText reports whether the value of a free field is prose, which may be
// encoded (RFC 2047, section 5). In the others encoded words mean nothing.
func isText(name string) bool {
	lower := asciiLower(name)
	return lower == "list-id" || strings.HasPrefix(lower, "x-") || strings.HasPrefix(lower, "thread-")
}

// isRepeatable reports whether a free field may appear more than once.
func isRepeatable(name string) bool { return strings.HasPrefix(asciiLower(name), "x-") }

// field writes one header field, folded between its words.
type field struct {
	b    []byte
	line int  // where the current line starts
	any  bool // whether there is a word
	long bool // whether a line became longer than allowed
}

// startField appends the name of a field to b.
func startField(b []byte, name string) *field {
	f := &field{b: b, line: len(b)}
	f.b = append(append(f.b, name...), ':')
	return f
}

// room is how long the next word may be, after a space. The first one must fit
// beside the name, the others have a line to themselves if need be.
func (f *field) room() int {
	if f.any {
		return foldAt - 1
	}
	return foldAt - len(f.b) + f.line - 1
}

// word appends a space and s, which has no line break, on a new line if it does
// not fit. The first word always stands beside the name: a line of white space
// alone is not allowed.
func (f *field) word(s string) { f.spaced(" ", s) }

// spaced is word with another white space than one space, and the word in pieces.
func (f *field) spaced(space string, pieces ...string) {
	n := len(space)
	for _, s := range pieces {
		n += len(s)
	}
	if f.any && len(f.b)-f.line+n > foldAt {
		f.b = append(f.b, "\r\n"...)
		f.line = len(f.b)
	}
	f.any = true
	f.b = append(f.b, space...)
	for _, s := range pieces {
		f.b = append(f.b, s...)
	}
	f.long = f.long || len(f.b)-f.line > maxLine
}

// end appends the line break, and reports whether all lines are short enough.
func (f *field) end() (b []byte, ok bool) {
	return append(f.b, "\r\n"...), !f.long
}

// text appends unstructured text. Everything from the first to the last word
// that must be encoded is encoded, the white space between included, so that
// reading it gives back exactly s, less white space around it.
func (f *field) text(s string, encode func(word string) bool) {
	type token struct{ space, start, end int } // space is where its white space starts
	var few [16]token
	tokens := few[:0]
	s = trimWSP(s)
	for i := 0; i < len(s); {
		t := token{space: i}
		for s[i] == ' ' || s[i] == '\t' {
			i++
		}
		t.start = i
		for i < len(s) && s[i] != ' ' && s[i] != '\t' {
			i++
		}
		t.end = i
		tokens = append(tokens, t)
	}
	first, last := len(tokens), -1
	for i, t := range tokens {
		if encode(s[t.start:t.end]) {
			first, last = min(first, i), i
		}
	}
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		space := s[t.space:t.start]
		if i == 0 {
			space = " "
		}
		if i != first {
			f.spaced(space, s[t.start:t.end])
			continue
		}
		i = last
		for _, w := range encodeWords(s[t.start:tokens[last].end], f.room()+1-len(space)) {
			f.spaced(space, w)
			space = " "
		}
	}
}

// addresses appends a list of mailboxes.
func (f *field) addresses(list []Address) {
	for i, a := range list {
		opens, closes, comma := "", "", ""
		for _, w := range phraseWords(a.Name, f.room()) {
			f.word(w)
			opens, closes = "<", ">"
		}
		if i < len(list)-1 {
			comma = ","
		}
		local, at, domain := a.path()
		f.spaced(" ", opens, local, at, domain, closes, comma)
	}
}
